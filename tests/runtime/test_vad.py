"""Speech is found, also when a digit is the whole file; noise, hum, clicks and silence are not speech."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.audio import read_audio
from linnet.runtime.silero import FRAME
from linnet.runtime.vad import ENTER, HANGOVER_FRAMES, LEAVE, MIN_FRAMES, SURE, Region, RegionTracker
from linnet.runtime.vad import SpeechDetector as Detector

FloatArray = npt.NDArray[np.float32]
RATE = 16_000


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def frames_of(samples: FloatArray) -> FloatArray:
    return np.pad(samples, (0, -len(samples) % FRAME)).astype(np.float32).reshape(-1, FRAME)


def regions(probabilities: list[float]) -> list[Region]:
    tracker = RegionTracker()
    found = [tracker.push(probability) for probability in probabilities]
    return [region for region in [*found, tracker.finish()] if region is not None]


def speech(detector: Detector, samples: FloatArray) -> list[Region]:
    detector.reset()
    return regions(detector(frames_of(samples)))


@pytest.mark.parametrize(("corpus", "clips"), [("fsdd", 200), ("audio_cmn_hsk1-4", 60), ("speechocean762", 20)])
def test_at_least_99_percent_of_short_clips_are_heard(
    shared: Path, detector: Detector, corpus: str, clips: int
) -> None:
    entries = [json.loads(line) for line in (shared / "data/test.jsonl").read_text("utf-8").splitlines()]
    paths = [shared / "data" / entry["audio_filepath"] for entry in entries if entry["corpus"] == corpus][:clips]
    assert len(paths) >= 20
    missed = [path.name for path in paths if not speech(detector, read_audio(path))]
    assert len(missed) <= 0.01 * len(paths), missed


@pytest.mark.parametrize("level_db", [-20, -35])
def test_a_quiet_recording_is_heard(clip: Path, detector: Detector, level_db: float) -> None:
    samples = read_audio(clip)
    quiet = samples * np.float32(10 ** (level_db / 20))
    frames = sum(region.end - region.start for region in speech(detector, samples))
    quiet_frames = sum(region.end - region.start for region in speech(detector, quiet))
    assert quiet_frames >= 0.8 * frames > 0


def noise(color: str, level: float) -> FloatArray:
    """10 s with a power spectrum of f^0 (white), f^-1 (pink) or f^-2 (brown) and this RMS."""
    samples = 10 * RATE
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(samples))
    slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[color]
    shaped = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** slope, samples)
    return (shaped / shaped.std() * level).astype(np.float32)


@pytest.mark.parametrize("color", ["white", "pink", "brown"])
@pytest.mark.parametrize("level", [0.3, 0.03, 0.003, 0.0003, 0.00003])
def test_noise_is_not_speech(detector: Detector, color: str, level: float) -> None:
    assert speech(detector, noise(color, level)) == []


@pytest.mark.parametrize("pitch_hz", [50, 60, 440])  # what Silero takes for a vowel, `longform` leaves out
@pytest.mark.parametrize("level", [0.5, 0.01])
def test_hum_is_not_speech(detector: Detector, pitch_hz: int, level: float) -> None:
    time_s = np.arange(5 * RATE) / RATE
    hum = sum(np.sin(2 * np.pi * pitch_hz * k * time_s) / k for k in (1, 2, 3))
    assert speech(detector, (level * hum).astype(np.float32)) == []


@pytest.mark.parametrize("name", ["doing_the_dishes", "noise2", "sheep"])
def test_recorded_noise_is_not_speech(shared: Path, detector: Detector, name: str) -> None:
    assert speech(detector, read_audio(shared / f"data/noise/{name}.flac")[: 20 * RATE]) == []


@pytest.mark.parametrize("surround", [0, RATE // 2])
@pytest.mark.parametrize("kind", ["noise", "tone", "click"])
def test_a_blip_of_10_ms_is_not_speech(detector: Detector, surround: int, kind: str) -> None:
    time_s = np.arange(RATE // 100) / RATE
    random = np.random.default_rng(0).standard_normal(len(time_s)) * 0.2
    blip = {"noise": random, "tone": 0.5 * np.sin(2 * np.pi * 440 * time_s), "click": np.full(len(time_s), 0.8)}[kind]
    assert speech(detector, np.pad(blip, surround).astype(np.float32)) == []


def test_silence_is_not_speech(detector: Detector) -> None:
    assert speech(detector, np.zeros(3 * RATE, np.float32)) == []


def test_what_follows_silence_is_heard_alike_however_long_it_was(clip: Path, detector: Detector) -> None:
    """Hours of silence must neither cost time nor wear the detector's memory out."""
    frames = frames_of(read_audio(clip))
    detector.reset()
    short = detector(np.concatenate([np.zeros((100, FRAME), np.float32), frames]))
    detector.reset()
    long = detector(np.concatenate([np.zeros((5000, FRAME), np.float32), frames]))
    assert max(long[:5000]) == 0
    np.testing.assert_allclose(long[5000:], short[100:], atol=1e-5)  # frames are computed in other groups


def test_calls_continue_each_other_and_reset_forgets(clip: Path, detector: Detector) -> None:
    frames = frames_of(read_audio(clip)[: 3 * RATE])
    detector.reset()
    whole = detector(frames)
    detector.reset()
    pieces = [probability for start in range(0, len(frames), 7) for probability in detector(frames[start : start + 7])]
    np.testing.assert_allclose(pieces, whole, atol=1e-4)  # matrix products of other sizes round differently
    assert len(whole) == len(frames)


PROBABILITIES = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.55, 0.9]), max_size=120)


@given(PROBABILITIES)
def test_regions_are_ordered_and_each_holds_evidence(probabilities: list[float]) -> None:
    found = regions(probabilities)
    for before, after in pairwise(found):
        assert before.end + HANGOVER_FRAMES <= after.start + 1
    for region in found:
        inside = probabilities[region.start : region.end]
        assert sum(p >= ENTER for p in inside) >= MIN_FRAMES
        assert max(inside) >= SURE
        assert inside[0] >= ENTER
        assert inside[-1] >= LEAVE


@given(PROBABILITIES)
def test_two_sure_frames_in_a_row_are_always_in_a_region(probabilities: list[float]) -> None:
    covered = {frame for region in regions(probabilities) for frame in range(region.start, region.end)}
    for frame in range(len(probabilities) - 1):
        if min(probabilities[frame : frame + 2]) >= SURE:
            assert {frame, frame + 1} <= covered


def test_a_short_pause_does_not_end_a_region() -> None:
    talk = [0.9] * 5
    assert len(regions(talk + [0.0] * (HANGOVER_FRAMES - 1) + talk)) == 1
    assert len(regions(talk + [0.0] * HANGOVER_FRAMES + talk)) == 2
