"""`linnet transcribe`: what inputs stand for, what goes to stdout, and that one bad file does not stop the others."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_recognizer import FakeRecognizer
from linnet.audio import read_audio, write_audio
from linnet.errors import AudioNotFoundError, ConfigError, LanguageError, LinnetError
from linnet.results import Transcription
from linnet.transcribe import _Clock, find_recordings, transcribe_files
from linnet.writers import FORMATS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: talks/a.wav, talks/sub/b.flac, talks/sub/notes.txt."""
    work = tmp_path / "work"
    tone = np.full(8000, 0.1, np.float32)
    for name in ("talks/a.wav", "talks/sub/b.flac"):
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, tone, 16_000)
    (work / "talks/sub/notes.txt").write_text("not audio")
    monkeypatch.chdir(work)
    yield work


@pytest.fixture
def fake(tmp_path: Path) -> FakeRecognizer:
    return FakeRecognizer(tmp_path / "model", {"a": "hello", "b": "world", "": "piped"})


def run(fake: FakeRecognizer, *inputs: str, **options: Any) -> int:
    return transcribe_files(inputs, load=lambda: fake, **options)


def found(*inputs: str) -> list[str]:
    return [item for item in find_recordings(inputs) if isinstance(item, str)]


def problems(*inputs: str) -> list[str]:
    return [str(item) for item in find_recordings(inputs) if isinstance(item, LinnetError)]


def test_folders_are_searched_to_the_bottom_in_order(folder: Path) -> None:
    assert found("talks") == ["talks/a.wav", "talks/sub/b.flac"]


@pytest.mark.parametrize("name", ["x.WAV", "x.Opus", "x.m4a", "x.mp4", "x.webm", "x.mkv", "x.aac", "x.wma", "x.aiff"])
def test_audio_is_known_by_its_ending_in_any_case(folder: Path, name: str) -> None:
    (folder / name).touch()
    assert found(".")[-1] == f"./{name}"


def test_hidden_files_and_folders_are_left_out(folder: Path) -> None:
    (folder / "talks/._a.wav").touch()  # what macOS leaves on USB sticks
    (folder / ".trash").mkdir()
    (folder / ".trash/c.wav").touch()
    assert found(".") == ["./talks/a.wav", "./talks/sub/b.flac"]


def test_a_glob_takes_the_audio_among_its_matches(folder: Path) -> None:
    assert found("talks/sub/*") == ["talks/sub/b.flac"]
    assert found("talks/**/*.wav") == ["talks/a.wav"]


def test_a_glob_that_matches_folders_searches_them(folder: Path) -> None:
    assert found("talks/s*") == ["talks/sub/b.flac"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    (folder / "talk[1].wav").touch()
    assert found("talk[1].wav") == ["talk[1].wav"]


def test_a_named_file_is_tried_whatever_its_ending(folder: Path) -> None:
    assert found("talks/sub/notes.txt") == ["talks/sub/notes.txt"]


def test_each_recording_counts_once_however_often_it_is_named(folder: Path) -> None:
    assert found("talks/a.wav", "talks", "./talks/*.wav", "-", "-") == ["talks/a.wav", "talks/sub/b.flac", "-"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("missing.wav", "no file missing.wav"),
        ("*.ogg", "pattern *.ogg matches nothing"),
        ("talks/sub/*.txt", "matches 1 files, none of them audio"),
        ("empty", "no audio in the folder empty"),
    ],
)
def test_each_input_without_audio_has_its_own_error(folder: Path, given: str, says: str) -> None:
    (folder / "empty").mkdir()
    (message,) = problems(given)
    assert says in message


def test_one_recording_prints_its_text_alone(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "talks/a.wav") == 0
    assert capsys.readouterr() == ("hello\n", "")
    assert fake.closed


def test_several_recordings_are_told_apart_by_their_paths(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "talks") == 0
    assert capsys.readouterr().out == "talks/a.wav: hello\ntalks/sub/b.flac: world\n"


def test_a_folder_with_one_recording_still_names_it(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "talks/sub") == 0
    assert capsys.readouterr().out == "talks/sub/b.flac: world\n"


def test_bad_inputs_go_to_stderr_and_the_others_are_transcribed(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "missing.wav", "talks/sub/notes.txt", "talks/a.wav") == 1
    out, err = capsys.readouterr()
    assert out == "talks/a.wav: hello\n"
    assert "missing.wav" in err and "talks/sub/notes.txt" in err


def test_an_unexpected_error_is_shown_in_full_and_the_others_are_transcribed(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = {"a": ZeroDivisionError("surprise"), "b": "world"}
    assert run(fake, "talks") == 1
    out, err = capsys.readouterr()
    assert out == "talks/sub/b.flac: world\n"
    assert "talks/a.wav" in err and "Traceback" in err and "surprise" in err


def test_errors_that_concern_every_recording_stop_the_run(folder: Path, fake: FakeRecognizer) -> None:
    fake.answers = {"a": LanguageError("Klingon is not known.")}
    with pytest.raises(LanguageError, match="Klingon"):
        run(fake, "talks", language="tlh")
    assert len(fake.heard) == 1 and fake.closed


def test_the_model_is_not_loaded_if_there_is_nothing_to_transcribe(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> FakeRecognizer:
        raise AssertionError("loaded")

    assert transcribe_files(["missing.wav"], load=load) == 1
    assert capsys.readouterr().out == ""


def test_language_and_context_reach_the_recogniser(folder: Path, fake: FakeRecognizer) -> None:
    run(fake, "talks/a.wav", language="zh", context="Linnet")
    assert fake.options == [("zh", "Linnet")]


def test_json_lines_hold_everything_known(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "talks/a.wav", "talks/sub/b.flac", json=True) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert second["path"] == "talks/sub/b.flac"
    assert first == {
        "path": "talks/a.wav",
        "text": "hello",
        "language": "en",
        "duration_s": 0.5,
        "segments": [
            {
                "text": "hello",
                "start_s": 0.0,
                "end_s": 0.5,
                "language": "en",
                "confidence": 0.5,
                "words": [],
                "flags": [],
            }
        ],
        "model": "fake",
        "processing_s": 0.125,
        "rtf": 0.25,
    }


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_can_be_printed_for_one_recording(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    assert run(fake, "talks/a.wav", format=format) == 0
    assert "hello" in capsys.readouterr().out


def test_documents_of_several_recordings_are_not_run_together(folder: Path, fake: FakeRecognizer) -> None:
    with pytest.raises(ConfigError, match="--output-dir"):
        run(fake, "talks", format="srt")


def test_an_unknown_format_and_no_input_at_all_are_refused(folder: Path, fake: FakeRecognizer) -> None:
    with pytest.raises(ConfigError, match="docx"):
        run(fake, "talks", format="docx")
    with pytest.raises(ConfigError, match="Nothing to transcribe"):
        run(fake)


def test_output_folder_gets_one_file_each_and_stdout_their_paths(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, "talks", format="srt", output_dir=Path("new/out")) == 0
    assert capsys.readouterr().out == "new/out/a.srt\nnew/out/b.srt\n"
    assert Path("new/out/a.srt").read_text() == "1\n00:00:00,000 --> 00:00:00,833\nhello\n\n"


def test_equal_stems_do_not_overwrite_each_other(folder: Path, fake: FakeRecognizer) -> None:
    for name in ("talks/sub/a.wav", "talks/sub/A.flac", "talks/a-2.wav"):
        write_audio(folder / name, np.full(800, 0.1, np.float32), 16_000)
    assert run(fake, "talks", output_dir=Path("out")) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["A-3.txt", "a-2.txt", "a-4.txt", "a.txt", "b.txt"]


def test_verbose_json_files_end_in_json(folder: Path, fake: FakeRecognizer) -> None:
    run(fake, "talks/a.wav", format="verbose_json", output_dir=Path("out"))
    assert json.loads(Path("out/a.json").read_text())["text"] == "hello"


def test_json_and_output_folder_together_say_where_the_text_went(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(fake, "talks/a.wav", json=True, output_dir=Path("out"))
    assert json.loads(capsys.readouterr().out)["output"] == "out/a.txt"


def test_an_output_folder_that_is_a_file_is_an_error(folder: Path, fake: FakeRecognizer) -> None:
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        run(fake, "talks", output_dir=Path("talks/sub/notes.txt"))
    assert not fake.heard


class Stdin:
    """What sys.stdin is when something is piped in."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return not self.buffer.getbuffer().nbytes


def test_stdin_is_read_as_a_stream(
    folder: Path, fake: FakeRecognizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin((folder / "talks/a.wav").read_bytes()))
    assert run(fake, "-") == 0
    assert capsys.readouterr().out == "piped\n"
    assert len(fake.heard[0]) == 8000


def test_stdin_that_is_a_terminal_is_an_error_instead_of_waiting(
    folder: Path, fake: FakeRecognizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b""))
    assert run(fake, "-") == 1
    assert "Nothing is piped" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a thing of Unix")
def test_a_named_pipe_is_found_although_it_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert found("pipe") == ["pipe"]


def test_missing_file_errors_are_file_not_found_errors(folder: Path) -> None:
    (error,) = find_recordings(["missing.wav"])
    assert isinstance(error, AudioNotFoundError) and isinstance(error, FileNotFoundError)


def test_a_resumed_run_passes_over_what_is_finished(
    folder: Path, fake: FakeRecognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = {"a": "hello", "b": RuntimeError("power cut")}
    assert run(fake, "talks", output_dir=Path("out")) == 1
    fake.heard.clear()
    fake.answers = {"a": "again", "b": "world"}
    capsys.readouterr()
    assert run(fake, "talks", output_dir=Path("out"), resume=True) == 0
    out, err = capsys.readouterr()
    assert (out, len(fake.heard)) == ("out/b.txt\n", 1)
    assert "1 of 2 recordings are finished already" in err
    assert Path("out/a.txt").read_text() == "hello\n"

    def load() -> FakeRecognizer:
        raise AssertionError("loaded")

    assert transcribe_files(["talks"], load=load, output_dir=Path("out"), resume=True) == 0


def test_a_recording_that_has_changed_is_transcribed_again(folder: Path, fake: FakeRecognizer) -> None:
    run(fake, "talks", output_dir=Path("out"))
    os.utime("talks/a.wav", ns=(0, os.stat("out/a.txt").st_mtime_ns + 1))
    fake.heard.clear()
    run(fake, "talks", output_dir=Path("out"), resume=True)
    assert len(fake.heard) == 1


def test_files_that_share_a_stem_are_never_taken_for_finished(folder: Path, fake: FakeRecognizer) -> None:
    """a-2.txt is whichever came second, and that may be another recording now."""
    write_audio(folder / "talks/sub/a.wav", np.full(800, 0.1, np.float32), 16_000)
    run(fake, "talks", output_dir=Path("out"))
    fake.heard.clear()
    run(fake, "talks", output_dir=Path("out"), resume=True)
    assert len(fake.heard) == 2  # not b


def test_resume_needs_a_folder_to_look_in(folder: Path, fake: FakeRecognizer) -> None:
    with pytest.raises(ConfigError, match="--output-dir"):
        run(fake, "talks", resume=True)


def test_an_interrupted_run_leaves_no_half_written_file(
    folder: Path, fake: FakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(fake, "talks", output_dir=Path("out"))
    assert not Path("out/a.txt").exists()


def test_what_is_written_is_what_finish_returns(
    folder: Path, fake: FakeRecognizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it can read the recording again, standard input too."""
    lengths = []

    def finish(audio: object, result: Transcription) -> Transcription:
        lengths.append(len(read_audio(audio)))  # type: ignore[arg-type]
        return dataclasses.replace(result, text=result.text.upper())

    monkeypatch.setattr("sys.stdin", Stdin((folder / "talks/a.wav").read_bytes()))
    assert run(fake, "-", "talks/a.wav", finish=finish) == 0
    assert capsys.readouterr().out == "stdin: PIPED\ntalks/a.wav: HELLO\n"
    assert lengths == [8000, 8000]


def test_a_batch_says_how_long_it_will_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = _Clock(["talks/a.wav", "talks/sub/b.flac"], shown=True)
    now[0] += 300.0
    assert clock.time_left(0, 0.0) == ""
    assert clock.time_left(0, 0.25) == " · 15 min left in all"
    assert clock.time_left(1, 0.4) == " · 33 s left in all"
    assert _Clock(["talks/a.wav"], shown=True).time_left(0, 0.25) == ""
    assert _Clock(["talks/a.wav", "missing.wav"], shown=False).time_left(0, 0.25) == ""
