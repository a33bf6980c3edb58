"""`linnet transcribe`: recordings named by files, folders, globs or "-" → text on stdout or files in a folder.

What goes to stdout, everything else being on stderr:
- one recording named: its text, or the document in the format asked for;
- several, or a folder or glob: `path: text`, one line each, as grep does (other formats need --output-dir then);
- json: one line per recording, with the path and everything that is known;
- an output folder: the path of every file that was written. A file appears there when it is complete, so a run that
  was interrupted can be resumed: recordings whose file is there and is newer are passed over.

A recording that cannot be read is reported, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import glob
import json as jsonlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

from linnet.audio import audio_info
from linnet.containers import AUDIO_SUFFIXES, SPOOL_BYTES
from linnet.errors import AudioNotFoundError, ConfigError, LanguageError, LinnetError
from linnet.progress import ShowStage, stage_bar
from linnet.results import Transcription
from linnet.runtime.base import Progress, Recognizer
from linnet.writers import FORMATS, render

STDIN = "-"


def transcribe_files(
    inputs: Sequence[str],
    *,
    load: Callable[[], Recognizer],
    format: str = "txt",
    output_dir: Path | None = None,
    language: str | None = None,
    context: str = "",
    finish: Callable[[str | BinaryIO, Transcription], Transcription] | None = None,
    resume: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Transcribe all inputs and return the exit code: 0, or 1 if any of them failed.

    `load` opens the model, once there is something to transcribe. `finish` gets each recording and what was recognised
    in it, and returns what is written; a stream is then a file that can be read again. `resume` passes over recordings
    whose file in the output folder is newer than they are. Raises ConfigError for options that cannot work together
    and LanguageError; both concern every recording, so nothing goes on after them.
    """
    if format not in FORMATS:
        raise ConfigError(f"Unknown output format {format!r}; accepted: {', '.join(FORMATS)}.")
    if not inputs:
        raise ConfigError("Nothing to transcribe: name files, folders, globs, or - for standard input.")
    if resume and output_dir is None:
        raise ConfigError("--resume looks for finished files in the output folder: add --output-dir FOLDER.")
    several = len(inputs) > 1 or _stands_for_several(inputs[0])
    if several and format != "txt" and not json and output_dir is None:
        raise ConfigError(
            f"{format} documents of several recordings do not fit into one output. Add --output-dir FOLDER for one "
            "file each, or use --json instead for one JSON line each."
        )
    recordings: list[str] = []
    failures = 0
    for found in find_recordings(inputs):
        if isinstance(found, LinnetError):
            failures += 1
            _say(str(found))
        else:
            recordings.append(found)
    if not recordings:
        return 1
    targets = None if output_dir is None else _targets(recordings, output_dir, format)
    if resume and targets is not None:
        waiting = [not done for done in _finished(recordings, targets)]
        if not all(waiting):
            _say(f"{waiting.count(False)} of {len(waiting)} recordings are finished already")
        recordings, targets = list(compress(recordings, waiting)), list(compress(targets, waiting))
        if not recordings:
            return 1 if failures else 0
    recognizer = load()
    clock = _Clock(recordings, shown=not quiet and sys.stderr.isatty())
    try:
        for number, recording in enumerate(recordings):
            label = f"[{number + 1}/{len(recordings)}] {_name(recording)}" if several else _name(recording)
            try:
                with _opened(recording, twice=finish is not None) as audio:
                    with stage_bar(quiet=quiet) as show:
                        progress = clock.progress(label, number, show)
                        result = recognizer.transcribe(audio, language=language, context=context, progress=progress)
                    if finish is not None:
                        result = finish(audio, result)
            except (ConfigError, LanguageError):
                raise
            except Exception as error:  # whatever it is, hours of other recordings must not be lost to it
                failures += 1
                _report(recording, error)
                continue
            target = None if targets is None else targets[number]
            if target is not None:
                _write(target, render(result, format))
            if json:
                _answer(jsonlib.dumps(_record(recording, result, target), ensure_ascii=False) + "\n")
            elif target is not None:
                _answer(f"{target}\n")
            else:
                _answer((f"{_name(recording)}: " if several else "") + render(result, format))
    finally:
        recognizer.close()
    return 1 if failures else 0


def find_recordings(inputs: Sequence[str]) -> Iterator[str | LinnetError]:
    """The recordings that the inputs name, each once and in order, and an error in place of an input that names none.

    A folder stands for the audio files in it and below, sorted; hidden ones are left out. A glob (`**` reaches into
    subfolders) stands for the audio files and folders it matches, unless a file has that very name.
    """
    seen: set[str] = set()
    for given in inputs:
        found = _expand(given)
        if isinstance(found, LinnetError):
            yield found
            continue
        for recording in found:
            key = recording if recording == STDIN else os.path.realpath(recording)
            if key not in seen:
                seen.add(key)
                yield recording


def _expand(given: str) -> list[str] | LinnetError:
    if given == STDIN or os.path.isfile(given):
        return [given]
    if os.path.isdir(given):
        found = _walk(given)
        return found or AudioNotFoundError(
            f"There is no audio in the folder {given}. Looked for {_suffixes()}, subfolders included; a file with "
            "another ending has to be named itself."
        )
    if os.path.exists(given):  # a pipe or device, such as <(command) in a shell
        return [given]
    if not glob.has_magic(given):
        return AudioNotFoundError(f"There is no file {given}; check the name and the current folder.")
    matches = sorted(glob.glob(given, recursive=True))
    found = []
    for match in matches:
        found += _walk(match) if os.path.isdir(match) else [match] if _is_audio(match) else []
    state = f"matches {len(matches)} files, none of them audio ({_suffixes()})" if matches else "matches nothing"
    return found or AudioNotFoundError(f"The pattern {given} {state}; check it and the current folder.")


def _stands_for_several(given: str) -> bool:
    return os.path.isdir(given) or (glob.has_magic(given) and not os.path.exists(given))


def _walk(folder: str) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in files if not name.startswith(".") and _is_audio(name)]
    return sorted(found)


def _is_audio(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


def _suffixes() -> str:
    return " ".join(sorted(AUDIO_SUFFIXES))


def _targets(recordings: list[str], folder: Path, format: str) -> list[Path]:
    """One file per recording, `<stem>.<format>`; a stem that occurs again gets a number: talk.txt, talk-2.txt."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The output folder {folder} cannot be made: {error.strerror or error}.") from error
    suffix = ".json" if format == "verbose_json" else f".{format}"
    taken: set[str] = set()
    targets = []
    for recording in recordings:
        stem = name = "stdin" if recording == STDIN else Path(recording).stem
        number = 1
        while name.casefold() in taken:  # some file systems do not tell Talk from talk
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        targets.append(folder / (name + suffix))
    return targets


def _finished(recordings: list[str], targets: list[Path]) -> list[bool]:
    """For each recording, whether its file is there and newer than it.

    Where several recordings share a stem, the number in a file's name depends on what else is transcribed: these are
    never called finished.
    """
    stems = Counter(_name(recording) if recording == STDIN else Path(recording).stem for recording in recordings)
    finished = []
    for recording, target in zip(recordings, targets, strict=True):
        alone = recording != STDIN and stems[Path(recording).stem] == 1 and target.stem == Path(recording).stem
        try:
            finished.append(alone and os.stat(target).st_mtime_ns >= os.stat(recording).st_mtime_ns)
        except OSError:
            finished.append(False)
    return finished


class _Clock:
    """How long a batch will take, from the lengths in the headers of its files and the time that went by."""

    def __init__(self, recordings: list[str], *, shown: bool) -> None:
        several = shown and len(recordings) > 1
        self._durations_s = [_duration_s(recording) for recording in recordings] if several else []
        self._started = time.monotonic()

    def progress(self, label: str, number: int, show: ShowStage) -> Progress:
        """What the recogniser of recording `number` calls: the bar gets the label and the time that is left."""
        return lambda done_s, total_s: show(label + self.time_left(number, done_s), done_s, total_s)

    def time_left(self, number: int, done_s: float) -> str:
        """ " · 12 min left in all", once `done_s` of recording `number` are done; nothing for a single recording."""
        done_s += sum(self._durations_s[:number])
        left_s = sum(self._durations_s) - done_s  # below 0 if there are no lengths
        if done_s <= 0 or left_s <= 0:
            return ""
        wait_s = (time.monotonic() - self._started) * left_s / done_s
        return f" · {wait_s / 60:.0f} min left in all" if wait_s >= 90 else f" · {wait_s:.0f} s left in all"


def _duration_s(recording: str) -> float:
    """What the header says; 0 if it says nothing."""
    if not os.path.isfile(recording):
        return 0.0
    try:
        return audio_info(recording).duration_s or 0.0
    except LinnetError:
        return 0.0


def _write(target: Path, document: str) -> None:
    """The file appears under its name when it is complete, so that a resumed run can trust it."""
    try:
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(document, encoding="utf-8", newline="\n")
        os.replace(partial, target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}.") from error


@contextmanager
def _opened(recording: str, *, twice: bool = False) -> Iterator[str | BinaryIO]:
    """A file's path; a pipe as the open stream, or as a copy of it if it is to be read twice."""
    if twice and not os.path.isfile(recording):
        with _opened(recording) as stream, tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            assert not isinstance(stream, str)
            shutil.copyfileobj(stream, spool)
            spool.seek(0)
            yield spool  # type: ignore[misc] # it has all methods of BinaryIO
        return
    if recording == STDIN:
        if sys.stdin.isatty():
            raise AudioNotFoundError("Nothing is piped into standard input; for example: linnet transcribe - < a.wav")
        yield sys.stdin.buffer
    elif os.path.isfile(recording):
        yield recording
    else:
        with open(recording, "rb") as stream:
            yield stream


def _record(recording: str, result: Transcription, target: Path | None) -> dict[str, Any]:
    spent_s = result.processing_s
    rtf = None if spent_s is None or result.duration_s <= 0 else round(spent_s / result.duration_s, 4)
    record = {"path": _name(recording), **result.to_dict(), "rtf": rtf}
    return record if target is None else record | {"output": str(target)}


def _name(recording: str) -> str:
    return "stdin" if recording == STDIN else recording


def _report(recording: str, error: Exception) -> None:
    if isinstance(error, LinnetError):
        message = str(error)
        _say(message if _name(recording) in message else f"{_name(recording)}: {message}")
    else:
        _say(f"{_name(recording)}: not transcribed because of an unexpected error; please report it.")
        traceback.print_exception(error)


def _say(message: str) -> None:
    sys.stderr.write(f"linnet transcribe: {message}\n")


def _answer(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()  # whoever reads along sees each result when it is there
