"""Qwen3-ASR's numbers: what a checkpoint's config.json and a bundle say about the network's shape. Torch-free.

Source: qwen-asr 0.0.6, `configuration_qwen3_asr.py` and `modeling_qwen3_asr.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linnet.errors import BundleCorruptError, CheckpointError

CHUNK_FRAMES = 100  # 2 · n_window mel frames (1 s) pass the convolutions alone


@dataclass(frozen=True, kw_only=True)
class Qwen3ASRConfig:
    """Shape of one Qwen3-ASR network; names follow the official configuration."""

    n_mels: int = 128
    conv_channels: int
    d_model: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn_dim: int
    output_dim: int
    chunk_frames: int = CHUNK_FRAMES
    window_tokens: int = 104
    """Attention window of the encoder: n_window_infer (800) mel frames = 8 chunks of 13 tokens."""

    vocab_size: int
    hidden_size: int
    decoder_layers: int
    decoder_heads: int
    decoder_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6

    audio_token_id: int
    audio_start_token_id: int
    audio_end_token_id: int
    eos_token_ids: tuple[int, ...]
    beam_size: int = 1
    """Width of the search that the model's makers advise (`num_beams` of generation_config.json); 1 is greedy."""

    @property
    def conv_out_features(self) -> int:
        """Channels × mel bands left after three stride-2 convolutions: the width that `conv_out` reads."""
        bands = self.n_mels
        for _ in range(3):
            bands = (bands + 1) // 2
        return self.conv_channels * bands

    def audio_tokens(self, mel_frames: int) -> int:
        """Encoder tokens for a clip of this many mel frames: 13 per full chunk, the tail by formula."""
        full, tail = divmod(mel_frames, self.chunk_frames)
        return full * self.chunk_tokens(self.chunk_frames) + self.chunk_tokens(tail)

    @staticmethod
    def chunk_tokens(frames: int) -> int:
        """Tokens left of `frames` mel frames by three stride-2, pad-1, 3×3 convolutions: ceil(ceil(ceil(n/2)/2)/2)."""
        for _ in range(3):
            frames = (frames + 1) // 2
        return frames

    @classmethod
    def from_bundle(cls, numbers: Mapping[str, Any]) -> Qwen3ASRConfig:
        """The numbers that a bundle stores as `model`; raises BundleCorruptError if they are others."""
        try:
            return cls(**{**numbers, "eos_token_ids": tuple(numbers["eos_token_ids"])})
        except (KeyError, TypeError) as problem:
            raise BundleCorruptError(
                f"The bundle's numbers are not those of Qwen3-ASR ({problem}). Export it again."
            ) from problem

    @classmethod
    def from_checkpoint(
        cls, config: Mapping[str, Any], *, eos_token_ids: tuple[int, ...] = (151643, 151645), beam_size: int = 1
    ) -> Qwen3ASRConfig:
        """Read the official config.json (or the `-hf` layout of transformers ≥ 5.13, which has no thinker level).

        Raises CheckpointError if the architecture is another one or a number is missing.
        """
        if config.get("model_type") not in {"qwen3_asr", "qwen3_asr_thinker"}:
            raise CheckpointError(
                f"config.json describes model_type {config.get('model_type')!r}; accepted: 'qwen3_asr'. "
                "Point to a Qwen3-ASR checkpoint folder."
            )
        thinker = config.get("thinker_config", config)
        try:
            audio, text = thinker["audio_config"], thinker["text_config"]
            rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
            return cls(
                n_mels=audio["num_mel_bins"],
                conv_channels=audio["downsample_hidden_size"],
                d_model=audio["d_model"],
                encoder_layers=audio["encoder_layers"],
                encoder_heads=audio["encoder_attention_heads"],
                encoder_ffn_dim=audio["encoder_ffn_dim"],
                output_dim=audio["output_dim"],
                chunk_frames=2 * audio["n_window"],
                window_tokens=cls.chunk_tokens(2 * audio["n_window"])
                * (audio["n_window_infer"] // (2 * audio["n_window"])),
                vocab_size=text["vocab_size"],
                hidden_size=text["hidden_size"],
                decoder_layers=text["num_hidden_layers"],
                decoder_heads=text["num_attention_heads"],
                decoder_kv_heads=text["num_key_value_heads"],
                head_dim=text["head_dim"],
                intermediate_size=text["intermediate_size"],
                rope_theta=float(text.get("rope_theta") or rope["rope_theta"]),
                rms_norm_eps=float(text["rms_norm_eps"]),
                audio_token_id=thinker["audio_token_id"],
                audio_start_token_id=thinker["audio_start_token_id"],
                audio_end_token_id=thinker["audio_end_token_id"],
                eos_token_ids=tuple(eos_token_ids),
                beam_size=beam_size,
            )
        except KeyError as missing:
            raise CheckpointError(
                f"config.json lacks {missing}; accepted: the official Qwen3-ASR layout with audio_config and "
                "text_config in thinker_config. Download the checkpoint again."
            ) from missing
