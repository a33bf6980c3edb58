"""Cuts: every sample of speech in exactly one, none too long, made where it is quiet, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fakes import loudness_detector
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.audio import read_audio
from linnet.noise import hum
from linnet.runtime.longform import Cut, plan_cuts, quietest_point
from linnet.runtime.silero import FRAME
from linnet.runtime.vad import PAD_FRAMES, SpeechDetector

FloatArray = npt.NDArray[np.float32]
RATE = 16_000
PAD = PAD_FRAMES * FRAME


def recording(frames: list[tuple[bool, int]]) -> FloatArray:
    """Noise for so many frames each: speech (True), whose level goes up and down, or quiet."""
    rng = np.random.default_rng(0)
    syllables = np.tile(np.repeat([0.5, 0.2], FRAME), 2000)
    parts = [rng.uniform(-1, 1, n * FRAME) * (syllables[: n * FRAME] if loud else 0.001) for loud, n in frames]
    return np.concatenate([*parts, np.zeros(0)]).astype(np.float32)


def blocks(samples: FloatArray, sizes: list[int]) -> Iterator[FloatArray]:
    start = 0
    for size in sizes:
        yield samples[start : start + size]
        start += size
    yield samples[start:]


FRAMES = st.lists(st.tuples(st.booleans(), st.integers(2, 90)), max_size=12)


@settings(deadline=None, max_examples=60)
@given(FRAMES, st.integers(0, FRAME - 1), st.lists(st.integers(0, 30_000), max_size=6))
def test_speech_is_in_exactly_one_cut(frames: list[tuple[bool, int]], extra: int, sizes: list[int]) -> None:
    samples = np.concatenate([recording(frames), np.zeros(extra, np.float32)])
    cuts = list(plan_cuts(blocks(samples, sizes), loudness_detector, max_cut_s=2.0, max_pause_s=0.5))
    times_covered = np.zeros(len(samples), int)
    for cut in cuts:
        assert 0 < len(cut.samples) <= 2 * RATE
        assert cut.start <= cut.speech_start < cut.speech_end <= cut.end
        np.testing.assert_array_equal(cut.samples, samples[cut.start : cut.end])
        times_covered[cut.start : cut.end] += 1
    assert times_covered.max(initial=0) <= 1
    assert all(a.end <= b.start for a, b in pairwise(cuts))
    speech = np.repeat([loud for loud, count in frames for _ in range(count)], FRAME).astype(bool)
    assert times_covered[: len(speech)][speech].all()
    # What is far from all speech is in no cut: farther than the padding, and than half a pause that may stay inside.
    reach = PAD_FRAMES + round(0.25 * RATE / FRAME)
    loud_frames = speech.reshape(-1, FRAME).any(axis=1)
    near = np.convolve(loud_frames, np.ones(2 * reach + 1))[reach : reach + len(loud_frames)] > 0 if frames else []
    assert not times_covered[: len(speech)].reshape(-1, FRAME)[~np.asarray(near, bool)].any()


def test_how_the_stream_is_cut_into_blocks_does_not_matter() -> None:
    samples = recording([(False, 20), (True, 70), (False, 25), (True, 300), (False, 90), (True, 10)])
    plans = [
        [(cut.start, cut.end, cut.speech_start, cut.speech_end) for cut in plan_cuts(parts, loudness_detector)]
        for parts in ([samples], np.array_split(samples, 97))
    ]
    assert plans[0] == plans[1]
    assert plans[0]


def test_a_long_stretch_is_cut_at_its_quietest_moment() -> None:
    samples = recording([(True, 40 * RATE // FRAME)])
    dip = 25 * RATE
    samples[dip : dip + RATE // 5] *= 0.15  # still speech to the detector
    first, second = plan_cuts([samples], loudness_detector)
    assert dip <= first.end <= dip + RATE // 5
    assert second.start == first.end
    assert second.end == len(samples)


def test_a_pause_at_the_ceiling_is_left_out() -> None:
    pause = 25  # 0.8 s: short enough to stay inside a cut, long enough to end a region
    samples = recording([(True, 700), (False, pause), (True, 500)])
    first, second = plan_cuts([samples], loudness_detector)
    assert first.speech_end == 700 * FRAME
    assert second.speech_start == (700 + pause) * FRAME
    assert second.start - first.end == pause * FRAME - 2 * PAD


def test_short_pauses_stay_and_long_pauses_end_a_cut() -> None:
    samples = recording([(True, 50), (False, 30), (True, 50), (False, 100), (True, 50)])
    first, second = plan_cuts([samples], loudness_detector)
    assert (first.speech_start, first.speech_end) == (0, 130 * FRAME)
    assert (second.speech_start, second.speech_end) == (230 * FRAME, 280 * FRAME)


@pytest.mark.parametrize("start", [0, 100])
def test_a_steady_sound_is_left_out(start: int) -> None:
    samples = recording([(False, start), (True, 50), (False, 60)])
    samples[start * FRAME : (start + 50) * FRAME] = 0.3 * np.sin(np.arange(50 * FRAME) * 0.05)
    assert list(plan_cuts([samples], loudness_detector)) == []


@pytest.mark.parametrize("frequency_hz", [50, 60, 100, 120])
@pytest.mark.parametrize("harmonics", [1, 3, 8])
@pytest.mark.parametrize("start_s", [0, 1.7])
def test_mains_hum_gives_no_cut(frequency_hz: int, harmonics: int, start_s: float) -> None:
    """With the real detector, which takes the onset of some of these for a vowel."""
    tone = hum(5 * RATE, frequency_hz=frequency_hz, harmonics=harmonics, rng=np.random.default_rng(1))
    samples = np.concatenate([np.zeros(round(start_s * RATE)), tone]).astype(np.float32)
    assert list(plan_cuts([samples], SpeechDetector())) == []


def test_single_digits_give_a_cut(shared: Path) -> None:
    """Short, loud and even, the real clips most like a tone: at least 99 % must pass."""
    entries = [json.loads(line) for line in (shared / "data/test.jsonl").read_text("utf-8").splitlines()]
    clips = [shared / "data" / entry["audio_filepath"] for entry in entries if entry["corpus"] == "fsdd"]
    assert len(clips) >= 100
    missed = [path.name for path in clips if not list(plan_cuts([read_audio(path)], SpeechDetector()))]
    assert len(missed) <= 0.01 * len(clips), missed


def test_no_word_is_lost_doubled_or_cut_in_two(shared: Path) -> None:
    """Four minutes of spoken digits without a pause longer than 0.3 s, so that every cut is forced by the ceiling."""
    entries = [json.loads(line) for line in (shared / "data/test.jsonl").read_text("utf-8").splitlines()]
    clips = [shared / "data" / entry["audio_filepath"] for entry in entries if entry["corpus"] == "fsdd"][:120]
    rng, parts, words, at = np.random.default_rng(0), [], [], 0
    for clip in clips * 3:
        digit = read_audio(clip)
        digit = digit / np.abs(digit).max() * np.float32(0.3)
        energy = np.cumsum(np.square(digit, dtype=np.float64))
        low, high = np.searchsorted(energy / energy[-1], [0.02, 0.98])  # what is heard of it
        words.append((at + int(low), at + int(high)))
        gap = rng.normal(0, 1e-4, int(rng.uniform(0.1, 0.3) * RATE)).astype(np.float32)
        parts += [digit, gap]
        at += len(digit) + len(gap)
    cuts = list(plan_cuts(np.array_split(np.concatenate(parts), 50), SpeechDetector()))
    assert at > 200 * RATE and len(cuts) >= 7
    times_whole = [sum(cut.start <= start and end <= cut.end for cut in cuts) for start, end in words]
    times_touched = [sum(cut.start < end and start < cut.end for cut in cuts) for start, end in words]
    assert times_touched == [1] * len(words)
    assert times_whole == [1] * len(words)


def test_an_empty_stream_and_silence_give_no_cut() -> None:
    assert list(plan_cuts([], loudness_detector)) == []
    assert list(plan_cuts([np.zeros(100, np.float32), np.zeros(RATE, np.float32)], loudness_detector)) == []


def test_a_cut_comes_before_the_stream_ends() -> None:
    def stream() -> Iterator[FloatArray]:
        yield recording([(True, 100)])
        yield recording([(False, 200)])
        raise AssertionError("the first cut was settled already")

    cut = next(plan_cuts(stream(), loudness_detector))
    assert cut.speech_end == 100 * FRAME


def test_memory_stays_flat_over_an_hour() -> None:
    block = recording([(True, 500), (False, 437)])  # 30 s

    def peak_bytes(minutes: int) -> int:
        tracemalloc.start()
        for _ in plan_cuts((block.copy() for _ in range(2 * minutes)), loudness_detector):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # A block of 30 s is 1.9 MB; buffer, block and temporaries are a handful of them, an hour is 230 MB.
    assert peak_bytes(60) < 12e6


@settings(deadline=None)
@given(st.integers(2, 20_000), st.integers(0, 2**32 - 1))
def test_halves_of_a_cut_are_the_whole(size: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    cut = Cut(samples, 1000, 1000 + size // 3, 1000 + size)
    left, right = cut.split()
    assert (left.start, right.end) == (cut.start, cut.end)
    assert left.end == right.start
    np.testing.assert_array_equal(np.concatenate([left.samples, right.samples]), samples)
    assert size // 4 <= len(left.samples) <= size - size // 4
    for half in (left, right):
        assert half.start <= half.speech_start <= half.speech_end <= half.end


def test_the_quietest_point_is_found() -> None:
    samples = np.ones(RATE, np.float32)
    samples[6000:9000] = 0.1
    assert 6000 < quietest_point(samples, 2000, 14_000) < 9000
    assert quietest_point(samples, 100, 200) == 150  # too short to look inside
