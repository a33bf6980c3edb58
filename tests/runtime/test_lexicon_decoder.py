"""Decoding with a language model: the search finds the best sequence of words that there is."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from linnet.ctc import forced_align
from linnet.errors import AudioContentError, BundleCorruptError
from linnet.ngram import END, estimate
from linnet.runtime.lexicon_decoder import LexiconDecoder
from linnet.runtime.wav2vec2_vocabulary import Vocabulary, vocabulary_of

pytest.importorskip("flashlight.lib.text.decoder.kenlm")

SENTENCES = [["a", "cab"], ["a", "bad", "cab"], ["bad", "dad"], ["a", "dad"], ["a", "cab"], ["dad"]]


@pytest.fixture
def vocabulary() -> Vocabulary:
    return vocabulary_of([("abcd", "en")])


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    estimate(SENTENCES, order=2).write_arpa(tmp_path / "lm.arpa")
    return tmp_path / "lm.arpa"


def test_the_answer_is_the_best_of_all_sentences(arpa: Path, vocabulary: Vocabulary) -> None:
    """Brute force over every sequence of up to two words, on noise."""
    weight, bonus = 1.5, 0.3
    arpa.with_name("lm.json").write_text(json.dumps({"weight": weight, "word_bonus": bonus, "beam_size": 500}))
    decoder = LexiconDecoder(arpa, vocabulary, blank_id=0)
    model = estimate(SENTENCES, order=2)
    words = ["a", "bad", "cab", "dad"]
    rng, agreed = np.random.default_rng(0), 0
    for _ in range(12):
        logits = 2.0 * rng.standard_normal((7, 6))
        log_probs = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
        found = decoder(log_probs, frame_s=0.02)
        said = tuple(word.text for word in vocabulary.words(found))
        scores = {}
        for sentence in [s for n in (0, 1, 2) for s in itertools.product(words, repeat=n)]:
            total, context = bonus * len(sentence), ["<s>"]
            for word in (*sentence, END):
                total += weight * model.log10(word, context)  # flashlight adds decimal logarithms to natural ones
                context.append(word)
            scores[sentence] = total + best_alignment(log_probs, [vocabulary.encode(word)[0] for word in sentence])
        if len(said) <= 2:
            assert scores[said] == pytest.approx(max(scores.values()), abs=1e-3)
            assert found.score == pytest.approx(scores[said], abs=1e-3)
            agreed += 1
    assert agreed >= 6


def best_alignment(log_probs: np.ndarray, words: list[list[int]]) -> float:
    """Log-probability of the best alignment with any number of separators around and at least one between the words."""
    best = -math.inf
    for outer in itertools.product((0, 1, 2, 3), (1, 2), (0, 1, 2, 3)):
        lead, between, trail = outer
        labels = [1] * lead
        for index, word in enumerate(words):
            labels += [1] * between * bool(index) + word
        try:
            best = max(best, forced_align(log_probs, [*labels, *[1] * trail]).score)
        except AudioContentError:  # more labels than frames
            continue
    return best


def test_words_that_are_not_in_the_text_are_not_heard(arpa: Path, vocabulary: Vocabulary) -> None:
    decoder = LexiconDecoder(arpa, vocabulary, blank_id=0)
    spelled = vocabulary.encode("dab")[0]  # not a word of the text; dad is
    log_probs = np.full((12, 6), math.log(0.02), np.float32)
    path = [0, spelled[0], spelled[0], 0, spelled[1], 0, 0, spelled[2], spelled[2], 0, 0, 0]
    log_probs[np.arange(12), path] = math.log(0.9)
    log_probs[7:9, vocabulary.labels.index("d")] = math.log(0.3)
    found = decoder(log_probs, frame_s=0.02)
    (word,) = vocabulary.words(found)
    assert word.text == "dad"
    assert word.start_s == pytest.approx(0.02) and 0.16 <= word.end_s <= 0.20
    assert 0.3 < (word.confidence or 0) < 0.9


def test_a_model_of_other_letters_is_refused(tmp_path: Path, vocabulary: Vocabulary) -> None:
    estimate([["xyz"]], order=1).write_arpa(tmp_path / "lm.arpa")
    with pytest.raises(BundleCorruptError, match="no word that the model's 6 labels can spell"):
        LexiconDecoder(tmp_path / "lm.arpa", vocabulary, blank_id=0)


def test_a_damaged_file_is_named_and_reading_says_nothing(
    arpa: Path, vocabulary: Vocabulary, capfd: pytest.CaptureFixture[str]
) -> None:
    LexiconDecoder(arpa, vocabulary, blank_id=0)
    assert capfd.readouterr() == ("", "")
    arpa.write_text(arpa.read_text().replace("\\2-grams:", "\\7-grams:"))
    with pytest.raises(BundleCorruptError, match="KenLM cannot read"):
        LexiconDecoder(arpa, vocabulary, blank_id=0)
