"""Noise and reverberation with an exact meaning: what an SNR is, and how each noise is made.

The level of speech is its RMS while somebody speaks (after ITU-T P.56), so silence around an utterance does not change
what "10 dB" means. The level of noise is its RMS over the whole clip it is laid under.

Shapes: N samples, mono, float32 out. Levels are dBFS of the RMS (a full-scale square wave is 0 dB). Everything random
takes a `np.random.Generator`, so the same seed gives the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.audio import check_samples
from linnet.errors import AudioContentError, ConfigError

FloatArray = npt.NDArray[np.float32]
_Wave = npt.NDArray[np.float64]

PEAK_LIMIT = 0.99
"""Mixtures above this are scaled down, speech and noise alike."""
NOISE_RMS = 0.1
"""RMS of the generated noises (−20 dBFS); `mix_at_snr` rescales them anyway."""

_WINDOW_S = 0.03  # smoothing of the energy (P.56: 30 ms)
_PAUSE_S = 0.2  # gaps up to this long inside speech count as speech (P.56: 200 ms hangover)
_MARGIN = 10 ** (-15.9 / 10)  # speech is what lies within 15.9 dB of the active level (P.56)
_SILENT_POWER = 1e-10  # −100 dBFS, below one step of 16-bit audio: digital silence
_LOWEST_HZ = 20.0  # coloured noise has nothing below: inaudible, yet it would use up most of the level


@dataclass(frozen=True)
class Mixture:
    """`mixed = speech + noise`, all float32 [N]; `gain` was applied to both to keep the peak within 0.99 (else 1)."""

    mixed: FloatArray
    speech: FloatArray
    noise: FloatArray
    gain: float


def active_level_db(samples: npt.ArrayLike, rate_hz: int) -> float:
    """RMS level in dBFS of mono samples [N] while speech is active.

    A sample is active where the energy around it (30 ms) is within 15.9 dB of the active level itself, the fixed
    point of ITU-T P.56; pauses of up to 0.2 s between active stretches count too. Unlike P.56 there is no hangover
    after the last word and the energy of inactive stretches is left out, so that silence before or after the speech
    changes nothing; a steady signal has its plain RMS. Raises AudioContentError if the samples are silent.
    """
    wave = _wave(samples, "speech")
    active = _active(wave, rate_hz)
    return float(10 * np.log10(np.mean(wave[active] ** 2)))


def mix_at_snr(
    speech: npt.ArrayLike, noise: npt.ArrayLike, snr_db: float, *, rate_hz: int, rng: np.random.Generator
) -> Mixture:
    """Lay noise under speech [N] so that active level of the speech − RMS of the noise over the clip = `snr_db`.

    The noise [any length] is cropped, or looped if it is too short, from a random offset. The speech keeps its level
    unless the mixture would exceed 0.99; then both are scaled by `gain`. Raises AudioContentError if either is
    silent, ConfigError if `snr_db` is not finite.
    """
    if not np.isfinite(snr_db):
        raise ConfigError(f"snr_db must be a finite number of decibels, got {snr_db}; leave the noise out for clean.")
    clean = _wave(speech, "speech")
    level_db = active_level_db(clean, rate_hz)
    laid = _fit(_wave(noise, "noise"), clean.size, rng)
    laid = laid * (10 ** ((level_db - snr_db) / 20) / _rms(laid))
    peak = float(np.abs(clean + laid).max())
    gain = 1.0 if peak <= PEAK_LIMIT else (PEAK_LIMIT - 1e-6) / peak  # 1e-6: room for rounding to float32
    scaled_speech, scaled_noise = (clean * gain).astype(np.float32), (laid * gain).astype(np.float32)
    return Mixture(scaled_speech + scaled_noise, scaled_speech, scaled_noise, gain)


def white(n_samples: int, *, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise [N] with a flat spectrum, −20 dBFS."""
    return _at_noise_level(rng.standard_normal(_at_least_one(n_samples)))


def pink(n_samples: int, *, rate_hz: int = 16_000, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise [N] whose power falls by 3 dB per octave from 20 Hz up, −20 dBFS."""
    return _coloured(n_samples, 0.5, rate_hz, rng)


def brown(n_samples: int, *, rate_hz: int = 16_000, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise [N] whose power falls by 6 dB per octave from 20 Hz up, −20 dBFS."""
    return _coloured(n_samples, 1.0, rate_hz, rng)


def hum(
    n_samples: int,
    *,
    frequency_hz: float = 50.0,
    harmonics: int = 8,
    rate_hz: int = 16_000,
    rng: np.random.Generator,
) -> FloatArray:
    """Mains hum [N]: harmonic k of `frequency_hz` at amplitude 1/k and random phase, −20 dBFS."""
    if not 0 < frequency_hz < rate_hz / 2 or harmonics < 1:
        raise ConfigError(
            f"Hum needs 0 < frequency_hz < {rate_hz / 2:g} and harmonics ≥ 1, got {frequency_hz} Hz and {harmonics}."
        )
    time_s = np.arange(_at_least_one(n_samples)) / rate_hz
    orders = [k for k in range(1, harmonics + 1) if k * frequency_hz < rate_hz / 2]
    wave = np.zeros(n_samples)
    for order, phase in zip(orders, rng.uniform(0, 2 * np.pi, len(orders)), strict=True):
        wave += np.sin(2 * np.pi * order * frequency_hz * time_s + phase) / order
    return _at_noise_level(wave)


def babble(
    utterances: Sequence[npt.ArrayLike], n_samples: int, *, rate_hz: int, rng: np.random.Generator
) -> FloatArray:
    """Several people talking at once [N], −20 dBFS: utterances [any length] at equal active level, looped, summed.

    Give at least three, none of them the utterance under test. Raises AudioContentError if fewer or one is silent.
    """
    if len(utterances) < 3:
        raise AudioContentError(f"Babble needs at least 3 utterances, got {len(utterances)}; add other speakers.")
    total = np.zeros(_at_least_one(n_samples))
    for index, utterance in enumerate(utterances):
        wave = _wave(utterance, f"babble utterance {index}")
        level = np.sqrt(np.mean(wave[_active(wave, rate_hz, f"babble utterance {index}")] ** 2))
        total += _fit(wave, n_samples, rng) / level
    return _at_noise_level(total)


def reverberate(speech: npt.ArrayLike, rir: npt.ArrayLike) -> FloatArray:
    """Speech [N] as heard through a room impulse response [any length] at the same rate; RMS and length are kept.

    The largest peak of the response is taken as the direct path and moved to time zero, so that transcripts and
    timestamps stay aligned. Raises AudioContentError if the response is silent; silent speech stays silent.
    """
    dry = _wave(speech, "speech")
    response = _wave(rir, "room impulse response")
    if not response.any():
        raise AudioContentError("The room impulse response is silent (all zeros); use another file.")
    direct = int(np.argmax(np.abs(response)))
    size = _fast_size(dry.size + response.size - 1)
    wet: _Wave = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)
    wet = wet[direct : direct + dry.size]
    dry_energy, wet_energy = float(np.sum(dry**2)), float(np.sum(wet**2))
    if dry_energy == 0.0 or wet_energy == 0.0:
        return np.zeros(dry.size, dtype=np.float32)
    wet *= np.sqrt(dry_energy / wet_energy)
    return wet.astype(np.float32)


def synthetic_rir(
    rt60_s: float, *, direct_to_reverberant_db: float = 0.0, rate_hz: int = 16_000, rng: np.random.Generator
) -> FloatArray:
    """Room impulse response [rt60_s · rate_hz]: a direct path, then noise that decays by 60 dB in `rt60_s`.

    Polack's statistical model: no early reflections, no geometry, but any number of rooms without a recording.
    """
    if not 0 < rt60_s <= 10 or not np.isfinite(direct_to_reverberant_db):
        raise ConfigError(f"A reverberation time of 0 < rt60_s ≤ 10 s is accepted, got {rt60_s} s; typical: 0.2 to 1.")
    response = rng.standard_normal(max(2, round(rt60_s * rate_hz)))
    response *= 10 ** (-3 * np.arange(response.size) / (rt60_s * rate_hz))
    response[0] = 0.0
    response *= 10 ** (-direct_to_reverberant_db / 20) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    response /= np.abs(response).max()
    return response.astype(np.float32)


def _wave(samples: npt.ArrayLike, name: str) -> _Wave:
    return check_samples(samples, name=name).astype(np.float64)


def _active(wave: _Wave, rate_hz: int, name: str = "speech") -> npt.NDArray[np.bool_]:
    """Mask [N] of the active samples, see `active_level_db`."""
    window = max(1, round(_WINDOW_S * rate_hz))
    # Zero padding on both sides makes the ends of a clip the same as silence beyond them.
    total = np.cumsum(np.concatenate((np.zeros(window), wave**2, np.zeros(window - 1))))
    energy = (total[window:] - total[:-window]) / window  # [N + window − 1]: item i is the mean of samples i−window+1…i
    level = float(energy.max())
    if level <= _SILENT_POWER:
        raise AudioContentError(
            f"The {name} is silent (below −100 dBFS everywhere), so it has no level; leave this clip out of mixing."
        )
    loud = energy > level * _MARGIN
    while (lower := float(energy[loud].mean())) < level:  # falls to the largest fixed point, which silence cannot move
        level = lower
        loud = energy > level * _MARGIN
    # Edges of the runs of loud windows; shrinking each run by a window undoes the smear of the smoothing.
    edges = np.flatnonzero(np.diff(np.concatenate(([False], loud, [False])).astype(np.int8)))
    starts, stops = edges[0::2], np.maximum(edges[1::2] - window + 1, edges[0::2] + 1)
    joined = starts[1:] - stops[:-1] > _PAUSE_S * rate_hz
    starts, stops = starts[np.concatenate(([True], joined))], stops[np.concatenate((joined, [True]))]
    active = np.zeros(wave.size, dtype=bool)
    for start, stop in zip(starts, stops, strict=True):
        active[min(start, wave.size - 1) : stop] = True
    return active


def _fit(noise: _Wave, n_samples: int, rng: np.random.Generator) -> _Wave:
    """Crop or loop noise to [n_samples] from a random offset that does not fall into silence."""
    loops = noise.size < n_samples
    last = noise.size - 1 if loops else noise.size - n_samples
    loudest = int(np.argmax(np.abs(noise)))
    if noise[loudest] ** 2 <= _SILENT_POWER:
        raise AudioContentError("The noise is silent (below −100 dBFS everywhere); use another noise file.")
    for offset in (int(rng.integers(0, last + 1)), min(loudest, last)):
        laid = np.take(noise, np.arange(offset, offset + n_samples), mode="wrap")
        if _rms(laid) ** 2 > _SILENT_POWER:
            break
    return laid


def _coloured(n_samples: int, exponent: float, rate_hz: int, rng: np.random.Generator) -> FloatArray:
    # Shaped in the frequency domain, amplitude ∝ f^−exponent; at least 4096 samples so that a short clip has low bins.
    size = _fast_size(max(_at_least_one(n_samples), 4096))
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency_hz = np.fft.rfftfreq(size, 1 / rate_hz)
    audible = frequency_hz >= _LOWEST_HZ
    spectrum[~audible] = 0.0
    spectrum[audible] *= frequency_hz[audible] ** -exponent
    return _at_noise_level(np.fft.irfft(spectrum, size)[:n_samples])


def _at_noise_level(wave: _Wave) -> FloatArray:
    return (wave * (NOISE_RMS / _rms(wave))).astype(np.float32)


def _rms(wave: _Wave) -> float:
    return float(np.sqrt(np.mean(wave**2)))


def _fast_size(n_samples: int) -> int:
    # 1, 3, 5, 9 or 15 times a power of two: sizes the FFT likes, never more than a quarter too large
    return min(odd << (-(-n_samples // odd) - 1).bit_length() for odd in (1, 3, 5, 9, 15))


def _at_least_one(n_samples: int) -> int:
    if n_samples < 1:
        raise ConfigError(f"Noise needs a length of at least 1 sample, got {n_samples}.")
    return n_samples
