"""Batches: everything once per epoch, bounded, the same after resuming, shared fairly between ranks."""

from __future__ import annotations

import os
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from linnet.data.batching import BucketBatchSampler, Key, Loader
from linnet.errors import ConfigError

LENGTHS = st.lists(st.floats(0.1, 30), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**31)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.floats(1, 100), SEEDS, st.integers(0, 50), st.booleans())
def test_every_key_is_drawn_once_per_epoch(
    lengths: list[float], most: float, seed: int, epoch: int, shuffle: bool
) -> None:
    batches = BucketBatchSampler(lengths, max_batch_s=most, seed=seed, shuffle=shuffle).batches(epoch)
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [(epoch, index) for index in range(len(lengths))]
    assert all(batches)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.floats(1, 100), SEEDS)
def test_padded_length_stays_below_the_bound(lengths: list[float], most: float, seed: int) -> None:
    for batch in BucketBatchSampler(lengths, max_batch_s=most, seed=seed).batches(0):
        longest = max(lengths[index] for _, index in batch)
        assert len(batch) == 1 or longest * len(batch) <= most  # a clip longer than the bound goes alone


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.floats(1, 100), SEEDS, st.integers(1, 7))
def test_ranks_draw_disjoint_batches_and_equally_many(
    lengths: list[float], most: float, seed: int, world_size: int
) -> None:
    def sampler(rank: int, size: int) -> BucketBatchSampler:
        return BucketBatchSampler(lengths, max_batch_s=most, seed=seed, rank=rank, world_size=size)

    whole = sampler(0, 1).batches(3)
    shares = [sampler(rank, world_size).batches(3) for rank in range(world_size)]
    per_rank = -(-len(whole) // world_size)
    assert [len(share) for share in shares] == [per_rank] * world_size
    counted = Counter(tuple(batch) for share in shares for batch in share)
    assert set(counted) == {tuple(batch) for batch in whole}
    # Only batches that even out the ranks come twice; with more batches than ranks, none comes oftener.
    assert sum(counted.values()) - len(whole) == per_rank * world_size - len(whole)
    if len(whole) >= world_size:
        assert max(counted.values()) <= 2
    in_turn = [shares[place % world_size][place // world_size] for place in range(len(whole))]
    assert in_turn == whole


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.floats(1, 100), SEEDS, st.data())
def test_resuming_leaves_out_what_was_seen(lengths: list[float], most: float, seed: int, data: Any) -> None:
    whole = BucketBatchSampler(lengths, max_batch_s=most, seed=seed)
    whole.set_position(2)
    expected = list(whole)
    first = data.draw(st.integers(0, len(expected)))
    resumed = BucketBatchSampler(lengths, max_batch_s=most, seed=seed)
    resumed.set_position(2, first)
    assert len(resumed) == len(expected) - first
    assert list(resumed) == expected[first:]


def test_epochs_and_seeds_mix_differently_and_repeat_exactly() -> None:
    lengths = list(np.random.default_rng(0).uniform(1, 10, 100))

    def batches(seed: int, epoch: int) -> list[set[int]]:
        drawn = BucketBatchSampler(lengths, max_batch_s=40, seed=seed).batches(epoch)
        return [{index for _, index in batch} for batch in drawn]

    assert batches(0, 0) == batches(0, 0)
    assert len([batch for batch in batches(0, 0) if batch in batches(0, 1)]) <= 2  # of 17; the shortest may stay
    assert batches(0, 0) != batches(1, 0)


def test_batches_hold_clips_of_similar_length() -> None:
    lengths = list(np.random.default_rng(0).uniform(1, 20, 500))
    batches = BucketBatchSampler(lengths, max_batch_s=60, seed=0).batches(0)
    padded = sum(len(batch) * max(lengths[index] for _, index in batch) for batch in batches)
    assert padded / sum(lengths) < 1.2  # the jitter of ±10 % costs about a tenth; random batches cost 1.6
    order = [max(lengths[index] for _, index in batch) for batch in batches]
    assert any(a > b for a, b in pairwise(order))  # but they come in random order


def test_draws_set_how_often_an_example_comes() -> None:
    draws = [0.0, 0.3, 1.0, 2.5]
    sampler = BucketBatchSampler([1.0] * 4, max_batch_s=2, seed=0, draws=draws)
    epochs = 2000
    counts = Counter(index for epoch in range(epochs) for batch in sampler.batches(epoch) for _, index in batch)
    assert counts[0] == 0 and counts[2] == epochs
    five_deviations = 5 * np.sqrt(0.25 * epochs)  # of a coin tossed once per epoch, at most
    assert counts[1] == pytest.approx(0.3 * epochs, abs=five_deviations)
    assert counts[3] == pytest.approx(2.5 * epochs, abs=five_deviations)


def test_without_shuffling_clips_come_from_short_to_long() -> None:
    batches = BucketBatchSampler([3.0, 1.0, 2.0, 9.0], max_batch_s=6, seed=0, shuffle=False).batches(0)
    assert [[index for _, index in batch] for batch in batches] == [[1, 2], [0], [3]]


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        BucketBatchSampler([], max_batch_s=1, seed=0)


class Keys(Dataset[tuple[Key, int]]):
    """The key itself, and the process that loaded it."""

    def __getitem__(self, key: Key) -> tuple[Key, int]:
        return key, os.getpid()


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_gives_the_sampler_s_batches_and_leaves_torch_s_randomness_alone(workers: int) -> None:
    sampler = BucketBatchSampler([1.0, 2.0, 3.0, 4.0, 5.0], max_batch_s=6, seed=1)
    loader = Loader(Keys(), sampler, collate=list, workers=workers)
    state = torch.get_rng_state()
    for epoch, first in ((0, 0), (0, 2), (5, 1)):
        drawn = list(loader.epoch(epoch, first))
        assert [[key for key, _ in batch] for batch in drawn] == sampler.batches(epoch)[first:]
        assert all((process == os.getpid()) == (workers == 0) for batch in drawn for _, process in batch)
    assert torch.equal(torch.get_rng_state(), state)  # or dropout would differ after resuming
