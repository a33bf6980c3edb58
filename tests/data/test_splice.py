"""Spliced sentences: the words are where the aligner says, and a new sentence consists of nothing but its pieces."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from linnet.audio import read_audio
from linnet.data.corpora.splice import FADE, FRAME, Spoken, align_words, sentence, splice
from linnet.errors import ConfigError
from linnet.manifest import Utterance, read_manifest

pytest.importorskip("pocketsphinx", reason="splicing needs pocketsphinx, which the dev extra brings")

SAMPLES = Path(__file__).parents[2] / "samples"


def adult() -> Utterance:
    return next(u for u in read_manifest(SAMPLES / "samples.jsonl") if u.audio_path.name == "en-adult.flac")


def test_words_cover_the_speech() -> None:
    utterance = adult()
    samples = read_audio(utterance.audio_path)
    spoken = align_words(samples, utterance.text or "")
    assert [word.word for word in spoken] == (utterance.text or "").lower().split()
    assert all(a.stop <= b.start for a, b in itertools.pairwise(spoken))
    inside = np.zeros(len(samples), bool)
    for word in spoken:
        inside[word.start : word.stop] = True
    # speech is louder than what lies around it: an alignment that is off by a few words fails this
    assert np.mean(samples[inside] ** 2) > 10 * np.mean(samples[~inside] ** 2)


@pytest.mark.parametrize("text", ["", "7 days", "xqzt is no word"])
def test_what_cannot_be_aligned_is_left_out(text: str) -> None:
    assert align_words(read_audio(adult().audio_path), text) == []


def test_sentence_is_made_of_its_words() -> None:
    # every word is a constant of its own, so the samples tell which words they came from
    levels = {word: (index + 1) / 10 for index, word in enumerate("abcdef")}
    silence = np.zeros(3 * FRAME, np.float32)
    said = []
    for words in ("abc", "def"):
        samples = np.concatenate([silence, *(np.full(10 * FRAME, levels[w], np.float32) for w in words), silence])
        said.append((samples, [Spoken(w, (3 + 10 * i) * FRAME, (13 + 10 * i) * FRAME) for i, w in enumerate(words)]))
    for seed in range(50):
        text, joined = sentence(said, random.Random(seed))
        words = text.split()
        assert 2 <= len(words) <= 8
        inside = joined[3 * FRAME - FADE // 2 : len(joined) - 3 * FRAME + FADE // 2]
        # rounded, as the seam of two equal words wavers in the last bit; seams take two frames off a word at most
        parts = np.split(inside, np.flatnonzero(np.diff(inside.round(3))) + 1)
        middles = [round(float(part[0]), 3) for part in parts if len(part) >= 7 * FRAME]
        expected = [levels[word] for word in words]
        merged = [level for i, level in enumerate(expected) if i == 0 or level != expected[i - 1]]
        assert middles == pytest.approx(merged)


def test_the_same_call_writes_the_same_clips(tmp_path: Path) -> None:
    utterances = [adult()] * 5  # enough words for a speaker
    first = read_manifest(splice(tmp_path / "a", utterances, count=3, seed=1))
    again = read_manifest(splice(tmp_path / "b", utterances, count=3, seed=1))
    other = read_manifest(splice(tmp_path / "c", utterances, count=3, seed=2))
    assert [u.text for u in first] == [u.text for u in again] != [u.text for u in other]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(read_audio(one.audio_path), read_audio(two.audio_path))
        assert len(read_audio(one.audio_path)) == round(one.duration_s * 16000)
        assert one.speaker == adult().speaker
        assert set((one.text or "").split()) <= set((adult().text or "").lower().split())


def test_nobody_to_splice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="aligned words"):
        splice(tmp_path, [adult()], count=1, seed=1)
