"""BSQ's numbers: features, network and code of a tokenizer, as run folders and bundles store them. Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linnet.errors import ConfigError
from linnet.features import FeatureSpec

SPEECH = FeatureSpec(n_fft=640, hop_length=160, n_mels=80, log="natural")
"""16 kHz, frames of 40 ms every 10 ms."""
MUSIC = FeatureSpec(
    sample_rate_hz=44_100, n_fft=2048, hop_length=441, n_mels=128, f_min_hz=20.0, f_max_hz=20_000.0, log="natural"
)
"""44.1 kHz, frames of 46 ms every 10 ms: low notes need a long window."""
ENVIRONMENT = FeatureSpec(
    sample_rate_hz=32_000, n_fft=1024, hop_length=320, n_mels=96, f_min_hz=50.0, f_max_hz=16_000.0, log="natural"
)
"""32 kHz, frames of 32 ms every 10 ms: clicks and bangs need a short window, hiss a wide band."""
FEATURES = {"speech": SPEECH, "music": MUSIC, "environment": ENVIRONMENT}


@dataclass(frozen=True, kw_only=True)
class BSQConfig:
    """Shape of one tokenizer. Tokens lie along time: a token is `frames_per_token` frames with all their mel bands."""

    features: FeatureSpec = SPEECH
    frames_per_token: int = 2
    bits: int = 18
    d_model: int = 192
    layers: int = 3
    """Of the encoder; the decoder mirrors it."""
    heads: int = 4
    ffn_ratio: int = 4
    convolution: bool = True
    """Conformer convolution modules along time, between attention and feed-forward."""
    kernel_size: int = 31
    block_tokens: int | None = 25
    """Streaming: tokens attend to their own block and to `left_tokens` before it, convolutions look back only. None
    looks at the whole recording, which cannot be streamed; 1 is causal."""
    left_tokens: int = 75
    waveform_channels: int = 192
    """Width of the waveform head; 0 leaves it out, and decoding uses Griffin-Lim."""
    waveform_layers: int = 4
    waveform_kernel: int = 7
    mel_mean: tuple[float, ...] = ()
    """Mean log-mel of every band over the training data; empty: zeros."""
    mel_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.d_model % self.heads or (self.d_model // self.heads) % 2:
            raise ConfigError(f"d_model must be heads times an even number, got {self.d_model} and {self.heads} heads.")
        if self.features.log != "natural":
            raise ConfigError('BSQ needs features with log="natural": "whisper" clamps the dynamics of every clip.')
        if not self.kernel_size % 2:
            raise ConfigError(f"kernel_size must be odd, got {self.kernel_size}.")
        if self.block_tokens is not None and (self.block_tokens < 1 or self.left_tokens < 0):
            raise ConfigError(
                f"block_tokens must be ≥ 1 and left_tokens ≥ 0, got {self.block_tokens} and {self.left_tokens}."
            )
        if self.features.n_fft < 2 * self.features.hop_length:
            raise ConfigError("Frames must overlap by half at least: n_fft ≥ 2 · hop_length.")
        for name in ("mel_mean", "mel_std"):
            if getattr(self, name) and len(getattr(self, name)) != self.features.n_mels:
                raise ConfigError(f"{name} needs {self.features.n_mels} numbers, got {len(getattr(self, name))}.")

    @property
    def token_samples(self) -> int:
        """Samples per token."""
        return self.frames_per_token * self.features.hop_length

    @property
    def tokens_per_s(self) -> float:
        """Token rate in Hz."""
        return self.features.sample_rate_hz / self.token_samples

    @property
    def bits_per_s(self) -> float:
        """Nominal bitrate, before entropy coding."""
        return self.bits * self.tokens_per_s

    @property
    def token_features(self) -> int:
        """Numbers of log-mel per token: all bands of `frames_per_token` frames."""
        return self.frames_per_token * self.features.n_mels

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BSQConfig:
        """The inverse of `to_dict`; raises ConfigError on unknown or missing values."""
        try:
            plain = dict(values)
            plain["features"] = FeatureSpec(**plain["features"])
            plain["mel_mean"], plain["mel_std"] = tuple(plain["mel_mean"]), tuple(plain["mel_std"])
            return cls(**plain)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"This is not the shape of a BSQ tokenizer: {error}.") from error
