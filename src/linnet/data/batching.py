"""Batches of similar length, drawn anew every epoch, resumable at any batch and split over ranks.

An item key is (epoch, index): everything random about an example follows from it, so that a resumed run and a
multi-process loader see the very same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from linnet.errors import ConfigError

Key = tuple[int, int]


class BucketBatchSampler(Sampler[list[Key]]):
    """Lists of (epoch, index) whose padded length stays below `max_batch_s` seconds.

    durations_s: length of every example. draws: expected number of times an example is drawn per epoch (1.0 = once,
    0.3 = in three epochs of ten, 2.0 = twice). Lengths are jittered by ±10 % before sorting, so that batches mix.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        *,
        max_batch_s: float,
        seed: int,
        draws: Sequence[float] | None = None,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not len(durations_s):
            raise ConfigError("There is nothing to train on: the manifests gave no usable utterance.")
        self.durations_s = np.asarray(durations_s, dtype=np.float64)
        self.draws = np.ones(len(self.durations_s)) if draws is None else np.asarray(draws, dtype=np.float64)
        self.max_batch_s, self.seed, self.shuffle = max_batch_s, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch, self.first_batch = 0, 0

    def set_position(self, epoch: int, first_batch: int = 0) -> None:
        """Continue with this epoch, leaving out the batches already seen."""
        self.epoch, self.first_batch = epoch, first_batch

    def batches(self, epoch: int) -> list[list[Key]]:
        """All batches of this rank in one epoch; every rank gets the same number."""
        rng = np.random.default_rng([self.seed, epoch])
        whole = np.floor(self.draws).astype(int)
        times = whole + (rng.random(len(self.draws)) < self.draws - whole) if self.shuffle else whole
        indices = np.repeat(np.arange(len(times)), times)
        lengths = self.durations_s[indices]
        if self.shuffle:
            lengths = lengths * rng.uniform(0.9, 1.1, len(lengths))
        indices = indices[np.argsort(lengths, kind="stable")]
        batches: list[list[Key]] = []
        batch: list[Key] = []
        longest = 0.0
        for index in indices:
            longest_with = max(longest, self.durations_s[index])
            if batch and longest_with * (len(batch) + 1) > self.max_batch_s:
                batches.append(batch)
                batch, longest_with = [], self.durations_s[index]
            batch.append((epoch, int(index)))
            longest = longest_with
        if batch:
            batches.append(batch)
        if self.shuffle:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        missing = -len(batches) % self.world_size  # ranks wait for each other: all need the same number
        batches += [batches[i % len(batches)] for i in range(missing)]
        return batches[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[list[Key]]:
        yield from self.batches(self.epoch)[self.first_batch :]

    def __len__(self) -> int:
        return len(self.batches(self.epoch)) - self.first_batch


class Loader:
    """A DataLoader over a BucketBatchSampler; `epoch(n, first_batch)` iterates one epoch."""

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: BucketBatchSampler,
        *,
        collate: Callable[[list[Any]], Any],
        workers: int = 0,
    ) -> None:
        self.sampler = sampler
        # The keys are drawn by the sampler at iteration time, so one loader (and its workers) serves all epochs.
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            # Of its own: each epoch draws a seed for the workers, and must not take it from the model's randomness,
            # since a resumed run begins its epoch once more.
            generator=torch.Generator(),
            persistent_workers=False,
            prefetch_factor=4 if workers else None,
        )

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Any]:
        """Batches of one epoch from `first_batch` on."""
        self.sampler.set_position(epoch, first_batch)
        return iter(self._loader)
