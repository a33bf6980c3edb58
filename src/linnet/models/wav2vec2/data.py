"""Clips for wav2vec 2.0: normalised samples in zero-padded batches, and which utterances cannot be used.

Shapes: B clips, N samples of the longest.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from linnet.audio import SAMPLE_RATE_HZ
from linnet.ctc import min_frames
from linnet.data.augment import AugmentConfig, augment_samples
from linnet.data.batching import BucketBatchSampler, Key, Loader
from linnet.data.clips import Clips
from linnet.errors import ConfigError, TrainingError
from linnet.manifest import Utterance, read_manifest
from linnet.models.wav2vec2.model import normalise
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.runtime.wav2vec2_vocabulary import Vocabulary

FloatArray = npt.NDArray[np.float32]
_SHOWN = 5  # names in the message; the file has all


@dataclass
class Batch:
    """samples [B, N], zero-padded; lengths [B]; targets: the labels of each clip, empty in pretraining."""

    samples: Tensor
    lengths: Tensor
    targets: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.samples.to(device), self.lengths.to(device), [target.to(device) for target in self.targets])


@dataclass(frozen=True)
class Preflight:
    """What can be used: indices of utterances with their labels; and the names of the others by reason."""

    kept: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]
    left_out: dict[str, list[str]]

    def write(self, path: Path) -> None:
        """As JSON: counts and names by reason."""
        counts = {"kept": len(self.kept), **{reason: len(names) for reason, names in self.left_out.items()}}
        described = {"counts": counts, "left_out": self.left_out}
        path.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def summary(self) -> str:
        """One line with counts and the first names; empty if nothing was left out."""
        parts = []
        for reason, names in self.left_out.items():
            more = " …" if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} {reason} ({', '.join(names[:_SHOWN])}{more})")
        return "; ".join(parts)


def preflight(
    utterances: Sequence[Utterance],
    clips: Clips,
    config: Wav2Vec2Config,
    *,
    vocabulary: Vocabulary | None = None,
    min_duration_s: float = 0.0,
    max_duration_s: float = float("inf"),
    max_left_out: float = 1.0,
) -> Preflight:
    """Look at every clip before training: what a network cannot learn from is named and left out, nothing else.

    With a `vocabulary`, texts are checked too: empty, with characters outside, or with more labels than the frames can
    hold (CTC's loss would be infinite). Raises TrainingError if more than `max_left_out` of the utterances go.
    """
    kept: list[int] = []
    labels: list[tuple[int, ...]] = []
    left_out: dict[str, list[str]] = {}
    for index, utterance in enumerate(utterances):
        samples = clips[index]
        reason, numbers = None, list[int]()
        if len(samples) < config.receptive_field:
            reason = f"shorter than {config.receptive_field} samples"
        elif not min_duration_s <= len(samples) / SAMPLE_RATE_HZ <= max_duration_s:
            reason = f"outside {min_duration_s:g}…{max_duration_s:g} s"
        elif float(samples.std()) == 0.0:
            reason = "silent"
        elif vocabulary is not None:
            numbers, unknown = vocabulary.encode(utterance.text or "", utterance.language)
            if unknown:
                reason = "with characters outside the vocabulary"
            elif not numbers:
                reason = "with an empty transcript"
            elif min_frames(numbers) > config.frames(len(samples)):
                reason = "with more labels than frames"
        if reason is None:
            kept.append(index)
            labels.append(tuple(numbers))
        else:
            left_out.setdefault(reason, []).append(utterance.id)
    found = Preflight(tuple(kept), tuple(labels), left_out)
    if not kept or len(kept) < (1 - max_left_out) * len(utterances):
        raise TrainingError(
            f"Only {len(kept)} of {len(utterances)} utterances can be used: {found.summary()}. Check that the "
            "manifest, its texts and the vocabulary belong together."
        )
    return found


class WaveDataset(Dataset[tuple[Tensor, Tensor]]):
    """Normalised samples and labels of (epoch, index) keys; everything random follows from the key."""

    def __init__(
        self,
        clips: Clips,
        found: Preflight,
        *,
        seed: int,
        crop_s: float | None = None,
        augment: AugmentConfig | None = None,
        normalised: bool = True,
    ) -> None:
        self.clips, self.found, self.seed = clips, found, seed
        self.crop = None if crop_s is None else int(crop_s * SAMPLE_RATE_HZ)
        self.augment, self.normalised = augment, normalised

    def __len__(self) -> int:
        return len(self.found.kept)

    def duration_s(self, index: int) -> float:
        """Seconds of example `index`, cropped."""
        duration = self.clips.duration_s(self.found.kept[index])
        return duration if self.crop is None else min(duration, self.crop / SAMPLE_RATE_HZ)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        samples = self.clips[self.found.kept[index]]
        if self.crop is not None and len(samples) > self.crop:
            start = int(rng.integers(0, len(samples) - self.crop + 1))
            samples = samples[start : start + self.crop]
        if self.augment is not None:
            samples = augment_samples(samples, self.augment, rng, rate_hz=SAMPLE_RATE_HZ, pick_speech=self._pick_speech)
        wave = torch.from_numpy(samples)
        return normalise(wave) if self.normalised else wave, torch.tensor(self.found.labels[index], dtype=torch.long)

    def loader(self, *, max_batch_s: float, workers: int = 0, shuffle: bool = True) -> Loader:
        """Batches of similar length, split over ranks."""
        sampler = BucketBatchSampler(
            [self.duration_s(index) for index in range(len(self))],
            max_batch_s=max_batch_s,
            seed=self.seed,
            shuffle=shuffle,
            rank=int(os.environ.get("RANK", "0")) if shuffle else 0,
            world_size=int(os.environ.get("WORLD_SIZE", "1")) if shuffle else 1,
        )
        return Loader(self, sampler, collate=collate, workers=workers)

    def _pick_speech(self, rng: np.random.Generator) -> FloatArray:
        return self.clips[int(rng.integers(len(self.clips)))]


def collate(examples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Pad to the longest with zeros, which is the mean after normalising."""
    waves = [wave for wave, _ in examples]
    return Batch(
        samples=nn.utils.rnn.pad_sequence(waves, batch_first=True),
        lengths=torch.tensor([len(wave) for wave in waves]),
        targets=[target for _, target in examples],
    )


def read_manifests(manifests: Sequence[Path], *, what: str) -> list[Utterance]:
    """Utterances of all manifests; ConfigError if there is none."""
    if not manifests:
        raise ConfigError(f"No data: give {what} a JSONL manifest (see `linnet prepare`).")
    return [utterance for manifest in manifests for utterance in read_manifest(manifest)]


def warn(found: Preflight, what: str) -> None:
    """Say on stderr what was left out (through logging, as libraries do)."""
    if found.left_out:
        logging.getLogger("linnet").warning("%s: left out %s. All are in preflight.json.", what, found.summary())
