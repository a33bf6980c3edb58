"""Which frames are hidden, and which of them are the wrong answers: drawn on the device, without loops in Python.

Shapes: B clips, T positions, n masked positions at most, K negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor


def span_mask(lengths: Tensor, width: int, *, share: float, length: int, at_least: int = 0) -> Tensor:
    """Mask [B, width] of spans of `length` positions inside the first `lengths` [B] of each row.

    A row of L positions gets `share · L / length` spans (rounded up or down at random, the same draw for all rows), so
    0.65 with length 10 means that 6.5 % of the positions start a span. Starts differ, spans may overlap (Baevski et
    al. 2020, section 3.1; transformers' `_compute_mask_indices`). Rows shorter than one span stay as they are.
    """
    device = lengths.device
    spans = (share * lengths / length + torch.rand((), device=device)).long().clamp(min=at_least)
    places = (lengths - length + 1).clamp(min=0)
    spans = torch.minimum(torch.minimum(spans, torch.tensor(width // length, device=device)), places)
    most = min(width, max(at_least, int(share * width / length + 1)))
    draw = torch.rand(len(lengths), width, device=device)
    draw = draw.masked_fill(torch.arange(width, device=device) >= places[:, None], -1.0)
    chosen = draw.topk(most, dim=1).indices
    wanted = torch.arange(most, device=device) < spans[:, None]
    starts = torch.zeros(len(lengths), width + 1, device=device).scatter_(1, chosen, wanted.float())[:, :width]
    begun = starts.cumsum(1)
    ended = torch.nn.functional.pad(begun, (length, 0))[:, :width]
    return begun - ended > 0.5


def masked_positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [B, n] of the masked frames of mask [B, T], in order, and their number [B]; what is beyond is padding.

    `n` is the largest number in the batch, at least 1.
    """
    counts = mask.sum(1)
    most = max(1, int(counts.max()))
    order = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    return order[:, :most], counts


def sample_negatives(counts: Tensor, most: int, negatives: int) -> Tensor:
    """Ranks [B, most, K] among the masked frames of the same clip, uniform over all but the frame itself.

    `counts` [B] says how many masked frames a clip has. Rows and columns beyond mean nothing.
    """
    others = (counts - 1).clamp(min=1)[:, None, None]
    # The largest draw is 1 − 2⁻²⁴, whose product with a whole number below 2²⁴ never rounds up to that number.
    ranks = torch.rand(len(counts), most, negatives, device=counts.device).mul_(others).long()
    return ranks.add_(ranks >= torch.arange(most, device=counts.device)[:, None])
