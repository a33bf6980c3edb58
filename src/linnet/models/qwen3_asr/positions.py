"""Positions of Qwen3-ASR: Whisper's sinusoids in the audio encoder, rotary embedding in the decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig


def sinusoids(length: int, channels: int, *, max_timescale: float = 10_000.0) -> Tensor:
    """Whisper's position table [length, channels]: sines in the first half, cosines in the second."""
    angles = torch.arange(length)[:, None].float() / sinusoid_timescales(channels, max_timescale=max_timescale)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sinusoid_timescales(channels: int, *, max_timescale: float = 10_000.0) -> Tensor:
    """Positions per radian of each pair of sine and cosine, [channels / 2], from 1 to `max_timescale`."""
    step = math.log(max_timescale) / (channels // 2 - 1)
    return torch.exp(step * torch.arange(channels // 2).float())


def rotary_table(start: int, length: int, config: Qwen3ASRConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim] for positions start … start + length − 1."""
    exponents = torch.arange(0, config.head_dim, 2, device=like.device).float() / config.head_dim
    angles = torch.arange(start, start + length, device=like.device).float()[:, None] / config.rope_theta**exponents
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of [B, heads, T, head_dim], halves rotated against each other (NeoX style)."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
