"""Training examples of a tokenizer: a stretch of a recording, corrupted as input, clean as target.

Shapes: N samples, F = N / hop_length frames, M mel bands, B clips, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from linnet.data.augment import augment_mel, augment_samples
from linnet.data.batching import Key
from linnet.data.clips import Clips
from linnet.features import FeatureSpec, log_mel
from linnet.models.bsq.config import BSQTrainConfig
from linnet.models.bsq.model import token_mask
from linnet.runtime.bsq_config import BSQConfig

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """Log-mel of the corrupted input and of the clean target [F, M], and the clean samples [N], all whole tokens."""

    input_mel: FloatArray
    target_mel: FloatArray
    samples: FloatArray


@dataclass
class Batch:
    """input_mel, target_mel [B, F, M] and samples [B, N], zero-padded; mask [B, T] is True on real tokens."""

    input_mel: Tensor
    target_mel: Tensor
    samples: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(part.to(device) for part in (self.input_mel, self.target_mel, self.samples, self.mask)))


class ReconstructionDataset(Dataset[Example]):
    """Examples of (epoch, index) keys, which decide everything random; `training=False` gives whole clips, clean."""

    def __init__(self, clips: Clips, config: BSQTrainConfig, *, training: bool) -> None:
        self.clips, self.config, self.training = clips, config, training

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Example:
        epoch, index = key
        shape, config = self.config.shape, self.config
        samples = self.clips[index]
        if not self.training:
            samples = whole_tokens(samples, shape)
            mel = log_mel(samples, shape.features).T
            return Example(mel, mel, samples)
        rng = np.random.default_rng([config.seed, epoch, index])
        longest = round(config.crop_s * shape.features.sample_rate_hz)
        if len(samples) > longest:
            start = int(rng.integers(len(samples) - longest + 1))
            samples = samples[start : start + longest]
        samples = whole_tokens(samples * np.float32(10 ** (rng.uniform(*config.gain_db) / 20)), shape)
        target = log_mel(samples, shape.features)
        heard = augment_samples(
            samples, config.augment, rng, rate_hz=shape.features.sample_rate_hz, pick_speech=self._pick_speech
        )
        mel = target if heard is samples else log_mel(heard[: len(samples)], shape.features)
        return Example(augment_mel(mel, config.augment, rng).T, target.T, samples)

    def _pick_speech(self, rng: np.random.Generator) -> FloatArray:
        return self.clips[int(rng.integers(len(self.clips)))]


def whole_tokens(samples: FloatArray, shape: BSQConfig) -> FloatArray:
    """The samples, and silence up to the end of the last token."""
    missing = -len(samples) % shape.token_samples
    return np.pad(samples, (0, missing)) if missing or not len(samples) else samples


def collate(examples: Sequence[Example], shape: BSQConfig) -> Batch:
    """Clips side by side; padding is masked, so that its value means nothing."""
    tokens = [len(example.samples) // shape.token_samples for example in examples]
    longest = max(tokens)
    frames, count = longest * shape.frames_per_token, len(examples)
    mels = np.zeros((2, count, frames, shape.features.n_mels), dtype=np.float32)
    samples = np.zeros((count, longest * shape.token_samples), dtype=np.float32)
    for row, example in enumerate(examples):
        mels[0, row, : len(example.input_mel)] = example.input_mel
        mels[1, row, : len(example.target_mel)] = example.target_mel
        samples[row, : len(example.samples)] = example.samples
    heard, wanted = torch.from_numpy(mels).unbind()
    return Batch(heard, wanted, torch.from_numpy(samples), token_mask(tokens))


def token_sample(clips: Clips, shape: BSQConfig, *, most: int = 300) -> FloatArray:
    """Normalised log-mel of tokens [N, R · M] of up to `most` clips spread over the corpus, 4 s of each."""
    mean, std = np.array(shape.mel_mean, np.float32), np.array(shape.mel_std, np.float32)
    parts = []
    for index in range(0, len(clips), max(1, len(clips) // most)):
        samples = whole_tokens(clips[index][: 4 * shape.features.sample_rate_hz], shape)
        mel = (log_mel(samples, shape.features).T - mean) / std
        parts.append(mel.reshape(-1, shape.token_features))
    return np.concatenate(parts).astype(np.float32)


def mel_statistics(clips: Clips, features: FeatureSpec, *, most: int = 300) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation of every band [M] over up to `most` clips spread over the corpus, 10 s of each."""
    total = np.zeros((2, features.n_mels))
    frames = 0
    for index in range(0, len(clips), max(1, len(clips) // most)):
        samples = clips[index][: 10 * features.sample_rate_hz]
        if len(samples) < features.hop_length:
            continue
        mel = log_mel(samples, features).astype(np.float64)
        total += [mel.sum(1), (mel**2).sum(1)]
        frames += mel.shape[1]
    mean = total[0] / max(1, frames)
    std = np.sqrt(np.maximum(total[1] / max(1, frames) - mean**2, 1e-4))
    return mean.astype(np.float32), std.astype(np.float32)
