"""SNR, levels and spectra of the noises, against independent measurements and one real recording."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.errors import AudioContentError, ConfigError
from linnet.noise import (
    PEAK_LIMIT,
    active_level_db,
    babble,
    brown,
    hum,
    mix_at_snr,
    pink,
    reverberate,
    synthetic_rir,
    white,
)

RATE = 16_000
JFK = Path(os.environ.get("LINNET_SHARED", "../shared")) / "data" / "single" / "jfk.flac"


def tone(seconds: float, amplitude: float = 0.1, rate: int = RATE) -> npt.NDArray[np.float64]:
    return amplitude * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def db(wave: npt.NDArray[np.floating]) -> float:
    return float(10 * np.log10(np.mean(np.asarray(wave, dtype=np.float64) ** 2)))


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.float32]:
    if not JFK.exists():
        pytest.skip(f"{JFK} is not here; set LINNET_SHARED")
    samples, rate = soundfile.read(JFK, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, RATE)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
@pytest.mark.parametrize("seconds", [0.05, 0.5, 3.0])
def test_level_of_a_steady_tone_is_its_rms(rate: int, seconds: float) -> None:
    wave = tone(seconds, rate=rate)
    # 0.8 ms at each end fall under the threshold; nothing else differs from the plain RMS.
    assert active_level_db(wave, rate) == pytest.approx(db(wave), abs=0.05)


@settings(max_examples=30, deadline=None)
@given(before=st.integers(0, 5 * RATE), after=st.integers(0, 5 * RATE), bursts=st.integers(1, 3))
def test_silence_around_speech_does_not_change_the_level(before: int, after: int, bursts: int) -> None:
    burst = np.concatenate((tone(0.3), np.zeros(9000)))
    wave = np.concatenate([burst * 0.7**i for i in range(bursts)])
    padded = np.concatenate((np.zeros(before), wave, np.zeros(after)))
    assert active_level_db(padded, RATE) == pytest.approx(active_level_db(wave, RATE), abs=1e-6)


def test_room_tone_around_real_speech_hardly_changes_the_level(speech: npt.NDArray[np.float32]) -> None:
    level = active_level_db(speech, RATE)
    assert -40 < level < -10 and level > db(speech)
    room = white(30 * RATE, rng=np.random.default_rng(0)) * (10 ** ((level - 45) / 20) / 0.1)
    padded = np.concatenate((room[: 20 * RATE], speech, room[20 * RATE :]))
    assert active_level_db(padded, RATE) == pytest.approx(level, abs=0.1)
    assert active_level_db(np.pad(speech, (12_345, 54_321)), RATE) == pytest.approx(level, abs=1e-3)


def test_pause_is_left_out_and_short_gap_is_kept() -> None:
    loud, full = tone(1.0), db(tone(1.0))
    pause = np.concatenate((loud, np.zeros(RATE), loud))
    gap = np.concatenate((loud, np.zeros(RATE // 10), loud))
    assert active_level_db(pause, RATE) == pytest.approx(full, abs=0.05)
    assert active_level_db(gap, RATE) == pytest.approx(full + 10 * np.log10(2 / 2.1), abs=0.05)


@settings(max_examples=40, deadline=None)
@given(
    snr_db=st.floats(-20, 40),
    seconds=st.floats(0.1, 3),
    noise_samples=st.integers(200, 50_000),
    amplitude=st.floats(0.001, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_snr_after_mixing_matches_request(
    snr_db: float, seconds: float, noise_samples: int, amplitude: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    voice = np.concatenate((np.zeros(4000), tone(seconds, amplitude), np.zeros(3000)))
    mix = mix_at_snr(voice, white(noise_samples, rng=rng), snr_db, rate_hz=RATE, rng=rng)
    # The oracle knows where the tone is, so it needs no activity detection.
    assert db(mix.speech[4000:-3000]) - db(mix.noise) == pytest.approx(snr_db, abs=0.1)
    assert mix.mixed.shape == voice.shape and mix.mixed.dtype == np.float32
    assert np.array_equal(mix.mixed, mix.speech + mix.noise)
    assert np.abs(mix.mixed).max() <= PEAK_LIMIT
    np.testing.assert_allclose(mix.speech, voice * mix.gain, atol=1e-7)


def test_snr_holds_on_real_speech_in_babble(speech: npt.NDArray[np.float32]) -> None:
    rng = np.random.default_rng(1)
    voices = [np.roll(speech, shift) for shift in (20_000, 50_000, 90_000)]
    mix = mix_at_snr(speech, babble(voices, 3 * RATE, rate_hz=RATE, rng=rng), 5.0, rate_hz=RATE, rng=rng)
    assert active_level_db(mix.speech, RATE) - db(mix.noise) == pytest.approx(5.0, abs=0.1)


def test_loud_mixture_is_scaled_as_a_whole() -> None:
    mix = mix_at_snr(tone(1, 0.9), white(RATE, rng=np.random.default_rng(0)), 0, rate_hz=RATE, rng=_rng())
    assert mix.gain < 1 and np.abs(mix.mixed).max() == pytest.approx(PEAK_LIMIT, abs=1e-5)
    assert mix_at_snr(tone(1, 0.01), tone(1), 0, rate_hz=RATE, rng=_rng()).gain == 1.0


def test_random_crop_never_lands_in_the_silent_part_of_a_noise() -> None:
    mostly_silent = np.zeros(20 * RATE)
    mostly_silent[5 * RATE : 5 * RATE + 100] = 0.5
    for seed in range(20):
        mix = mix_at_snr(tone(0.5), mostly_silent, 10, rate_hz=RATE, rng=np.random.default_rng(seed))
        assert db(tone(0.5)) - db(mix.noise / mix.gain) == pytest.approx(10, abs=0.1)


def test_same_seed_gives_the_same_samples_and_another_seed_others() -> None:
    def everything(seed: int) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        noises = [white(999, rng=rng), pink(999, rng=rng), brown(999, rng=rng), hum(999, rng=rng)]
        noises.append(babble([tone(0.1), tone(0.2), tone(0.3)], 999, rate_hz=RATE, rng=rng))
        mix = mix_at_snr(tone(1), np.concatenate(noises), 3, rate_hz=RATE, rng=rng)
        return np.concatenate([*noises, mix.mixed])

    assert np.array_equal(everything(7), everything(7))
    assert not np.allclose(everything(7), everything(8))


def octave_slope_db(wave: npt.NDArray[np.float32], low_hz: float = 40, high_hz: float = 6_000) -> float:
    """Slope of the power spectral density in dB per octave: Welch periodogram, averaged per third of an octave."""
    size = 4096
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), size)[:: size // 2]
    power = np.mean(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2, axis=0)
    hz = np.fft.rfftfreq(size, 1 / RATE)
    edges = low_hz * 2 ** np.arange(0, np.log2(high_hz / low_hz), 1 / 3)
    bands = [(np.sqrt(lo * hi), power[(hz >= lo) & (hz < hi)].mean()) for lo, hi in pairwise(edges)]
    octaves, levels = np.log2([b[0] for b in bands]), 10 * np.log10([b[1] for b in bands])
    return float(np.polyfit(octaves, levels, 1)[0])


@pytest.mark.parametrize(("make", "slope"), [(white, 0.0), (pink, -3.01), (brown, -6.02)])
@pytest.mark.parametrize("seed", [0, 1])
def test_spectral_slope_per_octave(make: object, slope: float, seed: int) -> None:
    wave = make(60 * RATE, rng=np.random.default_rng(seed))  # type: ignore[operator]
    assert octave_slope_db(wave) == pytest.approx(slope, abs=0.3)


@pytest.mark.parametrize("samples", [1, 2, 100, 64_000])
@pytest.mark.parametrize("make", [white, pink, brown])
def test_noise_has_the_length_and_level_it_states(make: object, samples: int) -> None:
    wave = make(samples, rng=_rng())  # type: ignore[operator]
    assert wave.shape == (samples,) and wave.dtype == np.float32
    assert db(wave) == pytest.approx(-20, abs=1e-3)


def test_hum_has_its_energy_at_the_harmonics() -> None:
    power = np.abs(np.fft.rfft(hum(RATE, frequency_hz=60, harmonics=3, rng=_rng()))) ** 2  # 1 s: bin = Hz
    assert set(np.argsort(power)[-3:]) == {60, 120, 180}
    assert power[[60, 120, 180]].sum() / power.sum() > 0.999
    assert power[60] / power[120] == pytest.approx(4, rel=1e-3)


def test_babble_voices_have_equal_active_level() -> None:
    # Tones at different frequencies stand for the voices: levels can be read off the spectrum.
    time = np.arange(RATE) / RATE
    voices = [gain * np.sin(2 * np.pi * hz * time) for gain, hz in ((0.5, 300), (0.01, 500), (0.1, 800))]
    voices[1][: RATE // 2] = 0  # half silent: its level while active must equal the others'
    loops = babble(voices, 8 * RATE, rate_hz=RATE, rng=_rng())
    power = np.abs(np.fft.rfft(loops.astype(np.float64))) ** 2
    at = {hz: power[(hz - 20) * 8 : (hz + 20) * 8].sum() for hz in (300, 500, 800)}
    assert at[800] / at[300] == pytest.approx(1, rel=0.02)
    assert at[500] / at[300] == pytest.approx(0.5, rel=0.05)


def test_reverberation_equals_direct_convolution_aligned_on_the_direct_path() -> None:
    rng = _rng()
    dry, rir = rng.standard_normal(500), rng.standard_normal(80) * 0.1
    rir[17] = -1.0
    expected = np.convolve(dry, rir)[17 : 17 + 500]
    expected *= np.linalg.norm(dry) / np.linalg.norm(expected)
    np.testing.assert_allclose(reverberate(dry, rir), expected, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 37, 16_000])
def test_reverberation_keeps_length_and_energy_and_a_unit_impulse_changes_nothing(samples: int) -> None:
    dry = white(samples, rng=_rng())
    np.testing.assert_allclose(reverberate(dry, [0.0, 0.0, 0.5]), dry, atol=1e-6)
    wet = reverberate(dry, synthetic_rir(0.4, rng=_rng()))
    assert wet.shape == dry.shape and wet.dtype == np.float32
    assert db(wet) == pytest.approx(db(dry), abs=1e-3)


def test_synthetic_room_decays_by_60_db_in_its_reverberation_time() -> None:
    rt60 = 0.5
    rir = synthetic_rir(rt60, direct_to_reverberant_db=3, rng=_rng()).astype(np.float64)
    tail = rir[1:]
    assert 10 * np.log10(rir[0] ** 2 / np.sum(tail**2)) == pytest.approx(3, abs=0.01)
    decay_db = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1])  # Schroeder's backward integration
    samples_to_35_db = int(np.argmax(decay_db < decay_db[0] - 35)) - int(np.argmax(decay_db < decay_db[0] - 5))
    assert samples_to_35_db / RATE * 2 == pytest.approx(rt60, rel=0.1)  # T30 extrapolated to 60 dB


def test_silence_says_what_is_silent_and_what_to_do() -> None:
    zeros, voice = np.zeros(RATE), tone(1)
    with pytest.raises(AudioContentError, match=r"speech is silent.*leave this clip out"):
        active_level_db(zeros, RATE)
    with pytest.raises(AudioContentError, match="speech is silent"):
        mix_at_snr(zeros, voice, 0, rate_hz=RATE, rng=_rng())
    with pytest.raises(AudioContentError, match=r"noise is silent.*another noise"):
        mix_at_snr(voice, zeros, 0, rate_hz=RATE, rng=_rng())
    with pytest.raises(AudioContentError, match="babble utterance 1 is silent"):
        babble([voice, zeros, voice], RATE, rate_hz=RATE, rng=_rng())
    with pytest.raises(AudioContentError, match="impulse response is silent"):
        reverberate(voice, zeros)
    assert not reverberate(zeros, [1.0, 0.5]).any()


def test_unusable_input_is_refused() -> None:
    voice = tone(0.1)
    with pytest.raises(AudioContentError, match="at least 3 utterances, got 2"):
        babble([voice, voice], 100, rate_hz=RATE, rng=_rng())
    with pytest.raises(AudioContentError, match="NaN"):
        mix_at_snr(voice, [np.nan], 0, rate_hz=RATE, rng=_rng())
    with pytest.raises(AudioContentError, match=r"shape \(2, 3\)"):
        active_level_db(np.zeros((2, 3)), RATE)
    with pytest.raises(AudioContentError, match="no samples"):
        active_level_db([], RATE)
    with pytest.raises(ConfigError, match="finite"):
        mix_at_snr(voice, voice, np.inf, rate_hz=RATE, rng=_rng())
    with pytest.raises(ConfigError, match="at least 1 sample"):
        pink(0, rng=_rng())
    with pytest.raises(ConfigError, match="frequency_hz"):
        hum(100, frequency_hz=9_000, rng=_rng())


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
