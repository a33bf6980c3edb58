"""Video in: grey frames of a recording, on an even clock that starts where its sound starts.

PyAV (the `[media]` extra) decodes. A frame belongs to the time its timestamp says, whatever the file's nominal rate:
24, 25, 30 fps and variable rates all come out at `rate_hz`, by showing at each tick the frame that a player would show
then. Some files carry no usable timestamps (all equal, or none); their frames are spread evenly over the length of the
sound, and `Timing.spread` says so.

Shapes: T ticks, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from linnet.errors import AudioNotFoundError, MissingExtraError, VideoContentError, VideoDecodeError

Grey = npt.NDArray[np.uint8]
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".3gp", ".wmv", ".flv"})
MIN_FRAMES = 5
"""Fewer frames show no movement, so there is nothing to read from lips."""
_USUAL_RATE_HZ = 25.0


@dataclass(frozen=True)
class Timing:
    """When the frames of a video track are shown."""

    start_s: npt.NDArray[np.float64]
    """Time of each frame [frames] after the first sample of the sound, ascending; negative ones come before it."""
    end_s: float
    """When the last frame disappears."""
    spread: bool
    """Whether the file's timestamps were unusable and the frames were spread evenly instead."""
    width_px: int
    """As displayed: after the rotation that phones note in the file."""
    height_px: int

    def ticks(self, rate_hz: float) -> npt.NDArray[np.int64]:
        """Index of the frame that is shown at the middle of each tick [T]; the first one also before it appears."""
        middles = (np.arange(max(1, round(self.end_s * rate_hz))) + 0.5) / rate_hz
        shown: npt.NDArray[np.int64] = np.searchsorted(self.start_s, middles + 1e-6, side="right") - 1
        return np.clip(shown, 0, len(self.start_s) - 1)


def tracks(source: str | Path | BinaryIO) -> tuple[bool, bool]:
    """Whether a file has sound and moving pictures; cover art is no picture. What PyAV cannot open counts as sound.

    Raises MissingExtraError without PyAV if the file's ending is a video's.
    """
    try:
        with _open(source) as (container, track, _name):
            return bool(container.streams.audio), track is not None
    except VideoDecodeError:
        return True, False  # the reader of sound will say what is wrong with it
    except MissingExtraError:
        if Path(_name_of(source)).suffix.lower() in VIDEO_SUFFIXES:
            raise
        return True, False


def read_timing(source: str | Path | BinaryIO, *, audio_duration_s: float | None = None) -> Timing:
    """When each frame is shown, without decoding more than the first one.

    `audio_duration_s` is what unusable timestamps are replaced by, if the file itself has no sound. Raises
    AudioNotFoundError, VideoDecodeError (no video, damaged), VideoContentError (fewer than MIN_FRAMES frames),
    MissingExtraError.
    """
    with _open(source) as (container, track, name):
        if track is None:
            raise VideoDecodeError(f"{name} has no video track; give a file with pictures, or use its sound alone.")
        sound = container.streams.audio[0] if container.streams.audio else None
        offset_s = float(sound.start_time * sound.time_base) if sound and sound.start_time else 0.0
        if sound and sound.duration:
            audio_duration_s = float(sound.duration * sound.time_base)
        pts = [packet.pts for packet in container.demux(track) if packet.size]
        base_s = track.time_base  # read here: the track's memory goes with the container
        rotation, width, height = _look(container, track, name)
    if len(pts) < MIN_FRAMES:
        raise VideoContentError(
            f"{name} has {len(pts)} video frames; reading lips needs at least {MIN_FRAMES}. Use its sound alone."
        )
    if rotation % 180:
        width, height = height, width
    known = sorted(float(value * base_s) - offset_s for value in pts if value is not None)
    steps = np.diff(known)
    if len(known) == len(pts) and np.count_nonzero(steps > 0) >= 0.9 * len(steps):
        start_s = np.asarray(known)
        return Timing(start_s, float(known[-1] + np.median(steps)), False, width, height)
    end_s = audio_duration_s or len(pts) / _USUAL_RATE_HZ
    return Timing(np.arange(len(pts)) * end_s / len(pts), end_s, True, width, height)


def stream_frames(
    source: str | Path | BinaryIO, timing: Timing, *, rate_hz: float, size_px: tuple[int, int] | None = None
) -> Iterator[Grey]:
    """Grey frames uint8 [H, W], one per tick, scaled to `size_px` (width, height as displayed) if that is given.

    Memory holds one frame. Raises VideoDecodeError if decoding stops early.
    """
    import av

    ticks = timing.ticks(rate_hz)
    done, shown = 0, -1
    with _open(source) as (container, track, name):
        assert track is not None
        track.thread_type = "AUTO"
        picture: Grey | None = None
        try:
            for shown, frame in enumerate(container.decode(track)):
                wanted = np.searchsorted(ticks, shown, side="right") - done
                if wanted > 0:
                    picture = _grey(frame, size_px)
                    for _ in range(int(wanted)):
                        yield picture
                    done += int(wanted)
        except (av.FFmpegError, ValueError) as error:
            raise _cut_short(name, f"decoding stopped after {shown + 1} frames ({error})") from error
        missing = len(timing.start_s) - 1 - shown
        if missing > max(2, 0.02 * len(timing.start_s)):  # a decoder may keep back a last frame or two
            raise _cut_short(name, f"{shown + 1} of {len(timing.start_s)} frames can be decoded")
        if picture is None:
            raise _cut_short(name, "no frame can be decoded")
        for _ in range(len(ticks) - done):
            yield picture


def _grey(frame: Any, size_px: tuple[int, int] | None) -> Grey:
    turns = round(frame.rotation / 90) % 4
    if size_px is None:
        plain = frame.reformat(format="gray")
    else:
        width, height = size_px if turns % 2 == 0 else size_px[::-1]
        plain = frame.reformat(width=width, height=height, format="gray", interpolation="AREA")
    # FFmpeg gives the angle counter-clockwise, as rot90 turns.
    return np.ascontiguousarray(np.rot90(plain.to_ndarray(), turns))


def _look(container: Any, track: Any, name: str) -> tuple[int, int, int]:
    """Rotation in degrees, width and height of the first frame."""
    import av

    try:
        container.seek(0)
        frame = next(container.decode(track))
    except StopIteration:
        raise VideoContentError(f"{name} has a video track without frames; use its sound alone.") from None
    except (av.FFmpegError, ValueError) as error:
        raise _cut_short(name, f"its first frame cannot be decoded ({error})") from error
    return round(frame.rotation / 90) * 90, frame.width, frame.height


@contextmanager
def _open(source: str | Path | BinaryIO) -> Iterator[tuple[Any, Any, str]]:
    """The container, its first track of moving pictures or None, and the name for messages."""
    name = _name_of(source)
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"Reading the video of {name}", "media", "av") from error
    if isinstance(source, str | Path):
        if not Path(source).exists():
            raise AudioNotFoundError(f"There is no file {source}; check the name and the current folder.")
        opened: Any = str(source)
    else:
        source.seek(0)
        opened = source
    try:
        container = av.open(opened, mode="r")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoDecodeError(
            f"{name} cannot be opened: damaged, cut short, or no media file ({error}). Copy or download it again."
        ) from error
    with container:
        cover = av.stream.Disposition.attached_pic
        tracks = [track for track in container.streams.video if not track.disposition & cover]
        yield container, tracks[0] if tracks else None, name


def _name_of(source: str | Path | BinaryIO) -> str:
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the stream"


def _cut_short(name: str, what: str) -> VideoDecodeError:
    return VideoDecodeError(f"{name} is damaged or was cut short: {what}. Copy or download it again.")
