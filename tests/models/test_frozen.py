"""Frozen int8 layers: the product and its gradient are those of the dequantised matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from linnet.models.qwen3_asr.frozen import FrozenLinear


def filled(linear: nn.Linear) -> FrozenLinear:
    frozen = FrozenLinear(linear)
    frozen.fill(0, linear.weight.detach()[:5])  # in two blocks, as a checkpoint gives them
    frozen.fill(5, linear.weight.detach()[5:])
    return frozen


def test_output_and_input_gradient_are_those_of_the_dequantised_matrix() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 16).requires_grad_(False)
    frozen = filled(linear)
    x = torch.randn(2, 5, 24)
    reference = x.clone().requires_grad_()
    x.requires_grad_()
    matrix = frozen.rows.float() * frozen.scales
    wanted = F.linear(reference, matrix, linear.bias)
    found = frozen(x)
    assert torch.equal(found, wanted)
    outer = torch.randn_like(found)
    found.backward(outer)
    wanted.backward(outer)
    assert x.grad is not None and reference.grad is not None
    torch.testing.assert_close(x.grad, reference.grad)


def test_every_weight_is_within_half_a_step() -> None:
    linear = nn.Linear(24, 16)
    with torch.no_grad():
        linear.weight[3] = 0  # a row without a scale
    frozen = filled(linear)
    error = (frozen.dequantised(torch.float32) - linear.weight).abs()
    assert (error <= frozen.scales * 0.5001).all()
    assert frozen.dequantised(torch.float32)[3].eq(0).all()
