"""The convolution as matrix products against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linnet.models.wav2vec2.model import strided_conv


@pytest.mark.parametrize(("taps", "stride"), [(10, 5), (3, 2), (2, 2), (1, 1), (3, 1), (7, 3), (2, 4)])
@pytest.mark.parametrize("extra", [0, 1, 2, 13])
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_conv1d(taps: int, stride: int, extra: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(3, 4, taps, stride, bias=bias).double()
    frames = torch.randn(2, taps + extra, 3, dtype=torch.float64, requires_grad=True)
    ours = strided_conv(frames, conv)
    theirs = F.conv1d(frames.transpose(1, 2), conv.weight, conv.bias, stride).transpose(1, 2)
    leaves = [frames, *conv.parameters()]
    weight = torch.randn_like(theirs)
    found, expected = (torch.autograd.grad((y * weight).sum(), leaves) for y in (ours, theirs))
    for one, other in zip((ours, *found), (theirs, *expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_fewer_frames_than_taps_are_an_error_as_in_torch() -> None:
    with pytest.raises(RuntimeError, match="9 frames are fewer than the 10 taps"):
        strided_conv(torch.zeros(1, 9, 1), nn.Conv1d(1, 4, 10, 5))
