"""Mouth pictures of training videos, once: every video's crops in one memory-mapped file, as `clips.py` does for sound.

Finding faces costs a hundred times a training step. The cache is keyed by the files' paths, sizes, times and the size
of the pictures. A video that cannot be used leaves its utterance without pictures, which models trained with modality
dropout take as one more missing stream; it is named in `<cache>.unreadable.txt` and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linnet.errors import LinnetError, MissingExtraError
from linnet.lips import RATE_HZ, CropMode, read_mouth
from linnet.manifest import Utterance

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Mouths:
    """Random access: `mouths[i]` is uint8 [T, S, S] at 25 Hz; T is 0 where there is no usable video."""

    pictures: Grey
    """All of them [ΣT, S, S], memory-mapped."""
    offsets: npt.NDArray[np.int64]
    without_video: int
    """Utterances whose manifest names no video."""
    unreadable: int
    """Utterances whose video cannot be used."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Grey:
        return np.asarray(self.pictures[self.offsets[index] : self.offsets[index + 1]])

    def frames(self, index: int) -> int:
        """T of utterance `index`."""
        return int(self.offsets[index + 1] - self.offsets[index])


def load_mouths(
    utterances: Sequence[Utterance],
    cache_dir: Path,
    *,
    size_px: int,
    crop: CropMode = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Mouths:
    """Crop all utterances' mouths, or map the cache. Raises MissingExtraError if PyAV or OpenCV is needed and absent.

    `crop` says what the videos show; a key `video_crop` in an utterance's manifest line ("face", "mouth") wins.
    """
    key = hashlib.sha256(f"{size_px}|{crop}|{RATE_HZ}".encode())
    for utterance in utterances:
        path = utterance.video_path
        stat = path.stat() if path is not None and path.exists() else None
        mode = utterance.extra.get("video_crop", "")
        key.update(f"{path}|{stat.st_size if stat else 0}|{stat.st_mtime_ns if stat else 0}|{mode}\n".encode())
    base = cache_dir / f"mouths-{key.hexdigest()[:16]}"
    index_path = base.with_suffix(".json")
    if not index_path.exists():
        _crop_all(utterances, base, size_px, crop, progress)
    index = json.loads(index_path.read_text())
    count = index["offsets"][-1]
    pictures = (
        np.memmap(base.with_suffix(".u8"), dtype=np.uint8, mode="r", shape=(count, size_px, size_px))
        if count
        else np.zeros((0, size_px, size_px), np.uint8)
    )
    return Mouths(pictures, np.asarray(index["offsets"], np.int64), index["without_video"], index["unreadable"])


def _crop_all(
    utterances: Sequence[Utterance],
    base: Path,
    size_px: int,
    crop: CropMode,
    progress: Callable[[int, int], None] | None,
) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    partial = base.with_suffix(f".partial-{os.getpid()}")
    offsets, unreadable, without = [0], [], 0
    with open(partial, "wb") as file:
        for number, utterance in enumerate(utterances, start=1):
            frames = np.zeros((0, size_px, size_px), np.uint8)
            if utterance.video_path is None:
                without += 1
            else:
                try:
                    mouth = read_mouth(
                        utterance.video_path,
                        size_px=size_px,
                        crop=utterance.extra.get("video_crop", crop),
                        audio_duration_s=utterance.duration_s,
                    )
                    frames = mouth.frames
                except MissingExtraError:
                    raise
                except LinnetError as error:
                    unreadable.append(f"{utterance.video_path}: {error}")
            file.write(frames.tobytes())
            offsets.append(offsets[-1] + len(frames))
            if progress:
                progress(number, len(utterances))
    os.replace(partial, base.with_suffix(".u8"))
    if unreadable:
        base.with_suffix(".unreadable.txt").write_text("\n".join(unreadable) + "\n")
    # Last and at once: another process that finds the index takes it as complete.
    partial.write_text(json.dumps({"offsets": offsets, "without_video": without, "unreadable": len(unreadable)}))
    os.replace(partial, base.with_suffix(".json"))
