"""Audio in and out: the only place that opens sound files.

soundfile (libsndfile) reads wav, flac, mp3, ogg and opus; PyAV, in the `[media]` extra, reads what is left (m4a, mp4,
webm, aac, amr, wma, …); soxr resamples at its HQ setting. Everything is decoded in blocks, so a recording of hours
costs no more memory than its answer.

A file that was cut short is an error, not a shorter recording. What can be noticed: WAV and AIFF (size in the
header), FLAC (length in the header), Ogg and Opus (mark on the last page), MP3 with a Xing header, MP4, and WebM with
a duration and no video. What cannot: raw AAC, AMR and MP3 without a Xing header that end between two frames, WebM
from a browser's recorder (no duration), W64, RF64 and AU. Up to 0.1 s may be missing at the end without complaint.

Shapes: N samples of one channel, float32 in −1…1 (clipped recordings are taken as they are), C channels.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from linnet import containers
from linnet.errors import AudioContentError, AudioDecodeError, AudioNotFoundError, ConfigError, MissingExtraError

SAMPLE_RATE_HZ = 16_000
FloatArray = npt.NDArray[np.float32]
Channels = Literal["mix"] | int
"""`mix`: the mean of all channels. A number: that channel alone, counted from 0 (one side of a telephone call)."""

_BLOCK_FRAMES = 1 << 16
_MISSING_S = 0.1  # less than this missing at the end is padding or a lost last packet, not a broken download
_UNKNOWN_FRAMES = 1 << 40  # libsndfile says 2⁶³−1 for streams of unknown length
_READABLE = "wav, flac, mp3, ogg and opus, and with `pip install 'linnet[media]'` also m4a, mp4, webm, aac, amr, wma"
_WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"),
             ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III")}  # fmt: skip


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    duration_s: float | None
    """None where only decoding would tell (streams, MP3 without a Xing header)."""
    sample_rate_hz: int
    channels: int
    format: str
    """Container in lower case: "wav", "flac", "ogg", "mp3", "mp4", …"""


def read_audio(
    source: str | Path | BinaryIO, *, sample_rate_hz: int = SAMPLE_RATE_HZ, channels: Channels = "mix"
) -> FloatArray:
    """All samples of a recording as mono float32 [N] at the rate asked for.

    `source` is a path, "-" for standard input, or a binary file (read from its beginning, left open).
    Raises AudioNotFoundError, AudioDecodeError (not audio, or cut short), AudioContentError (no samples, NaN or
    infinity), MissingExtraError (a container that needs PyAV).
    """
    return np.concatenate(list(stream_audio(source, sample_rate_hz=sample_rate_hz, channels=channels)))


def stream_audio(
    source: str | Path | BinaryIO,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    block_s: float = 30.0,
    channels: Channels = "mix",
) -> Iterator[FloatArray]:
    """The samples of `read_audio` in blocks of `block_s` seconds, the last one shorter; memory stays flat.

    Errors are raised by the iteration: those about opening at the first block, a cut-short file at its end.
    """
    _check_rate(sample_rate_hz)
    size = round(block_s * sample_rate_hz)
    if size < 1:
        raise ConfigError(f"A block needs at least one sample, got block_s={block_s} at {sample_rate_hz} Hz.")
    waiting: list[FloatArray] = []
    count = total = 0
    for samples in _resampled(source, sample_rate_hz, channels):
        waiting.append(samples)
        count += samples.size
        total += samples.size
        if count >= size:
            joined = np.concatenate(waiting)
            stop = count - count % size
            yield from (joined[start : start + size].copy() for start in range(0, stop, size))
            waiting, count = [joined[stop:].copy()], count - stop
    if total == 0:
        raise AudioContentError(f"{_name(source)} has no samples (0.0 s); record it again or leave it out.")
    if count:
        yield np.concatenate(waiting)


def audio_info(source: str | Path | BinaryIO) -> AudioInfo:
    """Duration, rate, channels and format from the header, without decoding; errors as in `read_audio`."""
    with _open(source) as sound:
        duration_s = None if sound.frames is None else sound.frames / sound.sample_rate_hz
        return AudioInfo(duration_s, sound.sample_rate_hz, sound.channels, sound.format)


def write_audio(path: str | Path, samples: npt.ArrayLike, sample_rate_hz: int) -> None:
    """Write mono samples [N] as .wav, .flac (both 16 bit), .ogg, .opus or .mp3; values beyond −1…1 are clipped."""
    write_blocks(path, [samples], sample_rate_hz)


def write_blocks(path: str | Path, blocks: Iterable[npt.ArrayLike], sample_rate_hz: int) -> None:
    """`write_audio` for samples in blocks [n]. The file appears when it is whole: an error leaves what was there."""
    path = Path(path)
    _check_rate(sample_rate_hz)
    if path.suffix.lower() not in _WRITABLE:
        raise ConfigError(f"Cannot write {path.name}: the ending decides the format, use {', '.join(_WRITABLE)}.")
    if not path.parent.is_dir():
        raise ConfigError(f"Cannot write {path}: there is no folder {path.parent}; make it first.")
    container, subtype = _WRITABLE[path.suffix.lower()]
    clipped = (np.clip(check_samples(block, name=path.name), -1.0, 1.0) for block in blocks)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with soundfile.SoundFile(partial, "w", sample_rate_hz, 1, subtype, format=container) as file:
            for block in clipped:
                file.write(block)
            if not file.frames:
                raise AudioContentError(f"{path.name}: there are no samples; record it again or leave it out.")
        os.replace(partial, path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ConfigError(f"Cannot write {path} at {sample_rate_hz} Hz: {error}.") from error
    finally:
        if partial.exists():
            partial.unlink()


def wav_bytes(samples: npt.ArrayLike, sample_rate_hz: int) -> bytes:
    """Mono samples [N] as a 16-bit WAV file in memory; values beyond −1…1 are clipped."""
    _check_rate(sample_rate_hz)
    file = io.BytesIO()
    clipped = np.clip(check_samples(samples), -1.0, 1.0)
    soundfile.write(file, clipped, sample_rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def resample(samples: npt.ArrayLike, from_hz: int, to_hz: int) -> FloatArray:
    """Mono samples [N] at another rate, float32 [about N · to_hz / from_hz], by soxr HQ; a copy only if needed."""
    _check_rate(from_hz)
    _check_rate(to_hz)
    wave = np.asarray(samples, dtype=np.float32)
    if wave.ndim != 1:
        raise AudioContentError(f"resample needs mono samples [N], got shape {wave.shape}; mix the channels first.")
    return wave if from_hz == to_hz else soxr.resample(wave, from_hz, to_hz, quality="HQ")


def check_samples(samples: npt.ArrayLike, *, name: str = "samples") -> FloatArray:
    """The samples as float32 [N]; AudioContentError if they are not mono, empty, not real numbers, or not finite."""
    array = np.asarray(samples)
    if array.ndim != 1:
        raise AudioContentError(
            f"{name}: expected mono samples of shape [N], got shape {array.shape}; mix the channels down first."
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioContentError(
            f"{name}: expected floating-point samples in −1…1, got {array.dtype}; divide 16-bit integers by 32768."
        )
    if array.size == 0:
        raise AudioContentError(f"{name}: there are no samples; record it again or leave it out.")
    wave = array.astype(np.float32, copy=False)
    finite = np.isfinite(wave)
    if not finite.all():
        raise AudioContentError(
            f"{name}: {wave.size - int(finite.sum())} of {wave.size} samples are NaN or infinite, the first at "
            f"index {int(np.argmin(finite))}; every sample must be a finite number."
        )
    return wave


@dataclass(frozen=True)
class _Sound:
    """An opened recording; `blocks` gives float32 [n, C] and can be walked once."""

    name: str
    format: str
    sample_rate_hz: int
    channels: int
    frames: int | None
    blocks: Iterator[FloatArray]


class _Sequential(soundfile.SoundFile):  # type: ignore[misc] # soundfile has no type hints
    """A SoundFile that is only read forwards: soundfile seeks after every block otherwise, and FLAC streams of
    unknown length cannot."""

    def seekable(self) -> bool:
        return False


def _resampled(source: str | Path | BinaryIO, rate_hz: int, channels: Channels) -> Iterator[FloatArray]:
    with _open(source) as sound:
        if channels != "mix" and not 0 <= channels < sound.channels:
            raise ConfigError(
                f"{sound.name} has {sound.channels} channels, got channels={channels!r}; "
                f"accepted: 'mix' or 0…{sound.channels - 1}."
            )
        same = sound.sample_rate_hz == rate_hz
        stream = None if same else soxr.ResampleStream(sound.sample_rate_hz, rate_hz, 1, dtype="float32", quality="HQ")
        only = 0 if sound.channels == 1 else channels  # the mean of one channel costs more than decoding it
        done = 0
        for block in sound.blocks:
            mono = block.mean(axis=1, dtype=np.float32) if only == "mix" else block[:, only].copy()
            finite = np.isfinite(mono)
            if not finite.all():
                at_s = (done + int(np.argmin(finite))) / sound.sample_rate_hz
                raise AudioContentError(
                    f"{sound.name} has NaN or infinite samples, the first at {at_s:.3f} s; "
                    "repair the recording or export it again with integer samples."
                )
            done += len(mono)
            yield mono if stream is None else stream.resample_chunk(mono)
        if stream is not None:
            yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        _check_complete(sound, done)


def _check_complete(sound: _Sound, frames: int) -> None:
    if sound.frames is not None and sound.frames - frames > _MISSING_S * sound.sample_rate_hz:
        raise _cut_short(
            sound.name,
            f"{frames / sound.sample_rate_hz:.2f} of {sound.frames / sound.sample_rate_hz:.2f} s can be read",
        )


@contextmanager
def _open(source: str | Path | BinaryIO) -> Iterator[_Sound]:
    name = _name(source)
    with _open_bytes(source) as file:
        head = file.read(512)
        file.seek(0)
        if not head:
            raise AudioDecodeError(f"{name} is empty (0 bytes); copy or record it again.")
        if head.startswith(b"OggS") and not containers.ogg_is_complete(file):
            raise _cut_short(name, "its last Ogg page is missing or not marked as the last")
        try:
            sound = _Sequential(file)
        except soundfile.LibsndfileError as error:
            if not containers.is_media(head):
                what = "it is a text file" if containers.is_text(head) else f"it starts with {head[:8]!r}"
                raise AudioDecodeError(
                    f"{name} is not audio that Linnet knows: {what}. Readable: {_READABLE}."
                ) from error
            file.seek(0)
            with _open_media(file, name) as media:
                yield media
            return
        with sound:
            missing = containers.missing_share(sound.extra_info)
            if missing == 1 or missing / (1 - missing) * sound.frames > _MISSING_S * sound.samplerate:
                raise _cut_short(name, f"{missing:.0%} of the samples that its header promises are not there")
            copy = containers.with_mp3_length(file) if sound.subtype == "MPEG_LAYER_III" else None
            if copy is None:
                yield _sound(sound, name, known=sound.frames < _UNKNOWN_FRAMES)
                return
        with copy, _Sequential(copy) as sound:
            yield _sound(sound, name, known=False)


def _sound(sound: soundfile.SoundFile, name: str, *, known: bool) -> _Sound:
    frames = sound.frames if known else None
    blocks = _soundfile_blocks(sound, name, frames)
    return _Sound(name, sound.format.lower(), sound.samplerate, sound.channels, frames, blocks)


def _soundfile_blocks(sound: soundfile.SoundFile, name: str, frames: int | None) -> Iterator[FloatArray]:
    done = 0
    while True:
        block = np.full((_BLOCK_FRAMES, sound.channels), np.nan, dtype=np.float32)
        try:
            read = len(sound.read(out=block))
        except soundfile.LibsndfileError as error:
            # soundfile drops the count, but the samples before the damage are in the block: they are not NaN.
            damaged = np.isnan(block[:, 0])
            read = int(np.argmax(damaged)) if damaged.any() else len(block)
            if frames is None or frames - done - read > _MISSING_S * sound.samplerate:
                length = "" if frames is None else f" of {frames / sound.samplerate:.2f}"
                raise _cut_short(
                    name, f"{(done + read) / sound.samplerate:.2f}{length} s can be read ({error})"
                ) from error
            yield block[:read]
            return
        yield block[:read]
        done += read
        if read < _BLOCK_FRAMES:
            return


@contextmanager
def _open_media(file: BinaryIO, name: str) -> Iterator[_Sound]:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"Reading {name}", "media", "av") from error
    try:
        # Playlists among FFmpeg's formats name other files and addresses; with this, no protocol may open any.
        container = av.open(file, mode="r", options={"protocol_whitelist": "none"})
    except (av.FFmpegError, OSError) as error:
        raise AudioDecodeError(
            f"{name} cannot be opened: damaged, cut short, or no media file ({error}). Readable: {_READABLE}."
        ) from error
    with container:
        if not container.streams.audio:
            raise AudioDecodeError(f"{name} has no audio track ({container.format.name}); give a file with sound.")
        track = container.streams.audio[0]
        rate_hz, frames = track.sample_rate, None
        if track.duration and track.time_base and "mp4" in container.format.name:
            frames = round(track.duration * track.time_base * rate_hz)
        elif container.duration and "matroska" in container.format.name and len(container.streams) == 1:
            # one duration for the whole file: with a video beside it, it says nothing about the sound
            frames = round((container.duration - (container.start_time or 0)) * rate_hz / av.time_base)
        # ADTS and AMR have no length in them: what FFmpeg reports there is a guess from the bit rate.
        blocks = _media_blocks(container, name)
        names = container.format.name.split(",")  # "mov,mp4,m4a,…" and "matroska,webm" are one demuxer each
        yield _Sound(name, "mp4" if "mp4" in names else names[-1], rate_hz, track.channels, frames, blocks)


def _media_blocks(container: Any, name: str) -> Iterator[FloatArray]:
    import av

    track = container.streams.audio[0]
    # Float planes. Rate and layout are as announced; naming them holds them there if they change in mid-stream.
    resampler = av.AudioResampler(format="fltp", layout=track.layout, rate=track.sample_rate)
    try:
        for frame in chain(container.decode(track), [None]):  # None flushes
            for plain in resampler.resample(frame):
                yield np.ascontiguousarray(plain.to_ndarray().T)
    except av.FFmpegError as error:
        raise _cut_short(name, f"decoding stopped ({error})") from error


@contextmanager
def _open_bytes(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """The source as a seekable binary file at its beginning; pipes are copied to a spool first."""
    if not isinstance(source, str | Path):
        with _seekable(source) as file:
            yield file
        return
    if source == "-":
        with _seekable(sys.stdin.buffer) as file:
            yield file
        return
    path = Path(source)
    try:
        opened = path.open("rb")
    except FileNotFoundError as error:
        raise AudioNotFoundError(f"There is no file {path}; check the name and the current folder.") from error
    except IsADirectoryError as error:
        raise AudioDecodeError(f"{path} is a folder, not an audio file; name the files in it.") from error
    except OSError as error:
        raise AudioDecodeError(f"{path} cannot be opened: {error.strerror or error}.") from error
    with opened, _seekable(opened) as file:
        yield file


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    if file.seekable():
        file.seek(0)
        yield file
        return
    with tempfile.SpooledTemporaryFile(max_size=containers.SPOOL_BYTES) as spool:
        shutil.copyfileobj(file, spool)
        spool.seek(0)
        yield spool  # type: ignore[misc] # it has all methods of BinaryIO


def _name(source: str | Path | BinaryIO) -> str:
    if isinstance(source, str | Path):
        return "standard input" if source == "-" else str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the audio stream"


def _cut_short(name: str, what: str) -> AudioDecodeError:
    return AudioDecodeError(
        f"{name} is damaged or was cut short: {what}. Copy or download it again; to use what is left, "
        "re-encode it, for example with `ffmpeg -i FILE fixed.wav`."
    )


def _check_rate(rate_hz: int) -> None:
    if rate_hz <= 0:
        raise ConfigError(f"A sample rate must be positive, got {rate_hz} Hz; speech models use {SAMPLE_RATE_HZ}.")
