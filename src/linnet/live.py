"""`linnet transcribe --live`: a microphone, or raw PCM on standard input → text while it is spoken.

Finals go to stdout, one line each, as soon as they are settled (--json: one object each); partials go to stderr, on one
line that is rewritten if stderr is a terminal. Ctrl-C ends the recording, not the work: what was said before it is
still answered.
"""

from __future__ import annotations

import json as jsonlib
import queue
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from linnet.errors import AudioDecodeError, AudioError, AudioNotFoundError, ConfigError, MissingExtraError
from linnet.runtime.base import Recognizer
from linnet.runtime.streaming import StreamEvent, StreamingTranscriber
from linnet.subtitles import columns

FloatArray = npt.NDArray[np.float32]
RATE_HZ = 16_000
BLOCK_S = 0.1
MAX_WAITING_S = 60.0
"""Sound from a microphone that may wait for the model; what comes after that is lost, and said to be."""
_READ_BYTES = 1 << 16  # all that a pipe holds: 2 s, so that a model that falls behind gets more at once
_HEADERS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM")


def transcribe_live(
    *,
    load: Callable[[], Recognizer],
    stdin: bool,
    language: str | None = None,
    context: str = "",
    rewrite: Callable[[str, str | None], str] | None = None,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Transcribe until the sound ends, and return the exit code.

    The sound is standard input (s16le, mono, 16 kHz) or the default microphone. With `quiet` there are no partials,
    which spares the model most of the work. `rewrite` makes what is shown of a final text and its language.
    Raises MissingExtraError or ConfigError if there is no microphone, AudioNotFoundError, AudioDecodeError,
    LanguageError.
    """
    blocks = _standard_input() if stdin else _microphone()
    screen = _Screen(rewrite, json=json, quiet=quiet)
    problem: AudioError | None = None
    with closing(blocks):
        first = next(blocks, None)  # before the model is loaded: most mistakes show here
        recognizer = load()
        try:
            stream = StreamingTranscriber(recognizer, language=language, context=context, partials=not quiet)
            try:
                while first is not None:
                    screen.show(stream.push(first))
                    first = next(blocks, None)
            except KeyboardInterrupt:
                pass
            except AudioError as error:  # what came before it is answered first
                problem = error
            screen.show(stream.finish())
        finally:
            recognizer.close()
            screen.clear()
    if problem is not None:
        raise problem
    return 0


def pcm_blocks(stream: BinaryIO) -> Iterator[FloatArray]:
    """Samples [n] of raw s16le PCM, as they come. Raises AudioDecodeError for a sound file and for half a sample."""
    rest = b""
    start = True
    while data := _read(stream):
        if start and data.startswith(_HEADERS):
            raise AudioDecodeError(
                f"Standard input is a sound file (it starts with {data[:4]!r}); --live reads raw PCM: 16 bits, mono, "
                "16 kHz. Leave --live out, or convert: ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | linnet transcribe "
                "--live -"
            )
        start = False
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / np.float32(32768)
    if rest:
        raise AudioDecodeError("Standard input ended in the middle of a sample: is it s16le PCM (16 bits, mono)?")


def _read(stream: BinaryIO) -> bytes:
    """What is there, at least one byte; empty at the end."""
    read1 = getattr(stream, "read1", None)
    data: bytes = read1(_READ_BYTES) if read1 is not None else stream.read(_READ_BYTES)
    return data


def _standard_input() -> Generator[FloatArray, None, None]:
    if sys.stdin.isatty():
        raise AudioNotFoundError(
            "Nothing is piped into standard input; for example: arecord -f S16_LE -r 16000 -c 1 -t raw | "
            "linnet transcribe --live -"
        )
    yield from pcm_blocks(sys.stdin.buffer)


def _microphone() -> Generator[FloatArray, None, None]:
    """Samples of the default input device; whatever has come while the model worked is one block."""
    sounddevice = _sounddevice()
    waiting: queue.Queue[FloatArray] = queue.Queue(maxsize=round(MAX_WAITING_S / BLOCK_S))
    lost = 0

    def take(block: npt.NDArray[np.float32], frames: int, time: Any, status: Any) -> None:
        nonlocal lost
        try:
            waiting.put_nowait(block[:, 0].copy())
        except queue.Full:
            lost += frames

    try:
        source = sounddevice.InputStream(
            samplerate=RATE_HZ, channels=1, dtype="float32", blocksize=round(BLOCK_S * RATE_HZ), callback=take
        )
        with source:
            sys.stderr.write("linnet transcribe: listening; Ctrl-C ends\n")
            said = 0
            while True:
                blocks = [waiting.get()]
                while not waiting.empty():
                    blocks.append(waiting.get_nowait())
                if lost > said:
                    sys.stderr.write(
                        f"linnet transcribe: {(lost - said) / RATE_HZ:.1f} s of sound were lost, because this machine "
                        "is slower than speech. Take a smaller model, or --quiet.\n"
                    )
                    said = lost
                yield np.concatenate(blocks)
    except sounddevice.PortAudioError as problem:
        raise ConfigError(
            f"The microphone cannot be opened: {problem}. Plug one in, or pipe PCM: linnet transcribe --live -"
        ) from problem


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as missing:
        raise MissingExtraError("The microphone", "mic", "sounddevice") from missing
    except OSError as problem:  # Linux: the wheel brings no PortAudio
        raise ConfigError(
            f"The microphone needs PortAudio: {problem}. Install it (Debian: apt install libportaudio2), or pipe "
            "PCM: linnet transcribe --live -"
        ) from problem
    return sounddevice


class _Screen:
    """Finals on stdout, partials on stderr: rewritten in place on a terminal, else one line each."""

    def __init__(self, rewrite: Callable[[str, str | None], str] | None, *, json: bool, quiet: bool) -> None:
        self._rewrite, self._json, self._quiet = rewrite, json, quiet
        self._terminal = sys.stderr.isatty()
        self._standing = False

    def show(self, events: list[StreamEvent]) -> None:
        for event in events:
            if event.kind == "final":
                self.clear()
                if self._rewrite is not None:
                    event = replace(event, text=self._rewrite(event.text, event.language))
                text = jsonlib.dumps(asdict(event), ensure_ascii=False) if self._json else event.text
                sys.stdout.write(f"{text}\n")
                sys.stdout.flush()  # whoever reads along sees each sentence when it is there
            elif self._quiet:
                continue
            elif self._terminal:
                self.clear()
                sys.stderr.write(_tail(event.text, shutil.get_terminal_size().columns - 1))
                self._standing = True
            elif event.text:
                sys.stderr.write(f"… {event.text}\n")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the partial off the terminal."""
        if self._standing:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._standing = False


def _tail(text: str, max_columns: int) -> str:
    """The end of a text that fits into one line; Han and kana take two columns."""
    width = 0
    for index in range(len(text) - 1, -1, -1):
        width += columns(text[index])
        if width > max_columns:
            return text[index + 1 :]
    return text
