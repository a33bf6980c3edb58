"""Frozen quantised layers: product and gradient are those of the dequantised matrix, which is near the weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linnet.models.qwen3_asr.adapter_config import Bits
from linnet.models.qwen3_asr.frozen import FrozenLinear

both = pytest.mark.parametrize("bits", [8, 4])


def filled(linear: nn.Linear, bits: Bits) -> FrozenLinear:
    frozen = FrozenLinear(linear, bits)
    frozen.fill(0, linear.weight.detach()[:5])  # in two blocks, as a checkpoint gives them
    frozen.fill(5, linear.weight.detach()[5:])
    return frozen


@both
def test_output_and_input_gradient_are_those_of_the_dequantised_matrix(bits: Bits) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 16).requires_grad_(False)
    frozen = filled(linear, bits)
    x = torch.randn(2, 5, 64)
    reference = x.clone().requires_grad_()
    x.requires_grad_()
    wanted = F.linear(reference, frozen.dequantised(torch.float32), linear.bias)
    found = frozen(x)
    assert torch.equal(found, wanted)
    outer = torch.randn_like(found)
    found.backward(outer)
    wanted.backward(outer)
    assert x.grad is not None and reference.grad is not None
    torch.testing.assert_close(x.grad, reference.grad)


@both
@pytest.mark.parametrize("columns", [64, 24])  # 24 is no multiple of a block of 32
def test_every_weight_is_within_half_a_step(bits: Bits, columns: int) -> None:
    linear = nn.Linear(columns, 16)
    with torch.no_grad():
        linear.weight[3] = 0  # a row without a scale
    frozen = filled(linear, bits)
    error = (frozen.dequantised(torch.float32) - linear.weight).abs()
    steps = frozen.scales.float().repeat_interleave(columns // frozen.scales.shape[1], dim=1)
    # A scale of bfloat16 may be smaller by 2⁻⁹ than the largest weight asks for: 7 of them miss it by 0.014 steps.
    assert (error <= steps * 0.515).all()
    assert frozen.dequantised(torch.float32)[3].eq(0).all()


def test_four_bits_are_packed_low_half_first() -> None:
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[7.0, -3.0]]))
    frozen = FrozenLinear(linear, 4)
    frozen.fill(0, linear.weight.detach())
    assert frozen.rows.tolist() == [[15 + (5 << 4)]] and frozen.scales.tolist() == [[1.0]]
