"""Augmentation: nothing at neutral settings, exact geometry of the warps, bounded masks, reproducible noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.data.augment import NO_AUGMENT, AugmentConfig, augment_mel, augment_samples, warp_mel
from linnet.features import log_mel
from linnet.noise import active_level_db

FloatArray = npt.NDArray[np.float32]
RATE_HZ = 16_000


def picture(frames: int = 120, bands: int = 128, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((bands, frames)).astype(np.float32)


def speech(seconds: float = 1.0, seed: int = 0) -> FloatArray:
    """A tone that comes and goes, at −20 dB or so."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (0.2 * np.sin(2 * np.pi * (220 + 40 * seed) * time) * (np.sin(2 * np.pi * 2 * time) > 0)).astype(np.float32)


def test_neutral_settings_change_nothing() -> None:
    samples, mel = speech(), picture()
    rng = np.random.default_rng(0)
    assert np.array_equal(augment_samples(samples, NO_AUGMENT, rng, rate_hz=RATE_HZ), samples)
    assert np.array_equal(augment_mel(mel, NO_AUGMENT, rng), mel)


def test_strength_moves_every_setting_between_neutral_and_full() -> None:
    full = AugmentConfig()
    assert full.weakened(1.0) == full
    samples, mel = speech(), picture()
    none = full.weakened(0.0)
    assert np.array_equal(augment_samples(samples, none, np.random.default_rng(0), rate_hz=RATE_HZ), samples)
    assert np.array_equal(augment_mel(mel, none, np.random.default_rng(0)), mel)
    half = full.weakened(0.5)
    assert half.gain_db == (-5.0, 5.0) and half.speed == pytest.approx((0.925, 1.075))
    assert half.noise_probability == pytest.approx(full.noise_probability / 2)


@pytest.mark.parametrize("options", [{}, {"speed": (0.5, 2.0)}, {"gain_db": (3.0, 3.0)}, {"freq_masks": 3}])
def test_the_input_is_left_alone(options: dict[str, tuple[float, float]]) -> None:
    mel = picture()
    before = mel.copy()
    augment_mel(mel, replace(NO_AUGMENT, **options), np.random.default_rng(0))
    assert np.array_equal(mel, before)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 400), st.floats(0.5, 2.0), st.floats(0.8, 1.2))
def test_warping_changes_the_length_by_one_over_speed(frames: int, speed: float, vocal_tract: float) -> None:
    mel = picture(frames, bands=20)
    warped = warp_mel(mel, speed=speed, vocal_tract=vocal_tract)
    assert warped.shape == (20, max(1, round(frames / speed)))
    assert warped.dtype == np.float32
    # Interpolation never leaves the range of what it interpolates.
    assert mel.min() - 1e-6 <= warped.min() and warped.max() <= mel.max() + 1e-6


@pytest.mark.parametrize("speed", [0.5, 2.0, 0.9])
def test_a_ramp_in_time_stays_a_ramp(speed: float) -> None:
    ramp = np.tile(np.linspace(-1, 3, 80, dtype=np.float32), (4, 1))
    warped = warp_mel(ramp, speed=speed, vocal_tract=1.0)
    expected = np.linspace(-1, 3, round(80 / speed))  # same ends, other number of steps
    np.testing.assert_allclose(warped, np.tile(expected, (4, 1)), atol=1e-5)  # float32 of values up to 3


@pytest.mark.parametrize("vocal_tract", [0.85, 1.15])
def test_frequencies_scale_below_the_knee_and_the_ends_stay(vocal_tract: float) -> None:
    bands = 101
    ramp = np.repeat(np.arange(bands, dtype=np.float32)[:, None], 3, axis=1)  # each band holds its own number
    warped = warp_mel(ramp, speed=1.0, vocal_tract=vocal_tract)
    places = np.arange(81)  # up to 80 % of the range
    np.testing.assert_allclose(warped[:81, 0], places * vocal_tract, atol=1e-4)
    assert warped[0, 0] == 0 and warped[-1, 0] == bands - 1
    assert (np.diff(warped[:, 0]) > 0).all()  # no band is folded over another
    np.testing.assert_allclose(np.diff(warped[81:, 0]), (100 - 80 * vocal_tract) / 20, atol=1e-4)


def test_gain_is_what_a_louder_recording_gives() -> None:
    """The oracle is the front end itself: 6 dB on the samples against 6 dB on the log-mel."""
    rng = np.random.default_rng(0)
    samples = (0.05 * rng.standard_normal(RATE_HZ)).astype(np.float32)  # noise: no band is at the clip's floor
    config = replace(NO_AUGMENT, gain_db=(6.0, 6.0))
    louder = log_mel(samples * np.float32(10 ** (6 / 20)))
    # Float32 rounding in the transform; 6 dB are 0.15 here.
    np.testing.assert_allclose(augment_mel(log_mel(samples), config, rng), louder, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(0, 2**31))
def test_masks_are_bounded_and_filled_with_the_mean(frames: int, seed: int) -> None:
    config = replace(NO_AUGMENT, freq_masks=1, freq_mask_bands=24, time_masks=1, time_mask_ratio=0.1)
    mel = picture(frames, seed=1)
    masked = augment_mel(mel, config, np.random.default_rng(seed))
    changed = masked != mel
    rows, columns = changed.all(axis=1), changed.all(axis=0)
    assert rows.sum() <= 24 and columns.sum() <= max(0, min(50, int(0.1 * frames)))
    assert not changed[np.ix_(~rows, ~columns)].any()  # what is masked is whole bands and whole frames
    for stripe in (rows, columns):
        places = np.flatnonzero(stripe)
        assert not len(places) or len(places) == len(stripe) or np.ptp(places) == len(places) - 1
    assert set(np.unique(masked[changed])) <= {np.float32(mel.mean())}


def test_long_clips_lose_at_most_half_a_second_per_mask() -> None:
    config = replace(NO_AUGMENT, time_masks=1, time_mask_ratio=0.5)
    mel = picture(1000, bands=8)
    widths = [
        int((augment_mel(mel, config, np.random.default_rng(seed)) != mel).all(axis=0).sum()) for seed in range(200)
    ]
    assert max(widths) == 50 and min(widths) == 0


def test_the_same_generator_state_gives_the_same_example() -> None:
    config = AugmentConfig(noise_probability=1.0, reverb_probability=1.0)
    samples, mel = speech(), picture()

    def pick(rng: np.random.Generator) -> FloatArray:
        return speech(0.3, seed=int(rng.integers(5)))

    def both(seed: int) -> tuple[FloatArray, FloatArray]:
        rng = np.random.default_rng(seed)
        return augment_samples(samples, config, rng, rate_hz=RATE_HZ, pick_speech=pick), augment_mel(mel, config, rng)

    for seed in range(12):  # every kind of noise comes up
        for a, b in zip(both(seed), both(seed), strict=True):
            assert np.array_equal(a, b)
    assert not np.array_equal(both(0)[0], both(1)[0])


@pytest.mark.parametrize("pick", [False, True])
def test_noise_has_the_signal_to_noise_ratio_of_the_settings(pick: bool) -> None:
    samples = speech(2.0)
    config = replace(NO_AUGMENT, noise_probability=1.0, snr_db=(12.0, 12.0))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        noisy = augment_samples(
            samples, config, rng, rate_hz=RATE_HZ, pick_speech=(lambda _: speech(0.5, seed=3)) if pick else None
        )
        assert noisy.shape == samples.shape and noisy.dtype == np.float32
        assert np.abs(noisy).max() < 0.99  # so nothing was scaled and the difference is the noise
        added_db = 10 * np.log10(np.mean((noisy - samples).astype(np.float64) ** 2))
        assert active_level_db(samples, RATE_HZ) - added_db == pytest.approx(12.0, abs=0.01)


def test_probabilities_are_kept() -> None:
    samples, config = speech(0.3), replace(NO_AUGMENT, noise_probability=0.35)
    changed = sum(
        not np.array_equal(augment_samples(samples, config, np.random.default_rng(seed), rate_hz=RATE_HZ), samples)
        for seed in range(300)
    )
    assert changed == pytest.approx(105, abs=5 * np.sqrt(300 * 0.35 * 0.65))  # five standard deviations


def test_reverberation_keeps_the_length_and_blurs_the_end() -> None:
    samples = speech(1.0)
    config = replace(NO_AUGMENT, reverb_probability=1.0, rt60_s=(0.5, 0.5))
    wet = augment_samples(samples, config, np.random.default_rng(0), rate_hz=RATE_HZ)
    assert wet.shape == samples.shape
    silent = slice(int(0.26 * RATE_HZ), int(0.45 * RATE_HZ))  # the tone is off from 0.25 to 0.5 s
    assert not samples[silent].any() and np.abs(wet[silent]).max() > 1e-3


@pytest.mark.parametrize("pick", [None, lambda rng: np.zeros(8000, np.float32)])
def test_silence_trains_as_it_is(pick: object) -> None:
    silence = np.zeros(RATE_HZ, np.float32)
    config = replace(NO_AUGMENT, noise_probability=1.0)
    for seed in range(8):
        out = augment_samples(
            silence,
            config,
            np.random.default_rng(seed),
            rate_hz=RATE_HZ,
            pick_speech=pick,  # type: ignore[arg-type]
        )
        assert not out.any()


def stripes(values: Sequence[bool]) -> int:
    return int(np.diff(np.concatenate([[False], values]).astype(int)).clip(0).sum())


def test_default_settings_mask_as_often_as_they_say() -> None:
    config = replace(NO_AUGMENT, freq_masks=2, time_masks=2)
    mel = picture(400)
    seen_rows, seen_columns = 0, 0
    for seed in range(50):
        changed = augment_mel(mel, config, np.random.default_rng(seed)) != mel
        seen_rows = max(seen_rows, stripes(changed.all(axis=1)))
        seen_columns = max(seen_columns, stripes(changed.all(axis=0)))
    assert (seen_rows, seen_columns) == (2, 2)
