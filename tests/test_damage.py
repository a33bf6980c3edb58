"""Rooms, codecs and spectral subtraction: what they may and may not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linnet.audio import read_audio, write_audio
from linnet.damage import CODECS, make_damage, through_codec
from linnet.denoise import spectral_subtraction
from linnet.errors import AudioContentError, ConfigError
from linnet.manifest import Utterance, write_manifest
from linnet.metrics import si_sdr
from linnet.noise import active_level_db, mix_at_snr, white

RATE_HZ = 16_000


@pytest.fixture
def speech(clip: Path) -> np.ndarray:
    return read_audio(clip)[: 3 * RATE_HZ]


def utterance(name: str) -> Utterance:
    return Utterance(audio_path=Path(f"{name}.wav"), duration_s=1.0, id=name)


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_lose_something_but_not_the_speech(speech: np.ndarray, codec: str) -> None:
    damaged = through_codec(speech, RATE_HZ, codec=codec)
    assert damaged.shape == speech.shape and damaged.dtype == np.float32
    assert not np.allclose(damaged, speech, atol=1e-3)
    assert active_level_db(damaged, RATE_HZ) == pytest.approx(active_level_db(speech, RATE_HZ), abs=3.0)
    # Found again under any delay of the encoder: the envelopes rise and fall together.
    envelopes = [np.abs(wave[: len(wave) // 320 * 320]).reshape(-1, 320).mean(1) for wave in (damaged, speech)]
    lagged = [np.corrcoef(np.roll(envelopes[0], -lag), envelopes[1])[0, 1] for lag in range(6)]
    assert max(lagged) > 0.85


def test_narrow_codecs_have_nothing_above_four_kilohertz(speech: np.ndarray) -> None:
    for codec in ("telephone", "gsm"):
        power = np.abs(np.fft.rfft(through_codec(speech, RATE_HZ, codec=codec))) ** 2
        frequency_hz = np.fft.rfftfreq(speech.size, 1 / RATE_HZ)
        assert power[frequency_hz > 4200].sum() < 1e-3 * power.sum()


def test_rooms_depend_on_seed_and_utterance_alone(speech: np.ndarray) -> None:
    room, same, other = (make_damage("reverb", rate_hz=RATE_HZ, seed=seed) for seed in (0, 0, 1))
    first = room.apply(utterance("a"), speech)
    assert np.array_equal(first, same.apply(utterance("a"), speech))
    assert not np.array_equal(first, room.apply(utterance("b"), speech))
    assert not np.array_equal(first, other.apply(utterance("a"), speech))
    assert room.name == "reverb 0.8 s"


def test_recorded_rooms_come_from_a_manifest(speech: np.ndarray, tmp_path: Path) -> None:
    response = np.zeros(800, np.float32)
    response[[0, 400]] = 0.8, 0.4
    write_audio(tmp_path / "room.wav", response, RATE_HZ)
    write_manifest(tmp_path / "rooms.jsonl", [Utterance(audio_path=tmp_path / "room.wav", duration_s=0.05)])
    damage = make_damage(tmp_path / "rooms.jsonl", rate_hz=RATE_HZ, seed=0)
    echoed = speech + 0.5 * np.concatenate([np.zeros(400, np.float32), speech[:-400]])
    assert damage.name == "rooms"
    assert si_sdr(echoed, damage.apply(utterance("a"), speech)) > 40  # 16-bit file: the only difference is rounding


def test_unknown_damages_and_codecs_are_named(speech: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="no damage 'vinyl'; accepted: reverb, telephone, gsm, opus, mp3"):
        make_damage("vinyl", rate_hz=RATE_HZ, seed=0)
    with pytest.raises(ConfigError, match="no codec 'vinyl'; accepted: telephone"):
        through_codec(speech, RATE_HZ, codec="vinyl")


def test_spectral_subtraction_takes_off_stationary_noise(speech: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noisy = mix_at_snr(speech, white(speech.size, rng=rng), 5.0, rate_hz=RATE_HZ, rng=rng)
    assert noisy.gain == 1.0
    cleaned = spectral_subtraction(noisy.mixed, rate_hz=RATE_HZ)
    assert si_sdr(speech, cleaned) > si_sdr(speech, noisy.mixed) + 2.0
    alone = spectral_subtraction(white(RATE_HZ, rng=rng), rate_hz=RATE_HZ)
    assert 10 * np.log10(np.mean(alone**2) / 0.01) < -6  # of −20 dBFS


def test_spectral_subtraction_leaves_clean_speech_alone(speech: np.ndarray) -> None:
    """Its analysis and synthesis add up to the input: what is lost is what is subtracted."""
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    for length in (1, 255, 256, 257, 1000, RATE_HZ):
        assert spectral_subtraction(tone[:length], rate_hz=RATE_HZ).shape == (length,)
    gaps = np.concatenate([np.zeros(RATE_HZ, np.float32), tone[: RATE_HZ // 2], np.zeros(RATE_HZ, np.float32)])
    np.testing.assert_allclose(spectral_subtraction(gaps, rate_hz=RATE_HZ), gaps, atol=1e-6)
    assert not spectral_subtraction(np.zeros(500), rate_hz=RATE_HZ).any()
    with pytest.raises(AudioContentError):
        spectral_subtraction(np.full(500, np.nan), rate_hz=RATE_HZ)
