"""Kneser-Ney models: a worked example, sums to one, and agreement of our ARPA with KenLM's reading of it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from linnet.errors import ConfigError
from linnet.ngram import BEGIN, END, UNKNOWN, Ngram, estimate

TEXT = """the cat sat on the mat
the dog sat on the cat
a cat saw the dog
the cat saw a mat
a dog sat
the mat
on the mat the cat sat""".splitlines()
SENTENCES = [line.split() for line in TEXT]
WORDS = sorted({word for sentence in SENTENCES for word in sentence})


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_after_any_context(order: int) -> None:
    model = estimate(SENTENCES, order=order)
    contexts = [(), *itertools.product([BEGIN, *WORDS[:4], "zebra"], repeat=max(0, order - 1))]
    for context in contexts:
        total = sum(10 ** model.log10(word, context) for word in [*WORDS, END, UNKNOWN])
        assert total == pytest.approx(1.0, abs=1e-9), context


def test_a_bigram_model_by_hand() -> None:
    """Three sentences a b, a c, b: worked out with pencil and paper, discounts 0.5, 1, 1.5 (too few counts)."""
    model = estimate([["a", "b"], ["a", "c"], ["b"]], order=2)
    # Words seen before a: <s>; before b: a, <s>; before c: a; before </s>: b, c. Six kinds of bigrams in all.
    # Unigrams: discount 0.5 of counts 1, 1.0 of counts 2; freed: (2 · 0.5 + 2 · 1.0) / 6 = 0.5, over 5 words.
    below = {"a": 0.5 / 6 + 0.1, "b": 1 / 6 + 0.1, "c": 0.5 / 6 + 0.1, END: 1 / 6 + 0.1, UNKNOWN: 0.1}
    for word, expected in below.items():
        assert 10 ** model.log10(word) == pytest.approx(expected)
    # After a: b and c once each; freed (0.5 + 0.5) / 2.
    assert 10 ** model.log10("b", ["a"]) == pytest.approx(0.5 / 2 + 0.5 * below["b"])
    assert 10 ** model.log10(END, ["a"]) == pytest.approx(0.5 * below[END])
    # After <s>: a twice, b once; freed (1.0 + 0.5) / 3.
    assert 10 ** model.log10("a", [BEGIN]) == pytest.approx((2 - 1.0) / 3 + 0.5 * below["a"])


def test_continuations_count_and_not_frequency() -> None:
    """Kneser and Ney's own example: a frequent word that always follows the same one is rare elsewhere."""
    sentences = [["san", "francisco"]] * 9 + [[word, "glasses"] for word in ("my", "your", "his", "old")]
    model = estimate(sentences, order=2)
    assert model.log10("francisco", ["reading"]) < model.log10("glasses", ["reading"])


def test_kenlm_reads_our_file_and_agrees(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary")
    model = estimate(SENTENCES, order=3)
    model.write_arpa(tmp_path / "lm.arpa")
    reader = kenlm.KenLM(str(tmp_path / "lm.arpa"), dictionary.Dictionary(WORDS))
    for sentence in (["the", "cat", "sat"], ["mat", "on", "a", "dog"], ["cat", "cat", "cat"]):
        state, context, total = reader.start(False), [BEGIN], 0.0
        for word in sentence:
            state, score = reader.score(state, WORDS.index(word))
            expected = model.log10(word, context)
            # flashlight scores in natural or decimal logarithms depending on its version; the ratio is one constant.
            assert score in (pytest.approx(expected, abs=1e-5), pytest.approx(expected * math.log(10), abs=1e-5))
            context.append(word)
            total += expected
        assert total < 0


def test_the_file_lists_what_it_says(tmp_path: Path) -> None:
    model = estimate(SENTENCES, order=3)
    model.write_arpa(tmp_path / "lm.arpa")
    lines = (tmp_path / "lm.arpa").read_text().splitlines()
    grams = [line.split("	")[1].split() for line in lines if "	" in line]
    for order in (1, 2, 3):
        assert f"ngram {order}={sum(len(gram) == order for gram in grams)}" in lines
    assert lines[-1] == "\\end\\"


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="no words"):
        estimate([[], []])
    with pytest.raises(ConfigError, match="accepted: 1…6"):
        estimate(SENTENCES, order=0)
    assert isinstance(estimate([["one"]], order=3), Ngram)  # shorter than the order
