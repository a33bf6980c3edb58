"""Masks and negatives: what they promise, and that they come as often as transformers' do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.models.wav2vec2.masking import masked_positions, sample_negatives, span_mask


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 80), min_size=1, max_size=5),
    share=st.floats(0.01, 0.99),
    length=st.integers(1, 12),
    at_least=st.integers(0, 3),
)
def test_masks_are_whole_spans_inside_the_clip(lengths: list[int], share: float, length: int, at_least: int) -> None:
    width = max(1, *lengths)
    mask = span_mask(torch.tensor(lengths), width, share=share, length=length, at_least=at_least)
    assert mask.shape == (len(lengths), width)
    for row, n in zip(mask.tolist(), lengths, strict=True):
        assert not any(row[n:])
        edges = np.flatnonzero(np.diff([0, *map(int, row), 0]))
        runs = edges[1::2] - edges[::2]
        assert all(run >= length for run in runs)  # overlapping spans make longer runs, never shorter ones
        assert len(runs) > 0 or n < length or at_least == 0 or width < length


def test_the_masked_share_is_that_of_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    torch.manual_seed(0), np.random.seed(0)
    lengths = [400, 250, 90]
    ours = torch.stack([
        span_mask(torch.tensor(lengths), 400, share=0.65, length=10, at_least=2).sum(1) for _ in range(80)
    ]).double()  # fmt: skip
    attention = torch.arange(400) < torch.tensor(lengths)[:, None]
    theirs = np.stack([
        modeling._compute_mask_indices((3, 400), 0.65, 10, attention_mask=attention.long(), min_masks=2).sum(1)
        for _ in range(80)
    ])  # fmt: skip
    error = 4 * np.sqrt(theirs.var(0) / 80 + ours.numpy().var(0) / 80)  # four standard errors of the difference
    assert np.all(np.abs(ours.numpy().mean(0) - theirs.mean(0)) < error + 1e-9)


def test_every_frame_is_masked_equally_often_but_for_the_edges() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([span_mask(torch.tensor([60]), 60, share=0.5, length=5)[0] for _ in range(3000)]).float()
    inner = drawn.mean(0)[4:56]
    assert float(inner.std()) < 3 * float((inner.mean() * (1 - inner.mean()) / 3000).sqrt())


def test_positions_are_the_masked_ones_in_order() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    positions, counts = masked_positions(mask)
    assert counts.tolist() == [3, 1, 0]
    assert positions[0].tolist() == [1, 2, 4] and positions[1, 0] == 3
    assert masked_positions(mask[2:])[0].shape == (1, 1)  # nothing masked: one place of padding


def test_negatives_are_other_masked_frames_and_uniform() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([6, 2])
    drawn = sample_negatives(counts, 6, 20_000)
    for row, n in enumerate(counts.tolist()):
        for frame in range(n):
            seen = torch.bincount(drawn[row, frame], minlength=n)
            assert seen[frame] == 0 and len(seen) == n  # never itself, never beyond the clip's masked frames
            expected = 20_000 / (n - 1)
            others = torch.cat([seen[:frame], seen[frame + 1 :]]).float()
            assert float((others - expected).abs().max()) < 5 * expected**0.5
