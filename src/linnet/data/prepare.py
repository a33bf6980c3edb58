"""`linnet prepare`: a folder of recordings → manifests, with every duration measured and every bad file named."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linnet.audio import SAMPLE_RATE_HZ, audio_info, stream_audio
from linnet.data.corpora import aishell, av_list, common_voice, folder, grid, librispeech
from linnet.data.corpora.recording import Recording
from linnet.errors import AudioContentError, AudioNotFoundError, ConfigError, LanguageError, LinnetError
from linnet.manifest import Utterance, write_manifest
from linnet.text import language_code

# `auto` takes the first that matches; any folder matches the last.
CORPORA = {
    "librispeech": librispeech,
    "common_voice": common_voice,
    "aishell": aishell,
    "grid": grid,
    "av_list": av_list,
    "folder": folder,
}


@dataclass(frozen=True)
class PreparedManifest:
    """One manifest that was written."""

    path: Path
    split: str
    """"" if the corpus has no splits."""
    utterances: int
    with_text: int
    duration_s: float


@dataclass(frozen=True)
class Problem:
    """A recording that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` wrote and what it left out."""

    corpus: str
    manifests: tuple[PreparedManifest, ...]
    unreadable: tuple[Problem, ...]
    too_short: int
    too_long: int

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        report = asdict(self)
        for entry in (*report["manifests"], *report["unreadable"]):
            entry["path"] = str(entry["path"])
        return report

    def table(self) -> str:
        """The report as text, one manifest and one unreadable file per line."""
        lines = [
            f"{manifest.path}: {manifest.utterances} utterances, {manifest.with_text} with text, "
            f"{manifest.duration_s / 3600:.2f} h"
            for manifest in self.manifests
        ]
        if self.too_short or self.too_long:
            lines.append(f"left out: {self.too_short} too short, {self.too_long} too long")
        lines += [f"unreadable: {problem.path}: {problem.reason}" for problem in self.unreadable]
        return "\n".join(lines)


def prepare(
    source: str | Path,
    *,
    out: str | Path,
    corpus: str = "auto",
    language: str | None = None,
    min_duration_s: float = 0.1,
    max_duration_s: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Write manifests for the recordings under `source`; nothing there is changed.

    `corpus` is a name in CORPORA or "auto". `out` is a folder, which gets `<split>.jsonl` (`manifest.jsonl` without
    splits), or a name ending in .jsonl (`name.jsonl`, or `name.<split>.jsonl`). `language` (code or name) replaces
    what the corpus says. Recordings outside min…max_duration_s are left out and counted, unreadable ones are left out
    and named; `progress` is called with the recordings done and in all. Raises AudioNotFoundError if there is no such
    folder or nothing in it, AudioContentError if nothing in it can be used, ConfigError for a layout that is not
    there, ManifestError for a malformed transcript table.
    """
    source, out = Path(os.path.abspath(source)), Path(out)
    if not 0 <= min_duration_s < max_duration_s:
        raise ConfigError(
            f"Durations must satisfy 0 ≤ min < max, got min_duration_s={min_duration_s}, "
            f"max_duration_s={max_duration_s}."
        )
    forced_language = None if language is None else _language(language)
    name = _detect(source, corpus)
    recordings = list(CORPORA[name].recordings(source))
    if not recordings:
        raise AudioNotFoundError(
            f"There is no audio in {source} (read as {name}: {CORPORA[name].LAYOUT}); "
            "check the folder, and unpack archives in it first."
        )
    splits: dict[str, list[Utterance]] = {}
    problems: list[Problem] = []
    outside: Counter[str] = Counter()
    measured: dict[Path, float | Problem] = {}  # Common Voice lists a clip in two tables
    for done, recording in enumerate(recordings, start=1):
        path = recording.audio_path
        if path not in measured:
            measured[path] = _measure(recording)
            if isinstance(found := measured[path], Problem):
                problems.append(found)
        duration_s = measured[path]
        if isinstance(duration_s, float):
            if min_duration_s <= duration_s <= max_duration_s:
                kept = _utterance(recording, duration_s, name, forced_language)
                splits.setdefault(recording.split, []).append(kept)
            else:
                outside["short" if duration_s < min_duration_s else "long"] += 1
        if progress is not None:
            progress(done, len(recordings))
    if not splits:
        first = f" The first problem: {problems[0].reason}" if problems else ""
        raise AudioContentError(
            f"None of the {len(recordings)} recordings in {source} can be used: {len(problems)} unreadable, "
            f"{outside['short']} shorter than {min_duration_s:g} s, {outside['long']} longer than "
            f"{max_duration_s:g} s.{first}"
        )
    manifests = tuple(_write(out, split, utterances) for split, utterances in splits.items())
    return PrepareReport(name, manifests, tuple(problems), outside["short"], outside["long"])


def _detect(source: Path, corpus: str) -> str:
    if corpus != "auto" and corpus not in CORPORA:
        raise ConfigError(f"Unknown corpus {corpus!r}; accepted: auto, {', '.join(CORPORA)}.")
    if not source.exists():
        raise AudioNotFoundError(f"There is no folder {source}; check the name and the current folder.")
    if not source.is_dir():
        raise AudioNotFoundError(f"{source} is a file, not a folder of recordings; give the folder it is in.")
    if corpus == "auto":
        return next(name for name, reader in CORPORA.items() if reader.matches(source))
    if not CORPORA[corpus].matches(source):
        raise ConfigError(
            f"{source} does not look like {corpus}: expected {CORPORA[corpus].LAYOUT}. "
            "Give the folder that holds these, or use corpus 'folder'."
        )
    return corpus


def _measure(recording: Recording) -> float | Problem:
    """Duration in seconds, from the header or, where it does not tell, by decoding."""
    path = recording.audio_path
    if recording.problem:
        return Problem(path, recording.problem)
    try:
        duration_s = audio_info(path).duration_s
        if duration_s is None:
            duration_s = sum(block.size for block in stream_audio(path)) / SAMPLE_RATE_HZ
    except LinnetError as error:
        return Problem(path, str(error))
    if duration_s <= 0:
        return Problem(path, f"{path} has no samples (0.0 s); record it again or leave it out.")
    return float(duration_s)


def _utterance(recording: Recording, duration_s: float, corpus: str, language: str | None) -> Utterance:
    if language is None and recording.language is not None:
        try:
            language = language_code(recording.language)
        except LanguageError:
            language = recording.language  # a corpus may hold languages that Linnet has no name for
    return Utterance(
        audio_path=recording.audio_path,
        duration_s=round(duration_s, 4),
        text=recording.text,
        id=recording.id,
        speaker=recording.speaker,
        language=language,
        corpus=corpus,
        video_path=recording.video_path,
        extra=recording.extra,
    )


def _language(name: str) -> str:
    """The code of a language Linnet knows by name, or any other ISO code as it is; LanguageError for the rest."""
    try:
        return language_code(name)
    except LanguageError:
        if re.fullmatch("[a-z]{2,3}", name):
            return name
        raise


def _write(out: Path, split: str, utterances: list[Utterance]) -> PreparedManifest:
    if out.suffix == ".jsonl":
        path = out.with_name(f"{out.stem}.{split}.jsonl") if split else out
    else:
        path = out / f"{split or 'manifest'}.jsonl"
    write_manifest(path, utterances)
    return PreparedManifest(
        path=path,
        split=split,
        utterances=len(utterances),
        with_text=sum(utterance.text is not None for utterance in utterances),
        duration_s=sum(utterance.duration_s for utterance in utterances),
    )
