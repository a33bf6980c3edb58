"""Fresh weights for training Qwen3-ASR from scratch on little speech; a pretrained checkpoint replaces all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from linnet.models.qwen3_asr.model import AudioEncoder, DecoderLayer, EncoderAttention, EncoderLayer, Qwen3ASR
from linnet.models.qwen3_asr.positions import sinusoid_timescales

NEIGHBOURS = (-1, 1, -3, 3)  # encoder tokens of 80 ms, head after head


def initialise(asr: Qwen3ASR) -> None:
    """Xavier for matrices, and an encoder whose layers start weak and look at their neighbours.

    Convolutions keep the variance (He et al. 2015) and `conv_out` raises it: with torch's defaults the sound entered
    the transformer at a twentieth of the strength of the positions, and nothing was learned from it.
    """
    for module in asr.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    tower = asr.audio_tower
    nn.init.xavier_uniform_(tower.conv_out.weight, gain=3.0)
    _clear_positions(tower)
    depth = (2 * len(tower.layers)) ** -0.5  # all branches together are as strong as one (Radford et al. 2019)
    for layer in tower.layers:
        assert isinstance(layer, EncoderLayer)
        look_around(layer.self_attn)
        for last in (layer.self_attn.out_proj, layer.fc2):
            nn.init.xavier_uniform_(last.weight, gain=depth)


def start_as_identity(layers: Iterable[nn.Module]) -> None:
    """Silence the branches of decoder layers: each then gives what it was given."""
    for layer in layers:
        assert isinstance(layer, DecoderLayer)
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)


@torch.no_grad()
def look_around(attention: EncoderAttention, *, offsets: Sequence[int] = NEIGHBOURS, strength: float = 1.3) -> None:
    """Have head h begin by attending to the token `offsets[h]` away, as a convolution would.

    The dot product of two sinusoidal positions falls with their distance, and a shift is a rotation of each pair of
    sine and cosine. Queries that rotate the fastest pairs, and keys that copy them, find the shifted position; from
    random weights alone attention learned later to look near (docs/log.md).
    """
    width = attention.q_proj.in_features
    head_dim, pairs = width // attention.heads, width // attention.heads // 2
    rates = 1 / sinusoid_timescales(width)[:pairs]
    pair = torch.arange(pairs)
    sines, cosines = pair, width // 2 + pair
    for head in range(attention.heads):
        shift, rows = rates * offsets[head % len(offsets)], head * head_dim + pair
        attention.q_proj.weight[rows, sines] += strength * shift.cos()
        attention.q_proj.weight[rows, cosines] += strength * shift.sin()
        attention.q_proj.weight[rows + pairs, sines] -= strength * shift.sin()
        attention.q_proj.weight[rows + pairs, cosines] += strength * shift.cos()
        attention.k_proj.weight[rows, sines] += strength
        attention.k_proj.weight[rows + pairs, cosines] += strength


@torch.no_grad()
def _clear_positions(tower: AudioEncoder) -> None:
    """Keep the sound out of the channels that `look_around` reads, until training puts it there."""
    width = tower.config.d_model
    pairs = width // tower.config.encoder_heads // 2
    for first in (0, width // 2):
        tower.conv_out.weight[first : first + pairs] = 0.0
