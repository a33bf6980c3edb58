"""Audio-visual training examples: one clip's log-mel, mouth pictures and labels, augmented alike where time changes.

Shapes: M mel bands, F mel frames, T pictures of S × S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from linnet.audio import SAMPLE_RATE_HZ
from linnet.data.augment import AugmentConfig, augment_mel, augment_samples, warp_mel
from linnet.data.batching import Key
from linnet.data.clips import Clips
from linnet.data.video import Grey, Mouths
from linnet.features import FeatureSpec, log_mel

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class VideoAugment:
    """Strength of what is done to pictures; the same for all pictures of a clip, but for the hidden stretch."""

    shift_px: int = 2
    """Largest shift in each direction, edges repeated: the crop is never exactly on the mouth."""
    mirror_probability: float = 0.5
    contrast: tuple[float, float] = (0.7, 1.3)
    hide_probability: float = 0.2
    """How often a stretch is hidden, as by a hand."""
    hide_s: float = 0.5
    """Longest hidden stretch."""


@dataclass(frozen=True)
class AVExample:
    """mel float32 [M, F] (F = 0: absent), video uint8 [T, S, S] (T = 0: absent), labels [N]."""

    mel: FloatArray
    video: Grey
    labels: list[int]


class AVDataset(Dataset[AVExample]):
    """Examples of (epoch, index) keys; everything random follows from the key and the seed.

    `drop_audio`, `drop_video`: probability of leaving a stream out (modality dropout); never both, and a clip that has
    only one keeps it. Augmentation of sound grows evenly over `ramp_epochs`; None gives the clips as they are.
    """

    def __init__(
        self,
        clips: Clips,
        mouths: Mouths,
        labels: Sequence[list[int]],
        *,
        features: FeatureSpec,
        seed: int,
        augment: AugmentConfig | None,
        video_augment: VideoAugment | None,
        drop_audio: float,
        drop_video: float,
        ramp_epochs: int = 0,
    ) -> None:
        self.clips, self.mouths, self.labels = clips, mouths, labels
        self.features, self.seed = features, seed
        self.augment, self.video_augment = augment, video_augment
        self.drop_audio, self.drop_video, self.ramp_epochs = (drop_audio, drop_video, ramp_epochs)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> AVExample:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        video = self.mouths[index]
        draw = rng.random()
        hear = draw >= self.drop_audio or len(video) == 0
        see = len(video) > 0 and (draw < self.drop_audio or draw < 1 - self.drop_video)
        augment = self.augment
        if augment is not None and epoch < self.ramp_epochs:
            augment = augment.weakened(epoch / self.ramp_epochs)
        mel = self._mel(index, augment, rng) if hear else np.zeros((self.features.n_mels, 0), np.float32)
        if not see:
            video = video[:0]
        if augment is not None:
            mel, video = change_speed(mel, video, float(rng.uniform(*augment.speed)))
        if self.video_augment is not None and len(video):
            video = augment_video(video, self.video_augment, rng)
        return AVExample(mel, video, self.labels[index])

    def _mel(self, index: int, augment: AugmentConfig | None, rng: np.random.Generator) -> FloatArray:
        samples = self.clips[index]
        missing = self.features.hop_length - len(samples)
        samples = np.pad(samples, (0, missing)) if missing > 0 else samples
        if augment is None:
            return log_mel(samples, self.features)
        samples = augment_samples(samples, augment, rng, rate_hz=SAMPLE_RATE_HZ, pick_speech=self._pick_speech)
        # Speed changes sound and pictures alike, so it comes later.
        return augment_mel(log_mel(samples, self.features), replace(augment, speed=(1.0, 1.0)), rng)

    def _pick_speech(self, rng: np.random.Generator) -> FloatArray:
        return self.clips[int(rng.integers(len(self.clips)))]


def change_speed(mel: FloatArray, video: Grey, speed: float) -> tuple[FloatArray, Grey]:
    """Sound and pictures at `speed` times their pace, so that they stay together."""
    if mel.shape[1]:
        mel = warp_mel(mel, speed=speed, vocal_tract=1.0)
    if len(video):
        wanted = max(1, round(len(video) / speed))
        video = video[np.minimum((np.arange(wanted) * speed).astype(int), len(video) - 1)]
    return mel, video


def augment_video(video: Grey, config: VideoAugment, rng: np.random.Generator) -> Grey:
    """Shift, mirror, change the contrast and hide a stretch of pictures uint8 [T, S, S]; the shape stays."""
    size = video.shape[1]
    down, right = rng.integers(-config.shift_px, config.shift_px + 1, 2)
    rows = np.clip(np.arange(size) + down, 0, size - 1)
    columns = np.clip(np.arange(size) + right, 0, size - 1)
    if rng.random() < config.mirror_probability:
        columns = columns[::-1]
    changed = video[:, rows[:, None], columns[None]].astype(np.float32)
    changed = (changed - 128) * np.float32(rng.uniform(*config.contrast)) + 128
    if rng.random() < config.hide_probability:
        length = int(rng.integers(1, max(2, round(config.hide_s * 25))))
        start = int(rng.integers(0, max(1, len(video) - length + 1)))
        changed[start : start + length] = 128
    pixels: Grey = np.clip(changed, 0, 255).astype(np.uint8)
    return pixels
