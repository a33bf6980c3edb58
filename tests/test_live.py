"""`--live`: PCM in, finals on stdout, partials on stderr, and what the microphone needs."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linnet
from linnet import cli, live
from linnet.audio import read_audio
from linnet.errors import AudioDecodeError, ConfigError, MissingExtraError
from linnet.runtime.base import Recognizer

SAMPLES = Path(__file__).parents[1] / "samples"


class Stdin:
    """What sys.stdin is when something is piped in; a bytes object is one write."""

    def __init__(self, *writes: bytes | BaseException) -> None:
        self.buffer = self
        self._writes = iter(writes)

    def isatty(self) -> bool:
        return False

    def read1(self, size: int) -> bytes:
        found = next(self._writes, b"")
        if isinstance(found, BaseException):
            raise found
        assert len(found) <= size
        return found


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def pcm() -> list[bytes]:
    """A clip, a pause and another clip, in tenths of a second."""
    pause = np.zeros(24_000, np.float32)
    samples = np.concatenate([read_audio(SAMPLES / "en-jfk.flac"), pause, read_audio(SAMPLES / "en-child.flac"), pause])
    data = (samples * 32767).astype("<i2").tobytes()
    return [data[start : start + 3200] for start in range(0, len(data), 3200)]


@pytest.fixture
def nano() -> Iterator[list[Recognizer]]:
    opened: list[Recognizer] = []
    yield opened
    for model in opened:
        with pytest.raises(ConfigError, match="closed"):
            model.transcribe(np.full(32_000, 0.1, np.float32) * read_audio(SAMPLES / "en-jfk.flac")[:32_000])


def run(opened: list[Recognizer], **options: Any) -> int:
    def load() -> Recognizer:
        opened.append(linnet.load_model("nano", threads=1))
        return opened[-1]

    return live.transcribe_live(load=load, stdin=True, **options)


def test_finals_go_to_stdout_and_partials_to_stderr(
    nano: list[Recognizer], pcm: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(*pcm))
    assert run(nano) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 2 and all(out.splitlines())
    assert err.count("… ") >= 5
    monkeypatch.setattr("sys.stdin", Stdin(*pcm))
    assert run(nano, quiet=True, json=True) == 0
    again = capsys.readouterr()
    events = [json.loads(line) for line in again.out.splitlines()]
    assert [event["text"] for event in events] == out.splitlines()
    assert {event["kind"] for event in events} == {"final"}
    assert again.err == ""


def test_finals_can_be_rewritten(
    nano: list[Recognizer], pcm: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(*pcm[:20]))
    assert run(nano, quiet=True, rewrite=lambda text, language: f"{language}: {text.upper()}") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("en: ") and line[4:].isupper()


def test_a_terminal_shows_one_partial_at_a_time(
    nano: list[Recognizer], pcm: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdin", Stdin(*pcm[:60]))
    monkeypatch.setattr("sys.stderr", screen)
    assert run(nano) == 0
    assert "\n" not in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_ctrl_c_ends_the_sound_and_not_the_answer(
    nano: list[Recognizer], pcm: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(*pcm[:20], KeyboardInterrupt()))
    assert run(nano, quiet=True) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_half_a_sample_is_an_error_after_the_answer(
    nano: list[Recognizer], pcm: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(*pcm[:20], b"\x01"))
    with pytest.raises(AudioDecodeError, match="middle of a sample"):
        run(nano, quiet=True)
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("sizes", [[1, 1, 3, 5, 2, 4], [16]])
def test_samples_may_be_split_between_writes(sizes: list[int]) -> None:
    expected = np.array([0, 1, -1, 32767, -32768, 256, 7, 8], "<i2")
    data, parts = expected.tobytes(), []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    got = np.concatenate(list(live.pcm_blocks(Stdin(*parts))))  # type: ignore[arg-type]
    np.testing.assert_array_equal(got * 32768, expected)


def test_a_sound_file_is_not_pcm() -> None:
    with pytest.raises(AudioDecodeError, match="ffmpeg"):
        list(live.pcm_blocks(Stdin((SAMPLES / "en-jfk.flac").read_bytes()[:3200])))  # type: ignore[arg-type]


def test_nothing_piped_and_nothing_said_give_nothing(
    nano: list[Recognizer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin())
    assert run(nano) == 0
    monkeypatch.setattr("sys.stdin", Stdin(bytes(64_000)))
    assert run(nano) == 0
    assert capsys.readouterr() == ("", "")


class Microphone(types.ModuleType):
    """As much of the sounddevice module as is used; its input stream delivers blocks at once, then Ctrl-C."""

    class PortAudioError(Exception):
        pass

    def __init__(self, blocks: list[np.ndarray], problem: Exception | None = None) -> None:
        super().__init__("sounddevice")
        self._blocks, self._problem = blocks, problem

    def InputStream(self, *, samplerate: int, channels: int, dtype: str, blocksize: int, callback: Any) -> Any:
        assert (samplerate, channels, dtype) == (16_000, 1, "float32")
        if self._problem is not None:
            raise self._problem
        self._callback = callback
        return self

    def __enter__(self) -> None:
        for block in self._blocks:
            self._callback(block[:, None], len(block), None, None)

    def __exit__(self, *error: object) -> None:
        pass


def test_a_microphone_gives_blocks_and_reports_what_it_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = [np.full(1600, index, np.float32) for index in range(610)]
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone(blocks))
    samples = next(live._microphone())
    np.testing.assert_array_equal(samples, np.concatenate(blocks[:600]))  # a minute
    assert "1.0 s of sound were lost" in capsys.readouterr().err


def test_no_microphone_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"linnet\[mic\]"):
        next(live._microphone())
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone([], Microphone.PortAudioError("no device")))
    with pytest.raises(ConfigError, match="no device"):
        next(live._microphone())


def test_a_missing_portaudio_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ConfigError, match="libportaudio2"):
        next(live._microphone())


@pytest.mark.parametrize(
    "arguments",
    [
        ["talk.wav"],
        ["-", "talk.wav"],
        ["--format", "srt"],
        ["--output-dir", "out"],
        ["--word-timestamps"],
        ["--resume"],
    ],
)
def test_options_that_make_no_sense_live_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["transcribe", "--live", *arguments])
    assert ended.value.code == 2
    assert "--live takes the microphone" in capsys.readouterr().err


def test_partials_fit_into_one_line_however_wide_their_letters() -> None:
    assert live._tail("abcdef", 3) == "def"
    assert live._tail("ab", 3) == "ab"
    assert live._tail("你好世界", 5) == "世界"
