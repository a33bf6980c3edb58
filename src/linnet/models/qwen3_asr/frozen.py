"""Frozen linear layers with weights of eight bits: one scale per output row, dequantised where they are used.

Gradients reach the input, never the weight, and the dequantised matrix is not kept for the backward pass: it is made
again there, since a kept copy would cost more than the eight bits save.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenLinear(nn.Module):
    """x [..., in] → [..., out] in x's type, by int8 rows [out, in] and float32 scales [out, 1].

    Takes the place of `linear`, on whatever device it is; `fill` brings the weights.
    """

    rows: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight
        self.register_buffer("rows", torch.empty_like(weight, dtype=torch.int8), persistent=False)
        self.register_buffer("scales", weight.new_empty(len(weight), 1, dtype=torch.float32), persistent=False)
        self.bias = linear.bias

    def fill(self, first: int, weights: Tensor) -> None:
        """Put float32 rows [n, in] into eight bits, from row `first` on."""
        # A row of zeros has no scale; any will do.
        scales = (weights.abs().amax(dim=1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self.scales[first : first + len(weights)] = scales
        self.rows[first : first + len(weights)] = (weights / scales).round().to(torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        return _RowsProduct.apply(x, self.rows, self.scales, self.bias)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The matrix [out, in] this layer multiplies by."""
        return _dequantise(self.rows, self.scales, dtype)


def freeze_layers(network: nn.Module) -> None:
    """Make room for eight bits in the linear layers of all transformer layers; embeddings, convolutions, ends stay."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Linear and ".layers." in f".{name}":
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, FrozenLinear(module))


class _RowsProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, scales)
        return F.linear(x, _dequantise(rows, scales, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        rows, scales = ctx.saved_tensors
        return gradients[0] @ _dequantise(rows, scales, gradients[0].dtype), None, None, None


def _dequantise(rows: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return rows.to(dtype) * scales.to(dtype)
