"""Log-mel features for every family: one FeatureSpec, one NumPy function.

The Whisper/Qwen recipe follows `WhisperFeatureExtractor` (transformers) and `whisper/audio.py`: centred frames with
reflection padding, periodic Hann window, power spectrum without the last frame, Slaney mel filters,
log10 clamped at 1e-10, floor 8 below the clip's maximum, (x + 4) / 4.

Shapes: N samples, F = N // hop_length frames, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from linnet.errors import AudioContentError, ConfigError
from linnet.products import product

FloatArray = npt.NDArray[np.float32]
_BLOCK_FRAMES = 1000  # frames per FFT block: the block stays in cache, memory stays flat for hours of audio


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How samples become a log-mel picture; stored in every bundle so that training and runtime cannot differ."""

    sample_rate_hz: int = 16_000
    n_fft: int = 400
    hop_length: int = 160
    n_mels: int = 128
    f_min_hz: float = 0.0
    f_max_hz: float = 8_000.0
    log: Literal["whisper", "natural"] = "whisper"
    """whisper: log10, per-clip floor at max − 8, (x + 4) / 4. natural: ln(max(power, 1e-10)), no clip statistics."""

    def __post_init__(self) -> None:
        if min(self.sample_rate_hz, self.n_fft, self.hop_length, self.n_mels) <= 0:
            raise ConfigError(f"Feature sizes must be positive, got {self}.")
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate_hz / 2:
            raise ConfigError(
                f"Mel range {self.f_min_hz}…{self.f_max_hz} Hz does not fit; "
                f"accepted: 0 ≤ f_min_hz < f_max_hz ≤ {self.sample_rate_hz / 2:g} Hz."
            )

    def frames(self, samples: int) -> int:
        """Number of frames `log_mel` gives for this many samples."""
        return samples // self.hop_length


WHISPER_128 = FeatureSpec()


def log_mel(samples: npt.ArrayLike, spec: FeatureSpec = WHISPER_128) -> FloatArray:
    """Log-mel spectrogram, float32 [M, F], of mono samples [N] at `spec.sample_rate_hz` in −1…1.

    Raises AudioContentError if the samples are not one-dimensional, shorter than one hop, or not finite.
    """
    wave = np.asarray(samples, dtype=np.float32)
    if wave.ndim != 1:
        raise AudioContentError(f"Log-mel needs mono samples [N], got shape {wave.shape}; mix the channels down first.")
    frames = spec.frames(wave.size)
    if frames == 0:
        raise AudioContentError(
            f"Log-mel needs at least {spec.hop_length} samples ({spec.hop_length / spec.sample_rate_hz:g} s), "
            f"got {wave.size}; pad the clip or skip it."
        )
    if not np.isfinite(wave).all():
        raise AudioContentError("The samples contain NaN or infinity; re-encode or repair the recording.")
    half = spec.n_fft // 2
    # np.pad needs more samples than it reflects; "symmetric" repetition covers clips shorter than half a window.
    padded = np.pad(wave, half, mode="reflect" if wave.size > half else "symmetric")
    window, filters = hann_window(spec.n_fft), mel_filters(spec).T
    mel = np.empty((spec.n_mels, frames), dtype=np.float32)
    for start in range(0, frames, _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, frames)
        block = padded[start * spec.hop_length : (stop - 1) * spec.hop_length + spec.n_fft]
        framed = np.lib.stride_tricks.sliding_window_view(block, spec.n_fft)[:: spec.hop_length]
        spectrum = np.fft.rfft(framed * window, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
        mel[:, start:stop] = product(power, filters).T
    np.maximum(mel, 1e-10, out=mel)
    if spec.log == "natural":
        return np.log(mel, out=mel)
    np.log10(mel, out=mel)
    np.maximum(mel, mel.max() - 8.0, out=mel)
    mel += 4.0
    mel /= 4.0
    return mel


@lru_cache(maxsize=8)
def mel_filters(spec: FeatureSpec) -> FloatArray:
    """Slaney-scale, Slaney-normalised triangular filters, float32 [M, n_fft // 2 + 1] (as librosa's default)."""
    fft_hz = np.linspace(0, spec.sample_rate_hz / 2, spec.n_fft // 2 + 1)
    edges_hz = _mel_to_hz(np.linspace(_hz_to_mel(spec.f_min_hz), _hz_to_mel(spec.f_max_hz), spec.n_mels + 2))
    width = np.diff(edges_hz)
    ramps = edges_hz[:, None] - fft_hz[None, :]
    rising, falling = -ramps[:-2] / width[:-1, None], ramps[2:] / width[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling))
    filters *= (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    result = filters.astype(np.float32)
    result.setflags(write=False)
    return result


@lru_cache(maxsize=8)
def hann_window(n_fft: int) -> FloatArray:
    """Periodic Hann window, float32 [n_fft]."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    window.setflags(write=False)
    return window


# Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above.
_LINEAR_HZ_PER_MEL, _BREAK_HZ, _LOG_STEP = 200.0 / 3, 1000.0, np.log(6.4) / 27.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, logarithmic)
