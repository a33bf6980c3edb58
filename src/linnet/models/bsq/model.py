"""The tokenizer's network: log-mel → Transformer encoder → bits → mirror decoder → log-mel and waveform.

A layer is attention, Conformer convolution (Gulati et al. 2020, arXiv:2005.08100; layer norm instead of batch norm,
so that a clip's neighbours in the batch change nothing) and feed-forward, each pre-norm with a residual. Tokens lie
along time; frequency is folded into channels, so that a convolution never runs over frequency. Positions are rotary
(Su et al. 2021, arXiv:2104.09864) and relative: any length works.

Streaming: with `block_tokens` a token sees its block and `left_tokens` before it in attention, and convolutions look
back only. Block by block with caches then gives what the whole recording gives (`runtime/bsq.py` does so).

Shapes: B clips, T tokens, D bits, C channels, M mel bands, R frames per token, F = T·R frames, N = F·hop samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linnet.models.bsq.quantizer import BinarySphericalQuantizer, Quantized
from linnet.models.bsq.waveform import WaveformHead
from linnet.runtime.bsq_config import BSQConfig

ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Reconstruction:
    """What comes out of one pass."""

    log_mel: Tensor
    """Normalised log-mel [B, F, M]."""
    quantized: Quantized
    hidden: Tensor
    """The decoder's last states [B, T, C], which the waveform head reads."""


class BSQ(nn.Module):
    """Encoder, quantiser, decoder and waveform head."""

    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, config: BSQConfig, quantizer: BinarySphericalQuantizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = quantizer or BinarySphericalQuantizer(config.bits, entropy="analytical", group_size=1)
        self.decoder = Decoder(config)
        self.waveform = WaveformHead(config) if config.waveform_channels else None
        mean = torch.tensor(config.mel_mean or [0.0] * config.features.n_mels)
        std = torch.tensor(config.mel_std or [1.0] * config.features.n_mels)
        self.register_buffer("mel_mean", mean, persistent=False)
        self.register_buffer("mel_std", std, persistent=False)

    def forward(self, log_mel: Tensor, mask: Tensor, hidden_tokens: Tensor | None = None) -> Reconstruction:
        """Reconstruct log_mel [B, F, M] (natural log, not normalised); mask [B, T] is True on real tokens.

        `hidden_tokens` [B, T] are replaced by a learned vector before the encoder (masked-autoencoder training).
        """
        latents = self.encoder(self.normalise(log_mel), mask, hidden_tokens)
        quantized = self.quantizer(latents, mask)
        hidden = self.decoder(quantized.codes, mask)
        return Reconstruction(self.decoder.mel(hidden, quantized.codes), quantized, hidden)

    def normalise(self, log_mel: Tensor) -> Tensor:
        """log_mel […, M] with the training data's mean 0 and deviation 1 per band. Nothing is clamped."""
        return (log_mel - self.mel_mean) / self.mel_std

    @torch.no_grad()
    def encode(self, log_mel: Tensor, mask: Tensor) -> Tensor:
        """int64 ids [B, T] of log_mel [B, F, M]; those of padding mean nothing."""
        return self.quantizer.ids(self.encoder(self.normalise(log_mel), mask))

    @torch.no_grad()
    def decode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """log_mel [B, F, M] and, with a waveform head, samples [B, N] of ids [B, T]."""
        codes = self.quantizer.codes(ids)
        hidden = self.decoder(codes, mask)
        log_mel = self.decoder.mel(hidden, codes) * self.mel_std + self.mel_mean
        return log_mel, None if self.waveform is None else self.waveform(hidden, mask)


class Encoder(nn.Module):
    """Normalised log-mel → latents before the sphere."""

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.token_features, config.d_model)
        self.layers = Layers(config)
        self.norm = nn.LayerNorm(config.d_model)
        self.project = nn.Linear(config.d_model, config.bits)
        self.shortcut = nn.Linear(config.token_features, config.bits)
        self.mask_vector: nn.Parameter | None = None

    def allow_masking(self) -> None:
        """Add the learned vector that stands for hidden tokens; export leaves it out."""
        self.mask_vector = nn.Parameter(torch.randn(self.config.d_model) * 0.02)

    def forward(self, log_mel: Tensor, mask: Tensor, hidden_tokens: Tensor | None = None) -> Tensor:
        """Latents [B, T, D] of normalised log_mel [B, F, M]; F = T · frames_per_token."""
        heard = log_mel.unflatten(1, (-1, self.config.frames_per_token)).flatten(2)  # [B, T, R · M]
        x, linear = self.embed(heard), self.shortcut(heard)
        if hidden_tokens is not None and self.mask_vector is not None:
            x = torch.where(hidden_tokens[..., None], self.mask_vector.to(x.dtype), x)
            linear = linear.masked_fill(hidden_tokens[..., None], 0.0)
        return self.project(self.norm(self.layers(x, mask))) + linear


class Decoder(nn.Module):
    """Codes → states → normalised log-mel."""

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.bits, config.d_model)
        self.layers = Layers(config)
        self.norm = nn.LayerNorm(config.d_model)
        self.project = nn.Linear(config.d_model, config.token_features)
        self.shortcut = nn.Linear(config.bits, config.token_features)

    def forward(self, codes: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, C] of codes [B, T, D]."""
        # Codes are ±1/√D, so their length is 1; ±1 is what a linear layer expects.
        return self.norm(self.layers(self.embed(codes * math.sqrt(self.config.bits)), mask))

    def mel(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Normalised log-mel [B, F, M] of states [B, T, C] and their codes [B, T, D]."""
        tokens = self.project(hidden) + self.shortcut(codes * math.sqrt(self.config.bits))
        return tokens.unflatten(2, (self.config.frames_per_token, -1)).flatten(1, 2)


class Layers(nn.Module):
    """The stack that encoder and decoder share."""

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        self.config, self.gradient_checkpointing = config, False
        self.blocks = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, C] → [B, T, C]; positions where mask [B, T] is False influence nothing else."""
        allowed = visible(x.shape[1], self.config, device=x.device) & mask[:, None, None, :]  # [B, 1, T, T]
        # A query without any key would give NaN; padding attends to itself.
        allowed = allowed | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        rotation = rotary(x.shape[1], self.config.d_model // self.config.heads, device=x.device)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, mask, allowed, rotation, use_reentrant=False)
            else:
                x = block(x, mask, allowed, rotation)
        return x


class Layer(nn.Module):
    """Attention, convolution, feed-forward."""

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.convolution = Convolution(config) if config.convolution else None
        self.ffn_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.ffn_ratio * width)
        self.fc2 = nn.Linear(config.ffn_ratio * width, width)

    def forward(self, x: Tensor, mask: Tensor, allowed: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self._attend(self.attention_norm(x), allowed, rotation)
        if self.convolution is not None:
            x = x + self.convolution(x, mask)
        return x + self.fc2(F.gelu(self.fc1(self.ffn_norm(x))))

    def _attend(self, x: Tensor, allowed: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, d]
        attended = F.scaled_dot_product_attention(
            rotate(queries, rotation), rotate(keys, rotation), values, attn_mask=allowed
        )
        return self.out(attended.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """Conformer's module: gated linear unit, depthwise convolution along time, layer norm, SiLU."""

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        width, kernel = config.d_model, config.kernel_size
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.inner_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        # A convolution that looks ahead would make a block wait for the next one.
        self.padding = (kernel - 1, 0) if config.block_tokens else (kernel // 2, kernel // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.glu(self.gate(self.norm(x)), dim=-1).masked_fill(~mask[..., None], 0.0)
        x = self.depthwise(F.pad(x.transpose(1, 2), self.padding)).transpose(1, 2)
        return self.out(F.silu(self.inner_norm(x)))


def visible(tokens: int, config: BSQConfig, *, device: torch.device | None = None) -> Tensor:
    """Booleans [T, T]: whether token i (row) may attend to token j."""
    if config.block_tokens is None:
        return torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    first = torch.arange(tokens, device=device) // config.block_tokens * config.block_tokens  # of each token's block
    keys = torch.arange(tokens, device=device)
    return (keys >= first[:, None] - config.left_tokens) & (keys < first[:, None] + config.block_tokens)


def rotary(tokens: int, head: int, *, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, head / 2] of rotary positions."""
    rates = ROPE_THETA ** (-torch.arange(0, head, 2, device=device, dtype=torch.float32) / head)
    angles = torch.arange(tokens, device=device, dtype=torch.float32)[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + head / 2) of x [B, H, T, head] by their position's angles."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def token_mask(tokens: list[int], *, device: torch.device | None = None) -> Tensor:
    """Booleans [B, longest]: True on the real tokens of every clip."""
    counts = torch.tensor(tokens, device=device)
    return torch.arange(int(counts.max()), device=device) < counts[:, None]
