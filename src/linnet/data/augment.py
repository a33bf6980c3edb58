"""Augmentation for training: noise and reverberation on samples; speed, vocal-tract, gain and masks on log-mel.

Speed and vocal-tract length change by linear interpolation of the log-mel picture along time and frequency, which
costs a hundredth of resampling the waveform and brings child and adult voices closer (VTLP: Jaitly & Hinton 2013;
speed perturbation: Ko et al. 2015; SpecAugment: Park et al. 2019, arXiv:1904.08779).

Shapes: N samples, M mel bands, F frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from linnet import noise
from linnet.errors import AudioContentError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Strength of every augmentation; probabilities are per utterance."""

    noise_probability: float = 0.35
    snr_db: tuple[float, float] = (5.0, 30.0)
    reverb_probability: float = 0.15
    rt60_s: tuple[float, float] = (0.1, 0.6)
    speed: tuple[float, float] = (0.85, 1.15)
    vocal_tract: tuple[float, float] = (0.85, 1.15)
    """Factor on the frequency axis below 80 % of the range; 1 leaves the voice as it is."""

    gain_db: tuple[float, float] = (-10.0, 10.0)
    freq_masks: int = 2
    freq_mask_bands: int = 24
    time_masks: int = 2
    time_mask_ratio: float = 0.08
    """Longest time mask as a share of the utterance, 50 frames at most."""

    def weakened(self, strength: float) -> AugmentConfig:
        """Every disturbance at `strength` (0…1) of its own: 0 changes nothing, 1 is this configuration.

        A curriculum: sounds are learned sooner from clean speech, and a model that knows clean speech alone is thrown
        back by the full augmentation (docs/log.md).
        """

        def towards(neutral: float, limits: tuple[float, float]) -> tuple[float, float]:
            low, high = (neutral + strength * (limit - neutral) for limit in limits)
            return low, high

        return replace(
            self,
            noise_probability=strength * self.noise_probability,
            reverb_probability=strength * self.reverb_probability,
            speed=towards(1.0, self.speed),
            vocal_tract=towards(1.0, self.vocal_tract),
            gain_db=towards(0.0, self.gain_db),
            freq_mask_bands=round(strength * self.freq_mask_bands),
            time_mask_ratio=strength * self.time_mask_ratio,
        )


NO_AUGMENT = AugmentConfig(
    noise_probability=0.0,
    reverb_probability=0.0,
    speed=(1.0, 1.0),
    vocal_tract=(1.0, 1.0),
    gain_db=(0.0, 0.0),
    freq_masks=0,
    time_masks=0,
)


def augment_samples(
    samples: FloatArray,
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    rate_hz: int,
    pick_speech: Callable[[np.random.Generator], FloatArray] | None = None,
    pick_noise: Callable[[np.random.Generator], FloatArray] | None = None,
) -> FloatArray:
    """Reverberation, then additive noise, float32 [N]: white, pink, brown, hum, babble of what `pick_speech` gives, or
    a recording that `pick_noise` gives."""
    if rng.random() < config.reverb_probability:
        response = noise.synthetic_rir(
            rng.uniform(*config.rt60_s), direct_to_reverberant_db=rng.uniform(-3.0, 9.0), rate_hz=rate_hz, rng=rng
        )
        samples = noise.reverberate(samples, response)
    if rng.random() >= config.noise_probability:
        return samples
    kinds = ["white", "pink", "brown", "hum"] + (["babble"] * 3 if pick_speech else [])
    kinds += ["recording"] * 4 if pick_noise else []
    kind = kinds[rng.integers(len(kinds))]
    try:
        if kind == "babble" and pick_speech:
            voices = [pick_speech(rng) for _ in range(int(rng.integers(3, 7)))]
            disturbance = noise.babble(voices, len(samples), rate_hz=rate_hz, rng=rng)
        elif kind == "recording" and pick_noise:
            disturbance = pick_noise(rng)
        elif kind == "hum":
            disturbance = noise.hum(len(samples), rate_hz=rate_hz, rng=rng)
        else:
            disturbance = {"white": noise.white, "pink": noise.pink, "brown": noise.brown}[kind](len(samples), rng=rng)
        return noise.mix_at_snr(samples, disturbance, rng.uniform(*config.snr_db), rate_hz=rate_hz, rng=rng).mixed
    except AudioContentError:  # a silent clip has no level to mix against; it trains as it is
        return samples


def augment_mel(mel: FloatArray, config: AugmentConfig, rng: np.random.Generator) -> FloatArray:
    """Speed, vocal-tract length, gain and SpecAugment on a Whisper-scaled log-mel [M, F] → [M, F']."""
    mel = warp_mel(mel, speed=rng.uniform(*config.speed), vocal_tract=rng.uniform(*config.vocal_tract))
    mel += np.float32(rng.uniform(*config.gain_db) / 40.0)  # one decibel is 0.1 / 4 after (log10 + 4) / 4
    bands, frames = mel.shape
    fill = np.float32(mel.mean())
    for _ in range(config.freq_masks):
        width = int(rng.integers(0, config.freq_mask_bands + 1))
        start = int(rng.integers(0, bands - width + 1))
        mel[start : start + width] = fill
    for _ in range(config.time_masks):
        width = int(rng.integers(0, min(50, int(frames * config.time_mask_ratio)) + 1))
        start = int(rng.integers(0, frames - width + 1))
        mel[:, start : start + width] = fill
    return mel


def warp_mel(mel: FloatArray, *, speed: float, vocal_tract: float) -> FloatArray:
    """Stretch time by 1/speed and frequency by vocal_tract; linear interpolation, a new array [M, round(F / speed)]."""
    bands, frames = mel.shape
    if speed != 1.0:
        wanted = max(1, round(frames / speed))
        places = np.linspace(0, frames - 1, wanted) if wanted > 1 else np.zeros(1)
        mel = _interpolate(mel, places, axis=1)
    if vocal_tract != 1.0:
        # Piecewise linear: scaled below 80 % of the bands, then bent so that the last band stays where it is.
        knee = 0.8 * (bands - 1)
        targets = np.arange(bands, dtype=np.float64)
        scaled = targets * vocal_tract
        bent = knee * vocal_tract + (targets - knee) * (bands - 1 - knee * vocal_tract) / (bands - 1 - knee)
        mel = _interpolate(mel, np.clip(np.where(targets <= knee, scaled, bent), 0, bands - 1), axis=0)
    return mel.copy()


def _interpolate(mel: FloatArray, places: npt.NDArray[np.float64], *, axis: int) -> FloatArray:
    low = np.minimum(places.astype(np.int64), mel.shape[axis] - 1)
    high = np.minimum(low + 1, mel.shape[axis] - 1)
    share = (places - low).astype(np.float32)
    share = share[None, :] if axis == 1 else share[:, None]
    mixed: FloatArray = np.take(mel, low, axis=axis) * (1 - share) + np.take(mel, high, axis=axis) * share
    return mixed
