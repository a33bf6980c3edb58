"""`linnet transcribe`: recordings named by files, folders, globs or "-" → text on stdout or files in a folder.

What goes to stdout, everything else being on stderr:
- one recording named: its text, or the document in the format asked for;
- several, or a folder or glob: `path: text`, one line each, as grep does (other formats need --output-dir then);
- json: one line per recording, with the path and everything that is known;
- an output folder: the path of every file that was written.

A recording that cannot be read is reported, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import glob
import json as jsonlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from linnet.containers import AUDIO_SUFFIXES
from linnet.errors import AudioNotFoundError, ConfigError, LanguageError, LinnetError
from linnet.progress import task_bar
from linnet.results import Transcription
from linnet.runtime.base import Recognizer
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
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Transcribe all inputs and return the exit code: 0, or 1 if any of them failed.

    `load` opens the model, once there is something to transcribe. Raises ConfigError for options that cannot work
    together and LanguageError; both concern every recording, so nothing goes on after them.
    """
    if format not in FORMATS:
        raise ConfigError(f"Unknown output format {format!r}; accepted: {', '.join(FORMATS)}.")
    if not inputs:
        raise ConfigError("Nothing to transcribe: name files, folders, globs, or - for standard input.")
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
    recognizer = load()
    try:
        for number, recording in enumerate(recordings):
            label = f"[{number + 1}/{len(recordings)}] {_name(recording)}" if several else _name(recording)
            try:
                with task_bar(label, quiet=quiet) as show, _opened(recording) as audio:
                    result = recognizer.transcribe(audio, language=language, context=context, progress=show)
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


def _write(target: Path, document: str) -> None:
    try:
        target.write_text(document, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}.") from error


@contextmanager
def _opened(recording: str) -> Iterator[str | BinaryIO]:
    """A file's path; pipes, which can be read only once, as the open stream."""
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
