"""Mouth pictures: small grey crops around the lips, one per tick of the video clock.

Faces come from OpenCV 4's Haar cascade (Viola & Jones 2001; the `[lips]` extra). The face is looked for five times a
second; a median over time takes out false alarms, straight lines join what is left, and where no face was found the
last good box stays. A video that holds nothing but a mouth, as the synthetic corpus and many lip-reading corpora do, is
taken as it is and needs no OpenCV.

Shapes: T ticks, S pixels each side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from linnet.errors import ConfigError, MissingExtraError, VideoContentError
from linnet.video import Grey, Timing, read_timing, stream_frames

RATE_HZ = 25.0
CropMode = Literal["auto", "face", "mouth"]
"""face: find it and crop the mouth. mouth: every frame is a crop already. auto: mouth if the picture is small."""
CROPPED_MAX_PX = 128
"""auto takes a video of at most this width and height for a crop: a face in it would have a mouth of 30 pixels."""
LOOK_EVERY = 5  # ticks
FACES_NEEDED = 0.5
"""Share of the looks that must find a face; below it the crops would be guesses."""
_LONG_SIDE_PX, _FACE_SIDE_PX = (640, 320)  # frames are kept, and searched, at no more than this
_MOUTH_ROW, _MOUTH_SIDE = (0.82, 0.54)  # centre of the mouth and side of the crop, as shares of the face box
_MEDIAN = 5  # looks
_BORDER = 0.3  # of the height: repeated edges stand in for a forehead that the picture cuts off

_Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MouthVideo:
    """Mouth pictures of one recording and how they were found."""

    frames: Grey
    """uint8 [T, S, S] at `rate_hz`."""
    rate_hz: float
    looks: int
    """How often a face was looked for; 0 if the video was a crop already."""
    faces: int
    """How often one was found."""
    timestamps_spread: bool
    """Whether the file's timestamps were unusable (see `linnet.video`)."""


def read_mouth(
    source: str | Path | BinaryIO,
    *,
    size_px: int,
    rate_hz: float = RATE_HZ,
    crop: CropMode = "auto",
    audio_duration_s: float | None = None,
) -> MouthVideo:
    """The mouth in a recording, on the clock of its sound; memory holds the crops and one frame.

    `audio_duration_s` helps with files whose timestamps are unusable (`video.read_timing`). Raises VideoDecodeError,
    VideoContentError (no face, with counts; too few frames), MissingExtraError, AudioNotFoundError.
    """
    if crop not in ("auto", "face", "mouth"):
        raise ConfigError(f"Unknown crop {crop!r}; accepted: 'auto', 'face', 'mouth'.")
    timing = read_timing(source, audio_duration_s=audio_duration_s)
    small = max(timing.width_px, timing.height_px) <= CROPPED_MAX_PX
    if crop == "mouth" or (crop == "auto" and small):
        frames = np.stack(list(stream_frames(source, timing, rate_hz=rate_hz, size_px=(size_px, size_px))))
        return MouthVideo(frames, rate_hz, 0, 0, timing.spread)
    return _from_face(source, timing, size_px, rate_hz)


def smooth_boxes(boxes: _Boxes, found: npt.NDArray[np.bool_]) -> _Boxes:
    """Boxes [looks, 3] (centre x, centre y, side): the last good one where none was found, then a running median."""
    last = np.maximum.accumulate(np.where(found, np.arange(len(found)), -1))
    filled = boxes[np.where(last < 0, int(np.argmax(found)), last)]  # before the first face, the first face
    half = _MEDIAN // 2
    padded = np.pad(filled, ((half, half), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN, axis=0)
    smoothed: _Boxes = np.median(windows, axis=-1)
    return smoothed


def _from_face(source: str | Path | BinaryIO, timing: Timing, size_px: int, rate_hz: float) -> MouthVideo:
    cv2 = _opencv(source)
    scale = min(1.0, _LONG_SIDE_PX / max(timing.width_px, timing.height_px))
    size = (max(2, round(timing.width_px * scale)), max(2, round(timing.height_px * scale)))
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    looks = [
        _find_face(cv2, cascade, frame)
        for tick, frame in enumerate(stream_frames(source, timing, rate_hz=rate_hz, size_px=size))
        if tick % LOOK_EVERY == 0
    ]
    found = np.array([box is not None for box in looks])
    if found.mean() < FACES_NEEDED:
        raise VideoContentError(
            f"{source}: a face was found in {int(found.sum())} of {len(found)} frames looked at; reading lips needs "
            f"one in at least {FACES_NEEDED:.0%}. Film the face from the front, or use the sound alone."
        )
    boxes = smooth_boxes(np.array([box or (0.0, 0.0, 0.0) for box in looks]), found)
    # Decoded a second time: keeping the frames of an hour would take gigabytes.
    crops = []
    for tick, frame in enumerate(stream_frames(source, timing, rate_hz=rate_hz, size_px=size)):
        x, y, side = (np.interp(tick / LOOK_EVERY, np.arange(len(boxes)), boxes[:, k]) for k in range(3))
        crops.append(_crop(cv2, frame, x, y + (_MOUTH_ROW - 0.5) * side, _MOUTH_SIDE * side, size_px))
    return MouthVideo(np.stack(crops), rate_hz, len(looks), int(found.sum()), timing.spread)


def _find_face(cv2: Any, cascade: Any, frame: Grey) -> tuple[float, float, float] | None:
    """Centre and side of the largest face, in pixels of the frame."""
    shrink = min(1.0, _FACE_SIDE_PX / max(frame.shape))
    small = frame if shrink == 1.0 else cv2.resize(frame, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    least = max(24, min(small.shape) // 6)  # a smaller face has no mouth to read
    for border in (0, round(_BORDER * small.shape[0])):
        seen = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_REPLICATE)
        faces = cascade.detectMultiScale(seen, scaleFactor=1.1, minNeighbors=3, minSize=(least, least))
        if len(faces):
            x, y, width, height = max(faces, key=lambda face: face[2] * face[3])
            return ((x - border + width / 2) / shrink, (y - border + height / 2) / shrink, width / shrink)
    return None


def _crop(cv2: Any, frame: Grey, x: float, y: float, side: float, size_px: int) -> Grey:
    """The square of `side` pixels around (x, y), edges repeated where it leaves the picture, at size_px."""
    half = max(1, round(side / 2))
    left, top = round(x) - half, round(y) - half
    rows = np.clip(np.arange(top, top + 2 * half), 0, frame.shape[0] - 1)
    columns = np.clip(np.arange(left, left + 2 * half), 0, frame.shape[1] - 1)
    square = frame[np.ix_(rows, columns)]
    method = cv2.INTER_AREA if 2 * half >= size_px else cv2.INTER_LINEAR
    resized: Grey = cv2.resize(square, (size_px, size_px), interpolation=method)
    return resized


def _opencv(source: str | Path | BinaryIO) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError(f"Finding the mouth in {source}", "lips", "opencv-python-headless") from error
    if not hasattr(cv2, "CascadeClassifier"):  # OpenCV 5 dropped the cascades
        raise MissingExtraError(f"Finding the mouth in {source}", "lips", "opencv-python-headless<5")
    return cv2
