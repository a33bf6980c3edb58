"""Manifests: one JSON object per line, keys as in NVIDIA NeMo.

`audio_filepath` and `duration` are required; `text`, `video_filepath`, `id`, `speaker`, `language` and `corpus` are
optional; every other key is kept in `Utterance.extra` and written back unchanged. Paths in a manifest are relative to
the folder of the manifest (absolute ones are taken as they are), so a data folder can be moved as a whole.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linnet.errors import ManifestError

_KEYS = ("audio_filepath", "duration", "text", "video_filepath", "id", "speaker", "language", "corpus")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One line of a manifest."""

    audio_path: Path
    duration_s: float
    text: str | None = None
    """The reference as published (case and punctuation differ by corpus); None if the recording is unlabelled."""
    id: str = ""
    """Names the utterance in reports; the stem of the audio file if the manifest gives none. Need not be unique."""
    speaker: str | None = None
    language: str | None = None
    """ISO code; None if unknown (the manifest says nothing, or an empty string)."""
    corpus: str | None = None
    video_path: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.audio_path.stem)


def read_manifest(path: str | Path) -> list[Utterance]:
    """All utterances of a manifest in file order; blank lines are skipped.

    The audio files themselves are not opened. Raises ManifestError, with file:line where a line is to blame.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte-order mark in front
    except FileNotFoundError as error:
        raise ManifestError(f"There is no manifest at {path}; make one with `linnet prepare`.") from error
    except IsADirectoryError as error:
        raise ManifestError(f"{path} is a folder, not a manifest; make one of it with `linnet prepare`.") from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path} is not a manifest: not UTF-8 text ({error.reason} at byte {error.start})."
        ) from error
    except OSError as error:
        raise ManifestError(f"The manifest {path} cannot be read: {error.strerror or error}.") from error
    utterances = [
        _parse(line, path.parent, where=f"{path}:{number}")
        for number, line in enumerate(content.split("\n"), start=1)  # not splitlines: U+2028 may stand in a text
        if line.strip()
    ]
    if not utterances:
        raise ManifestError(f"The manifest {path} has no utterances; expected one JSON object per line.")
    return utterances


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest; audio and video below its folder get relative paths. An existing file is replaced whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another process may write the same manifest
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for utterance in utterances:
            file.write(json.dumps(_record(utterance, path.parent), ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(partial, path)


def _parse(line: str, folder: Path, *, where: str) -> Utterance:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{where}: not a JSON object ({error.msg} at column {error.colno}): {line.strip()[:60]!r}; "
            "expected one object per line, for example "
            '{"audio_filepath": "a.wav", "duration": 1.5, "text": "hello"}.'
        ) from error
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {type(record).__name__}: {line.strip()[:60]!r}.")
    audio = _text(record, "audio_filepath", where=where)
    if not audio:
        raise ManifestError(f"{where}: 'audio_filepath' is missing or empty; it must name the audio file.")
    video = _text(record, "video_filepath", where=where)
    duration = record.get("duration")
    # bool is an int in Python, and json.loads accepts NaN
    if isinstance(duration, bool) or not isinstance(duration, int | float) or not (0 < duration < math.inf):
        raise ManifestError(f"{where}: 'duration' must be a positive number of seconds, got {duration!r}.")
    return Utterance(
        audio_path=folder / audio,
        duration_s=float(duration),
        text=_text(record, "text", where=where),
        id=_text(record, "id", where=where) or "",
        speaker=_text(record, "speaker", where=where) or None,
        language=_text(record, "language", where=where) or None,
        corpus=_text(record, "corpus", where=where) or None,
        video_path=folder / video if video else None,
        extra={key: value for key, value in record.items() if key not in _KEYS},
    )


def _text(record: dict[str, Any], key: str, *, where: str) -> str | None:
    value = record.get(key)
    if key in ("id", "speaker") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # LibriSpeech-like corpora have numeric speakers
    if value is not None and not isinstance(value, str):
        raise ManifestError(f"{where}: {key!r} must be text, got {type(value).__name__}: {value!r}.")
    return value


def _record(utterance: Utterance, folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = {
        "audio_filepath": _relative(utterance.audio_path, folder),
        "duration": utterance.duration_s,
        "text": utterance.text,
        "video_filepath": None if utterance.video_path is None else _relative(utterance.video_path, folder),
        "id": utterance.id,
        "speaker": utterance.speaker,
        "language": utterance.language,
        "corpus": utterance.corpus,
    }
    clash = sorted(set(_KEYS) & set(utterance.extra))
    if clash:
        raise ManifestError(f"Utterance {utterance.id!r}: 'extra' must not hold the manifest's own keys, got {clash}.")
    return {key: value for key, value in record.items() if value is not None} | utterance.extra


def _relative(path: Path, folder: Path) -> str:
    """The path below the manifest's folder, with forward slashes; absolute if it lies elsewhere."""
    # abspath, not resolve: a link in the data folder stays the path that the user sees
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.as_posix()
