"""wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477) as plain torch modules: feature encoder, context network, CTC.

Parameter names are Hugging Face's, so that its checkpoints load as they are (`checkpoint.py`). Both published variants:
group norm with post-norm layers (base), layer norm with pre-norm layers (large-lv60, XLSR). Checked against
transformers in `tests/parity/test_wav2vec2_transformers.py`; the specification is the README beside this file.

Shapes: B clips, N samples (zero-padded), T frames (of 20 ms in the published models), C convolution channels, D hidden
size, V labels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linnet.models.wav2vec2.config import NO_REGULARISATION, Regularisation
from linnet.models.wav2vec2.masking import span_mask
from linnet.runtime.wav2vec2_config import Wav2Vec2Config


class Encoded(NamedTuple):
    """hidden [B, T, D] after the context network; features [B, T, C], unmasked and normalised, which the quantiser
    takes; raw [B, T, C], the feature encoder's output, whose square is the penalty; lengths [B] in frames or None."""

    hidden: Tensor
    features: Tensor
    raw: Tensor
    lengths: Tensor | None


class Conv(nn.Module):
    """Convolution, norm, GELU. With norm over channels, frames come first, [B, T, C] → [B, T', C'], the layout in which
    neither norm nor GELU copies anything; otherwise (over time in the first, or none) [B, C, T] → [B, C', T'].
    """

    def __init__(self, config: Wav2Vec2Config, index: int) -> None:
        super().__init__()
        channels = 1 if index == 0 else config.conv_dim[index - 1]
        width, self.over_channels = config.conv_dim[index], config.norm == "layer"
        self.conv = nn.Conv1d(
            channels, width, config.conv_kernel[index], config.conv_stride[index], bias=config.conv_bias
        )
        self.layer_norm: nn.Module | None = None
        if config.norm == "layer":
            self.layer_norm = nn.LayerNorm(width)
        elif index == 0:
            self.layer_norm = nn.GroupNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = strided_conv(x, self.conv) if self.over_channels else self.conv(x)
        return F.gelu(x if self.layer_norm is None else self.layer_norm(x))


def strided_conv(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """`conv` on x [B, T, C] → [B, T', C'] as matrix products without copies of windows.

    Rows of `stride` frames side by side hold the first `stride` taps of every window; the next row holds the taps
    after these, and so on. Raises RuntimeError if T is below the number of taps, as torch does.
    """
    (b, t, c), taps, stride = x.shape, conv.kernel_size[0], conv.stride[0]
    count = (t - taps) // stride + 1
    if count < 1:
        raise RuntimeError(f"{t} frames are fewer than the {taps} taps of the convolution")
    needed = (count - 1 + math.ceil(taps / stride)) * stride
    rows = F.pad(x, (0, 0, 0, max(0, needed - t)))[:, :needed].reshape(b, -1, stride * c)
    weight = conv.weight.transpose(1, 2)
    head = weight[:, :stride].reshape(len(weight), -1)
    y = F.linear(rows[:, :count, : head.shape[1]], head, conv.bias)
    for shift, first in enumerate(range(stride, taps, stride), start=1):
        tail = weight[:, first : first + stride].reshape(len(weight), -1)
        y = y.add_(F.linear(rows[:, shift : shift + count, : tail.shape[1]], tail))
    return y


class FeatureEncoder(nn.Module):
    """Samples [B, N] → features [B, T, C]."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(Conv(config, index) for index in range(len(config.conv_dim)))
        self.frames_first = config.norm == "layer"
        self.gradient_checkpointing = False

    def forward(self, samples: Tensor) -> Tensor:
        x = samples[:, :, None] if self.frames_first else samples[:, None]
        trainable = self.training and torch.is_grad_enabled() and next(self.parameters()).requires_grad
        for layer in self.conv_layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.gradient_checkpointing and trainable else layer(x)
        return x if self.frames_first else x.transpose(1, 2)


class FeatureProjection(nn.Module):
    """Features [B, T, C] → hidden [B, T, D], and the normalised features."""

    def __init__(self, config: Wav2Vec2Config, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.layer_norm(features)
        return self.dropout(self.projection(normed)), normed


class PositionConv(nn.Module):
    """Relative positions: grouped convolution over 128 frames with weight norm per tap, then GELU; adds to hidden."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width, taps = config.hidden_size, config.position_kernel
        self.conv = _WeightNormConv(width, taps, config.position_groups)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.conv(hidden.transpose(1, 2))).transpose(1, 2)


class _WeightNormConv(nn.Module):
    """weight = g · v / ‖v‖, the norm over both channel axes; an even kernel gives one frame too many, which goes."""

    def __init__(self, width: int, taps: int, groups: int) -> None:
        super().__init__()
        self.taps, self.groups = taps, groups
        self.weight_g = nn.Parameter(torch.empty(1, 1, taps))
        self.weight_v = nn.Parameter(torch.empty(width, width // groups, taps))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch._weight_norm(self.weight_v, self.weight_g, 2)
        y = F.conv1d(x, weight, self.bias, padding=self.taps // 2, groups=self.groups)
        return y[..., : x.shape[-1]]


class Attention(nn.Module):
    """Full self-attention [B, T, D] through torch's fused kernel; `mask` [B, 1, 1, T] is True where there is speech."""

    def __init__(self, config: Wav2Vec2Config, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, dropout
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            projection(x).view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    def __init__(self, config: Wav2Vec2Config, regularisation: Regularisation) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.ffn_dim)
        self.output_dense = nn.Linear(config.ffn_dim, config.hidden_size)
        self.inner_dropout = nn.Dropout(regularisation.activation_dropout)
        self.dropout = nn.Dropout(regularisation.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.output_dense(self.inner_dropout(F.gelu(self.intermediate_dense(x)))))


class Layer(nn.Module):
    """One transformer layer, norms before (pre_norm) or after each part."""

    def __init__(self, config: Wav2Vec2Config, regularisation: Regularisation) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = Attention(config, regularisation.attention_dropout)
        self.dropout = nn.Dropout(regularisation.dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config, regularisation)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.layer_norm(x), mask))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, mask)))
        return self.final_layer_norm(x + self.feed_forward(x))


class ContextNetwork(nn.Module):
    """Positions and transformer layers: hidden [B, T, D] → [B, T, D]."""

    def __init__(self, config: Wav2Vec2Config, regularisation: Regularisation) -> None:
        super().__init__()
        self.pre_norm, self.layer_drop = config.pre_norm, regularisation.layer_drop
        self.pos_conv_embed = PositionConv(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(regularisation.dropout)
        self.layers = nn.ModuleList(Layer(config, regularisation) for _ in range(config.layers))
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, speech: Tensor | None, *, frozen_layers: int = 0) -> Tensor:
        """`speech` [B, T] is True on real frames; the others neither give nor take anything.

        With `frozen_layers` the positions and that many layers from the bottom keep no gradient.
        """
        mask = None if speech is None else speech[:, None, None]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_layers):
            if speech is not None:
                x = x * speech[..., None]
            x = x + self.pos_conv_embed(x)
            x = self.dropout(x if self.pre_norm else self.layer_norm(x))
        for index, layer in enumerate(self.layers):
            if self.training and self.layer_drop and float(torch.rand(())) < self.layer_drop:
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= frozen_layers):
                if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                    x = checkpoint(layer, x, mask, use_reentrant=False)
                else:
                    x = layer(x, mask)
        with torch.set_grad_enabled(torch.is_grad_enabled() and frozen_layers < len(self.layers)):
            return self.layer_norm(x) if self.pre_norm else x


class Wav2Vec2(nn.Module):
    """Feature encoder and context network, without a head."""

    def __init__(self, config: Wav2Vec2Config, regularisation: Regularisation = NO_REGULARISATION) -> None:
        super().__init__()
        self.config, self.regularisation = config, regularisation
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config, regularisation.feature_dropout)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = ContextNetwork(config, regularisation)
        self.feature_gradient = 1.0
        """Factor on the gradient that reaches the feature encoder."""

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        frozen_layers: int = 0,
    ) -> Encoded:
        """Encode normalised samples [B, N] of `lengths` [B] (None: all full); `mask` [B, T] hides frames.

        `frozen_layers` of the context network, and all that lies below them, keep no gradient.
        The group-norm variant was trained on zero-padded batches without an attention mask and gets the same here:
        there `lengths` only says which frames are real. The layer-norm variant masks padding, so that a clip in a batch
        gives what it gives alone.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_layers):
            raw = self.feature_extractor(samples)
        if self.feature_gradient != 1.0 and raw.requires_grad:
            raw.register_hook(lambda gradient: gradient * self.feature_gradient)
        frames = None if lengths is None else self.frames(lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_layers):
            hidden, features = self.feature_projection(raw)
            hidden = self._hide(hidden, frames, mask)
        speech = None
        if frames is not None and self.config.norm == "layer":
            speech = torch.arange(hidden.shape[1], device=hidden.device) < frames[:, None]
        hidden = self.encoder(hidden, speech, frozen_layers=frozen_layers)
        return Encoded(hidden, features, raw, frames)

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames [B] of clips of `lengths` [B] samples."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = (lengths - kernel).div(stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    def _hide(self, hidden: Tensor, frames: Tensor | None, mask: Tensor | None) -> Tensor:
        """Given frames under the mask embedding, or in training random ones; and random channels zeroed."""
        chosen, (b, t, d) = self.regularisation, hidden.shape
        if mask is None and self.training and chosen.mask_time:
            valid = torch.full((b,), t, device=hidden.device) if frames is None else frames
            mask = span_mask(valid, t, share=chosen.mask_time, length=chosen.mask_time_length, at_least=2)
        if mask is not None:
            hidden = torch.where(mask[..., None], self.masked_spec_embed.to(hidden.dtype), hidden)
        if self.training and chosen.mask_features:
            width = torch.full((b,), d, device=hidden.device)
            channels = span_mask(width, d, share=chosen.mask_features, length=chosen.mask_features_length)
            hidden = hidden.masked_fill(channels[:, None], 0.0)
        return hidden


class Wav2Vec2ForCTC(nn.Module):
    """Wav2Vec2 and a linear CTC head."""

    def __init__(self, config: Wav2Vec2Config, regularisation: Regularisation = NO_REGULARISATION) -> None:
        super().__init__()
        self.config = config
        self.wav2vec2 = Wav2Vec2(config, regularisation)
        self.dropout = nn.Dropout(regularisation.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(
        self, samples: Tensor, lengths: Tensor | None = None, *, frozen_layers: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [B, T, V] of normalised samples [B, N], and the number of real frames [B]."""
        encoded = self.wav2vec2(samples, lengths, frozen_layers=frozen_layers)
        return self.lm_head(self.dropout(encoded.hidden)), encoded.lengths


def initialise(model: nn.Module, *, std: float = 0.02) -> None:
    """Fresh weights as fairseq and transformers draw them."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                bound = (module.in_channels * module.kernel_size[0]) ** -0.5
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, _WeightNormConv):
            taps, width = module.taps, len(module.weight_v)
            nn.init.normal_(module.weight_v, std=2 * math.sqrt(1 / (taps * width)))
            with torch.no_grad():
                module.weight_g.copy_(module.weight_v.norm(dim=(0, 1), keepdim=True))
            nn.init.zeros_(module.bias)
    for module in model.modules():  # parents come before their linear layers, so these need a second round
        if isinstance(module, FeatureProjection):
            bound = module.projection.in_features**-0.5
            nn.init.uniform_(module.projection.weight, -bound, bound)
            nn.init.uniform_(module.projection.bias, -bound, bound)
        elif isinstance(module, Wav2Vec2):
            nn.init.uniform_(module.masked_spec_embed)


def normalise(samples: Tensor) -> Tensor:
    """Zero mean and unit variance of one clip [N], as Hugging Face's feature extractor; silence becomes zeros."""
    return (samples - samples.mean()) / torch.sqrt(samples.var(unbiased=False) + 1e-7)
