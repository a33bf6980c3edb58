"""Decoding inside a grammar, against the enumeration of all its sentences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from linnet.ctc import forced_align
from linnet.ctc_grammar import best_sentence
from linnet.errors import AudioContentError, ConfigError


def log_probs(frames: int, symbols: int, seed: int) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).standard_normal((frames, symbols))
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("seed", range(20))
def test_the_best_sentence_is_the_best_of_all_alignments(seed: int) -> None:
    slots = [[(2,), (3, 2), (3, 3)], [(4, 4, 2), (5,)], [(2, 5), (3,), (2, 2)]]
    frames = log_probs(12 + seed % 5, 6, seed)
    sentences = []
    for words in itertools.product(*slots):
        labels = [*words[0], 1, *words[1], 1, *words[2]]
        sentences.append((forced_align(frames, labels).score, tuple(labels)))
    assert best_sentence(frames, slots, separator=1) == max(sentences)[1]


def test_a_clear_recording_gives_its_sentence() -> None:
    said = (2, 3, 3, 1, 4)
    frames = np.full((2 * len(said), 5), -8.0)
    for index, label in enumerate(said):
        frames[2 * index, label] = frames[2 * index + 1, 0] = -0.01
    assert best_sentence(frames, [[(2, 3, 3), (2, 3)], [(4,), (3,)]], separator=1) == said


def test_too_few_frames_and_bad_grammars() -> None:
    frames = log_probs(3, 5, 0)
    with pytest.raises(AudioContentError, match="3 frames"):
        best_sentence(frames, [[(2, 2)], [(3,)]], separator=1)  # five frames at least: 2, blank, 2, separator, 3
    with pytest.raises(ConfigError, match="empty"):
        best_sentence(frames, [[(2,)], []], separator=1)
    with pytest.raises(ConfigError, match="no slots"):
        best_sentence(frames, [], separator=1)
