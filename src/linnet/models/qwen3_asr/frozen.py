"""Frozen linear layers with weights of eight or four bits, dequantised where they are used.

Gradients reach the input, never the weight, and the dequantised matrix is not kept for the backward pass: it is made
again there, since a kept copy would cost more than the few bits save. Eight bits have one scale per output row, four
bits one for each block of 32 weights of a row; both are symmetric and round to the nearest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.models.qwen3_asr.adapter_config import Bits, block_size


class FrozenLinear(nn.Module):
    """x [..., in] → [..., out] in x's type, by quantised rows [out, in] and scales [out, in / block].

    Takes the place of `linear`, on whatever device it is; `fill` brings the weights. Four-bit rows hold two weights in
    a byte, the first in the low half, 8 above its value.
    """

    rows: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear, bits: Bits) -> None:
        super().__init__()
        weight, self.bits = linear.weight, bits
        outputs, inputs = weight.shape
        blocks = inputs // block_size(inputs, bits)
        rows = (inputs, torch.int8) if bits == 8 else (inputs // 2, torch.uint8)
        self.register_buffer("rows", weight.new_empty(outputs, rows[0], dtype=rows[1]), persistent=False)
        scale_type = torch.float32 if bits == 8 else torch.bfloat16
        self.register_buffer("scales", weight.new_empty(outputs, blocks, dtype=scale_type), persistent=False)
        self.bias = linear.bias

    def fill(self, first: int, weights: Tensor) -> None:
        """Quantise float32 rows [n, in] into their place from row `first` on."""
        most = 2 ** (self.bits - 1) - 1
        blocks = weights.unflatten(1, (self.scales.shape[1], -1))
        # A block of zeros has no scale; any will do.
        tiny = torch.finfo(torch.float32).tiny
        scales = (blocks.abs().amax(dim=2) / most).clamp_min(tiny).to(self.scales.dtype)
        values = (blocks / scales.float()[..., None]).round().clamp(-most, most).flatten(1)
        if self.bits == 4:
            low, high = (values + 8).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
            values = low | high << 4
        self.scales[first : first + len(weights)] = scales
        self.rows[first : first + len(weights)] = values.to(self.rows.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return _RowsProduct.apply(x, self.rows, self.scales, self.bias)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The matrix [out, in] this layer multiplies by."""
        return _dequantise(self.rows, self.scales, _scratch(self.rows, dtype)).clone()


def freeze_layers(network: nn.Module, bits: Bits) -> None:
    """Make room for few bits in the linear layers of all transformer layers; embeddings, convolutions, ends stay."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Linear and ".layers." in f".{name}":
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, FrozenLinear(module, bits))


class _RowsProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, scales)
        return F.linear(x, _dequantise(rows, scales, _scratch(rows, x.dtype)), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        rows, scales = ctx.saved_tensors
        matrix = _dequantise(rows, scales, _scratch(rows, gradients[0].dtype))
        return gradients[0] @ matrix, None, None, None


_buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def _scratch(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for one matrix [out, in], which the next product overwrites.

    One buffer for all: a fresh matrix for each product left holes in the heap that came to a gigabyte (1.7B, a CPU).
    """
    columns = rows.shape[1] * (2 if rows.dtype == torch.uint8 else 1)
    size, key = len(rows) * columns, (rows.device, dtype)
    if key not in _buffers or len(_buffers[key]) < size:
        _buffers[key] = rows.new_empty(size, dtype=dtype)
    return _buffers[key][:size].view(-1, columns)


def _dequantise(rows: Tensor, scales: Tensor, out: Tensor) -> Tensor:
    if rows.dtype == torch.uint8:
        halves = out.unflatten(1, (-1, 2))
        halves[..., 0] = rows & 15
        halves[..., 1] = rows >> 4
        out -= 8
    else:
        out.copy_(rows)
    out.unflatten(1, (scales.shape[1], -1)).mul_(scales.to(out.dtype)[..., None])
    return out
