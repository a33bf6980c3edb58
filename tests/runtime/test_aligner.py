"""The forced aligner: repaired, monotone times for every word, inside the clip, and errors for what it cannot do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.audio import read_audio, write_audio
from linnet.bundle import Bundle
from linnet.errors import AudioContentError, BundleError, CheckpointError, ConfigError, ExportError
from linnet.export.qwen3_aligner import convert_aligner
from linnet.export.qwen3_asr import convert
from linnet.export.verb import export
from linnet.pull import pull
from linnet.results import Segment, Transcription, Word
from linnet.runtime import aligner as module
from linnet.runtime.aligner import (
    MIN_WORD_S,
    Aligner,
    align_transcription,
    load_aligner,
    repair,
    separate,
)
from tiny_aligner import write_aligner_checkpoint

RATE = 16_000


@pytest.fixture(scope="module")
def bundle(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("aligner")
    checkpoint = write_aligner_checkpoint(golden, folder / "checkpoint")
    return convert_aligner(checkpoint, folder / "tiny", encoder="fp32", decoders={"onnx": "fp32"})


@pytest.fixture(scope="module")
def aligner(bundle: Bundle) -> Iterator[Aligner]:
    opened = load_aligner(bundle.path, threads=1)
    yield opened
    opened.close()
    with pytest.raises(ConfigError, match="closed"):
        opened.align(np.zeros(RATE, np.float32), "word")


@pytest.fixture(scope="module")
def speech(clip: Path) -> np.ndarray:
    return read_audio(clip)


CLASSES = st.lists(st.integers(0, 20), max_size=9)


@settings(deadline=None)
@given(CLASSES)
def test_repaired_classes_never_fall_and_rising_ones_stay(classes: list[int]) -> None:
    fixed = repair(classes)
    assert len(fixed) == len(classes)
    assert all(a <= b for a, b in pairwise(fixed))
    if all(a <= b for a, b in pairwise(classes)):
        assert fixed == classes
    # Brute force: as many stay as in the longest subsequence that never falls.
    longest = max(
        (
            size
            for size in range(len(classes) + 1)
            for some in combinations(classes, size)
            if list(some) == sorted(some)
        ),
        default=0,
    )
    assert sum(a == b for a, b in zip(fixed, classes, strict=True)) >= longest


@pytest.mark.parametrize(
    ("classes", "fixed"),
    [
        ([], []),
        ([5, 3, 6, 7], [5, 5, 6, 7]),
        ([1, 9, 4, 5], [1, 1, 4, 5]),  # one: the nearer neighbour, the left one if both are
        ([1, 9, 0, 4, 5], [1, 1, 4, 4, 5]),  # two: each its own side
        ([0, 9, 9, 9, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]),  # more: even steps
        ([1, 2, 3, 0], [1, 2, 3, 3]),
    ],
)
def test_repairs_are_those_of_the_official_code(classes: list[int], fixed: list[float]) -> None:
    assert repair(classes) == fixed


TIMES = st.lists(st.floats(0, 10, allow_nan=False), min_size=2, max_size=40).map(
    lambda times: list(zip(sorted(times)[::2], sorted(times)[1::2], strict=False))
)


@settings(deadline=None)
@given(TIMES, st.floats(0.1, 12))
def test_spans_last_long_enough_and_do_not_overlap(spans: list[tuple[float, float]], duration_s: float) -> None:
    spans = [(min(start, duration_s), min(end, duration_s)) for start, end in spans]
    moved = separate(spans, duration_s)
    shortest = min(MIN_WORD_S, duration_s / len(spans))
    assert moved[0][0] >= -1e-9 and moved[-1][1] <= duration_s + 1e-9
    assert all(end - start >= shortest - 1e-9 for start, end in moved)
    assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(moved))


def test_spans_that_are_fine_stay_as_they_are() -> None:
    spans = [(0.0, 0.4), (0.4, 0.8), (1.2, 2.0)]
    assert separate(spans, 2.0) == spans


def test_every_word_has_a_time_and_its_punctuation(aligner: Aligner, speech: np.ndarray) -> None:
    words = aligner.align(speech[: 3 * RATE], "And so, my fellow Americans: 你好，世界!", language="en")
    assert [word.text for word in words] == ["And", "so,", "my", "fellow", "Americans:", "你", "好，", "世", "界!"]
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 3.0
    assert all(word.end_s - word.start_s >= MIN_WORD_S - 1e-9 for word in words)
    assert aligner.align(speech[: 3 * RATE], "And so, my fellow Americans: 你好，世界!") == words


@pytest.mark.parametrize("text", ["", "  ", "… – !"])
def test_a_text_without_words_has_no_times(aligner: Aligner, speech: np.ndarray, text: str) -> None:
    assert aligner.align(speech[:RATE], text) == []


def test_more_words_than_fit_share_the_clip(aligner: Aligner, speech: np.ndarray) -> None:
    words = aligner.align(speech[: RATE // 2], "a " * 30)
    assert len(words) == 30 and words[-1].end_s == pytest.approx(0.5)


def test_what_cannot_be_aligned_is_an_error(aligner: Aligner, speech: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="180 s"):
        aligner.align(np.zeros(181 * RATE, np.float32), "word")
    with pytest.raises(ConfigError, match="German"):
        aligner.align(speech[:RATE], "wort", language="de")
    with pytest.raises(AudioContentError, match="NaN"):
        aligner.align(np.full(RATE, np.nan, np.float32), "word")


def test_a_transcription_gets_times_segment_by_segment(
    aligner: Aligner, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, str]] = []
    plain = aligner.align

    def align(samples: np.ndarray, text: str) -> list[Word]:
        heard.append((len(samples), text))
        return plain(samples, text)

    monkeypatch.setattr(aligner, "align", align)
    monkeypatch.setattr(module.Recording, "blocks", lambda self: iter(np.array_split(self._audio, 7)))
    words = (Word("so,", None, None, 0.5), Word("my", None, None, 0.7))
    segments = (
        Segment("And", 0.1, 0.5, "en"),
        Segment("so, my", 0.9, 2.0, "en", 0.6, words),
        Segment("Wort", 2.1, 2.9, "de"),
        Segment("", 2.9, 3.0, "en"),
    )
    before = Transcription("And so, my Wort", "en", 3.0, segments, "nano")
    after = align_transcription(aligner, speech[: 3 * RATE], before)
    assert [text for _, text in heard] == ["And", "so, my"]
    assert [length for length, _ in heard] == [round((0.05 + 0.4 + 0.2) * RATE), round((0.2 + 1.1 + 0.05) * RATE)]
    first, second = after.segments[0].words[0], after.segments[1].words
    assert first.start_s >= 0.05 and first.end_s <= 0.7 + 1e-9
    assert [(word.text, word.confidence) for word in second] == [("so,", 0.5), ("my", 0.7)]
    assert second[0].start_s >= 0.7 and second[-1].end_s <= 2.05 + 1e-9
    assert after.segments[2:] == segments[2:]  # a language it does not know, and nothing said


def test_a_file_gives_what_its_samples_give(aligner: Aligner, speech: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    write_audio(path, speech[: 3 * RATE], RATE)
    samples = read_audio(path)
    before = Transcription("so", "en", 3.0, (Segment("so", 0.5, 1.0, "en"), Segment("my", 2.0, 2.8, "en")), "nano")
    assert align_transcription(aligner, path, before) == align_transcription(aligner, samples, before)


def test_bundles_of_other_families_are_refused_by_name(bundle: Bundle, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"linnet pull Qwen/Qwen3-ForcedAligner"):
        Aligner(tiny_bundle)
    numbers = {name: value for name, value in bundle.model.items() if name != "class_ms"}
    with pytest.raises(BundleError, match="class_ms"):
        Aligner(dataclasses.replace(bundle, model=numbers))


def test_export_knows_an_aligner_by_its_head(golden: Path, tmp_path: Path) -> None:
    checkpoint = write_aligner_checkpoint(golden, tmp_path / "checkpoint")
    assert export(checkpoint, tmp_path / "out").family == "qwen3_aligner"
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        convert(checkpoint, tmp_path / "asr", decoders={"onnx": "fp32"})  # a recogniser has another head
    assert not (tmp_path / "asr").exists()


def test_an_aligner_is_pulled_like_a_recogniser_and_found_by_its_name(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    checkpoint = write_aligner_checkpoint(golden, tmp_path / "Qwen3-ForcedAligner-0.6B")
    assert pull(str(checkpoint)).bundle.name == module.DEFAULT
    load_aligner(threads=1).close()


@pytest.mark.parametrize("missing", ["timestamp_token_id", "timestamp_segment_time"])
def test_an_incomplete_description_is_a_checkpoint_error(golden: Path, tmp_path: Path, missing: str) -> None:
    checkpoint = write_aligner_checkpoint(golden, tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    del config[missing]
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=missing):
        convert_aligner(checkpoint, tmp_path / "out", decoders={"onnx": "fp32"})


def test_an_aligner_has_no_gguf(golden: Path, tmp_path: Path) -> None:
    checkpoint = write_aligner_checkpoint(golden, tmp_path / "checkpoint")
    with pytest.raises(ExportError, match="ONNX only"):
        convert_aligner(checkpoint, tmp_path / "out", decoders={"gguf": "f16"})
