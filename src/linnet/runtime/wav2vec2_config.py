"""The numbers of a wav2vec 2.0 network, and the arithmetic that follows from them. Torch-free: every part reads these.

Names on the right are those of Hugging Face's config.json, which `from_checkpoint` reads and `to_checkpoint` writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from linnet.errors import CheckpointError, ConfigError

SAMPLE_RATE_HZ = 16_000
_NAMES = {
    "norm": "feat_extract_norm",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "pre_norm": "do_stable_layer_norm",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "codebooks": "num_codevector_groups",
    "codebook_size": "num_codevectors_per_group",
    "code_dim": "codevector_dim",
    "projection_dim": "proj_codevector_dim",
    "blank_id": "pad_token_id",
}  # the other fields have the same name there


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config:
    """Shape of the network; the defaults are wav2vec 2.0 base."""

    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    norm: Literal["group", "layer"] = "group"
    """group: the first convolution is normalised over time, and padding must be zeros without an attention mask (base).
    layer: every convolution is normalised over channels, and padded frames are masked (large-lv60, XLSR)."""

    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    ffn_dim: int = 3072
    pre_norm: bool = False
    """Layer norm before attention and feed-forward (large-lv60, XLSR) instead of after."""

    position_kernel: int = 128
    position_groups: int = 16
    layer_norm_eps: float = 1e-5
    vocab_size: int = 0
    """Labels of the CTC head, the blank among them; 0 without a head."""

    blank_id: int = 0
    codebooks: int = 2
    codebook_size: int = 320
    code_dim: int = 256
    """Length of a target: one entry of each codebook, side by side."""

    projection_dim: int = 256
    """Where contexts and targets are compared."""

    def __post_init__(self) -> None:
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) >= 1:
            raise ConfigError(
                f"conv_dim, conv_kernel and conv_stride need one number per convolution, got {len(self.conv_dim)}, "
                f"{len(self.conv_kernel)} and {len(self.conv_stride)}."
            )
        for part, whole in (("heads", "hidden_size"), ("position_groups", "hidden_size"), ("codebooks", "code_dim")):
            if getattr(self, whole) % getattr(self, part):
                raise ConfigError(f"{part} ({getattr(self, part)}) must divide {whole} ({getattr(self, whole)}).")
        if self.norm not in ("group", "layer"):
            raise ConfigError(f"norm is {self.norm!r}; accepted: 'group', 'layer'.")

    @property
    def stride(self) -> int:
        """Samples from one frame to the next: 320 (20 ms) for the published models."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the feature encoder sees: 400 (25 ms) for the published models."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.stride / SAMPLE_RATE_HZ

    def frames(self, samples: int) -> int:
        """Frames of a clip of this many samples; 0 if it is shorter than the receptive field."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    @classmethod
    def from_checkpoint(cls, described: Mapping[str, Any]) -> Wav2Vec2Config:
        """The shape that a config.json of Hugging Face describes.

        Raises CheckpointError if it is of another architecture, or uses parts that Linnet does not have.
        """
        kind = described.get("model_type")
        if kind != "wav2vec2":
            raise CheckpointError(
                f"config.json describes a model of type {kind!r}; accepted: 'wav2vec2'. Choose another checkpoint."
            )
        for key, accepted in (
            ("hidden_act", "gelu"),
            ("feat_extract_activation", "gelu"),
            ("add_adapter", False),
            ("adapter_attn_dim", None),
        ):
            if described.get(key, accepted) != accepted:
                raise CheckpointError(
                    f"config.json says {key} = {described[key]!r}; Linnet's wav2vec 2.0 has {accepted!r} only. "
                    "Choose a checkpoint without adapters and with GELU."
                )
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = described.get(_NAMES.get(field.name, field.name))
            if value is None:  # transformers leaves out what is at its default, which is ours too
                continue
            values[field.name] = tuple(value) if isinstance(value, list) else value
        if any("ForCTC" in name for name in described.get("architectures") or []):
            values.setdefault("vocab_size", 32)
        else:  # transformers writes these numbers for models without a head, too
            values |= {"vocab_size": 0, "blank_id": 0}
        try:
            return cls(**values)
        except (ConfigError, TypeError) as problem:
            raise CheckpointError(f"config.json does not describe a network that can work: {problem}") from problem

    def to_checkpoint(self) -> dict[str, Any]:
        """config.json in Hugging Face's names."""
        head = "Wav2Vec2ForCTC" if self.vocab_size else "Wav2Vec2ForPreTraining"
        values = {_NAMES.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        values |= {
            "num_feat_extract_layers": len(self.conv_dim),
            "hidden_act": "gelu",
            "feat_extract_activation": "gelu",
        }
        if not self.vocab_size:
            del values["vocab_size"], values["pad_token_id"]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"architectures": [head], "model_type": "wav2vec2", **plain}
