"""Log-mel features against official vectors and a brute-force Fourier sum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet.errors import AudioContentError, ConfigError
from linnet.features import WHISPER_128, FeatureSpec, log_mel, mel_filters

NATURAL = FeatureSpec(n_mels=40, log="natural", n_fft=320, hop_length=160, f_min_hz=20.0)


def slow_power(wave: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """Power spectrum [n_fft // 2 + 1, F] in float64, frame by frame, straight from the definition of the DFT."""
    half = spec.n_fft // 2
    padded = np.pad(wave.astype(np.float64), half, mode="reflect")
    n = np.arange(spec.n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / spec.n_fft)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(half + 1), n) / spec.n_fft)
    frames = [
        padded[f * spec.hop_length : f * spec.hop_length + spec.n_fft] for f in range(wave.size // spec.hop_length)
    ]
    return np.abs(dft @ (np.stack(frames, axis=1) * window[:, None])) ** 2


def slow_filters(spec: FeatureSpec) -> np.ndarray:
    """Slaney's triangles one bin at a time; the scale is 3 mel per 200 Hz up to 1 kHz, then 27 steps per factor 6.4."""

    def to_hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    low, high = to_mel(spec.f_min_hz), to_mel(spec.f_max_hz)
    edges = [to_hz(low + (high - low) * i / (spec.n_mels + 1)) for i in range(spec.n_mels + 2)]
    filters = np.zeros((spec.n_mels, spec.n_fft // 2 + 1))
    for m in range(spec.n_mels):
        left, centre, right = edges[m : m + 3]
        for k in range(spec.n_fft // 2 + 1):
            hz = k * spec.sample_rate_hz / spec.n_fft
            height = min((hz - left) / (centre - left), (right - hz) / (right - centre))
            filters[m, k] = max(0.0, height) * 2 / (right - left)
    return filters


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)


def test_agrees_with_the_official_front_end(golden: Path) -> None:
    cases = np.load(golden / "qwen3_asr/cases.npz")
    names = sorted(key.removesuffix(".wave") for key in cases.files if key.endswith(".wave"))
    assert names
    for name in names:
        wave, expected = cases[f"{name}.wave"], cases[f"{name}.mel"]
        # 1e-4 is the published tolerance; both sides compute in float32
        np.testing.assert_allclose(log_mel(wave), expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("spec", [WHISPER_128, NATURAL, FeatureSpec(sample_rate_hz=8000, f_max_hz=4000.0, n_fft=256)])
def test_filters_agree_with_the_definition(spec: FeatureSpec) -> None:
    np.testing.assert_allclose(mel_filters(spec), slow_filters(spec), rtol=1e-5, atol=1e-9)


def test_natural_log_agrees_with_a_brute_force_dft(noise: np.ndarray) -> None:
    power = slow_filters(NATURAL) @ slow_power(noise, NATURAL)
    # float32 spectra of full-band noise: relative error of the power about 1e-5
    np.testing.assert_allclose(log_mel(noise, NATURAL), np.log(np.maximum(power, 1e-10)), atol=1e-4)


def test_whisper_log_agrees_with_a_brute_force_dft(noise: np.ndarray) -> None:
    noise = noise * np.linspace(0, 1, noise.size, dtype=np.float32) ** 8  # spans more than the 8 decades that are kept
    decades = np.log10(np.maximum(slow_filters(WHISPER_128) @ slow_power(noise, WHISPER_128), 1e-10))
    assert decades.min() < decades.max() - 8
    expected = (np.maximum(decades, decades.max() - 8) + 4) / 4
    np.testing.assert_allclose(log_mel(noise), expected, atol=1e-4)


@pytest.mark.parametrize("frames", [999, 1000, 1001, 2001])
def test_block_boundaries_leave_no_trace(frames: int) -> None:
    wave = np.random.default_rng(1).uniform(-1, 1, frames * 160 + 7).astype(np.float32)
    whole = log_mel(wave, NATURAL)
    assert whole.shape == (40, frames)
    # a frame depends only on n_fft samples, so a short cut around each block boundary must give the same columns
    for boundary in range(1000, frames, 1000):
        start = boundary - 10
        part = log_mel(wave[start * 160 :], NATURAL)
        # the cut's first two frames see its reflected edge; matrix products of other widths round differently
        np.testing.assert_allclose(whole[:, start + 2 : boundary + 1], part[:, 2:11], atol=1e-4)


@pytest.mark.parametrize("samples", [160, 161, 199, 200, 201, 319, 320, 400, 16_000, 16_159])
def test_edge_lengths_give_finite_frames(samples: int) -> None:
    wave = np.random.default_rng(2).uniform(-1, 1, samples).astype(np.float32)
    mel = log_mel(wave)
    assert mel.shape == (128, samples // 160) == (128, WHISPER_128.frames(samples))
    assert mel.dtype == np.float32
    assert np.isfinite(mel).all()


def test_silence_is_finite_and_flat() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(1600)), np.full((128, 10), (-10 + 4) / 4), atol=1e-6)  # float32 log10
    np.testing.assert_allclose(log_mel(np.zeros(1600), NATURAL), np.log(1e-10), rtol=1e-6)


def test_whisper_floor_is_eight_decades_below_the_maximum() -> None:
    wave = np.zeros(16_000, dtype=np.float32)
    wave[8000] = 1.0
    mel = log_mel(wave)
    assert mel.max() - mel.min() == pytest.approx(2.0, abs=1e-6)  # 8 / 4


def test_natural_log_of_one_frame_does_not_depend_on_the_rest(noise: np.ndarray) -> None:
    louder = noise.copy()
    louder[8000:] *= 100
    assert np.array_equal(log_mel(noise, NATURAL)[:, :45], log_mel(louder, NATURAL)[:, :45])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(159), "at least 160 samples"),
        (np.zeros(0), "got 0"),
        (np.zeros((2, 1600)), r"mono samples \[N\], got shape \(2, 1600\)"),
        (np.array([0.0] * 300 + [np.nan]), "NaN or infinity"),
        (np.array([0.0] * 300 + [np.inf]), "NaN or infinity"),
    ],
)
def test_bad_samples(samples: np.ndarray, message: str) -> None:
    with pytest.raises(AudioContentError, match=message):
        log_mel(samples)


@pytest.mark.parametrize("change", [{"n_mels": 0}, {"hop_length": -1}, {"f_min_hz": 9000.0}, {"f_max_hz": 8001.0}])
def test_impossible_specs(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(WHISPER_128, **change)  # type: ignore[arg-type]
