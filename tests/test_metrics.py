"""Error rates against a textbook edit distance, intervals against statistics, SI-SDR against known mixtures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.errors import AudioContentError, ConfigError
from linnet.metrics import ErrorRate, bootstrap_interval, cer, paired_bootstrap, rtfx, si_sdr, wer


def edit_distance(a: list[str], b: list[str]) -> int:
    """Wagner & Fischer 1974."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def test_counts_of_each_kind() -> None:
    # the bat sat → the cat sat down (one substitution, one insertion); a b c → a c (one deletion)
    assert wer(["The bat sat.", "a b c"], ["the cat sat down", "a c"], language="en") == ErrorRate(
        rate=3 / 6, errors=3, words=6, substitutions=1, deletions=1, insertions=1
    )


def test_the_rate_is_over_the_corpus_not_a_mean_of_utterances() -> None:
    assert wer(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]).rate == 0.1


@given(st.lists(st.tuples(st.text("abc ", max_size=12), st.text("abc ", max_size=12)), min_size=1, max_size=5))
def test_errors_are_the_edit_distance(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [r for r, _ in pairs], [h for _, h in pairs]
    by_word, by_character = wer(references, hypotheses), cer(references, hypotheses)
    assert by_word.errors == sum(edit_distance(r.split(), h.split()) for r, h in pairs)
    assert by_word.words == sum(len(r.split()) for r in references)
    one_space = [(list(" ".join(r.split())), list(" ".join(h.split()))) for r, h in pairs]
    assert by_character.errors == sum(edit_distance(r, h) for r, h in one_space)
    assert by_character.words == sum(len(r) for r, _ in one_space)
    assert by_word.deletions - by_word.insertions == by_word.words - sum(len(h.split()) for h in hypotheses)


def test_the_corpus_is_the_sum_of_its_utterances() -> None:
    references, hypotheses = ["a b", "", "d e f"], ["a", "x y", "d e f"]
    parts = [wer([r], [h]) for r, h in zip(references, hypotheses, strict=True)]
    whole = wer(references, hypotheses)
    assert (whole.errors, whole.words) == (sum(p.errors for p in parts), sum(p.words for p in parts)) == (3, 5)


def test_empty_references_and_hypotheses() -> None:
    assert wer(["", "a b"], ["x y z", ""]) == ErrorRate(5 / 2, 5, 2, 0, 2, 3)
    only_insertions = wer([""], ["x y"])
    assert (only_insertions.errors, only_insertions.words, only_insertions.insertions) == (2, 0, 2)
    assert math.isnan(only_insertions.rate)
    for nothing in (wer([], []), wer([""], ["…"]), cer([""], [""])):
        assert math.isnan(nothing.rate)
        assert (nothing.errors, nothing.words) == (0, 0)


def test_chinese_words_are_characters() -> None:
    found = wer(["今天 天气，很好。"], ["今天天汽很好"], language="zh")
    assert (found.errors, found.words, found.substitutions) == (1, 6, 1)
    assert cer(["今天 天气，很好。"], ["今天天汽很好"], language="zh") == found
    assert wer(["我用 Python 写"], ["我用 python 写"], language="zh").words == 4


def test_cer_counts_the_space_between_words() -> None:
    found = cer(["ice cream"], ["icecream"])
    assert (found.errors, found.words, found.deletions) == (1, 9, 1)


def test_lists_must_match() -> None:
    with pytest.raises(ConfigError, match="2 references and 1 hypotheses"):
        wer(["a", "b"], ["a"])
    with pytest.raises(ConfigError, match="put it in a list"):
        cer("abc", "abd")


def test_interval_matches_the_normal_approximation() -> None:
    # independent words: the rate of n words at p has standard error √(p(1−p)/n)
    rng = np.random.default_rng(0)
    words = np.full(2000, 10)
    errors = rng.binomial(10, 0.2, size=2000)
    low, high = bootstrap_interval(errors, words)
    rate, deviation = errors.sum() / words.sum(), math.sqrt(0.2 * 0.8 / 20_000)
    assert low < rate < high
    # 2000 resamples leave a few per cent of noise in a percentile
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.1)
    narrow = bootstrap_interval(errors, words, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(1, 20, size=(200, 100))
    errors = rng.binomial(words, 0.3)
    intervals = [bootstrap_interval(e, w, resamples=400) for e, w in zip(errors, words, strict=True)]
    covered = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert 0.89 <= covered <= 0.99  # 0.95 ± 4 standard errors of 200 trials, less the bootstrap's known optimism


def test_intervals_are_seeded_and_resample_whole_utterances() -> None:
    errors, words = np.array([0, 5, 1, 9]), np.array([10, 10, 3, 9])
    assert bootstrap_interval(errors, words, seed=3) == bootstrap_interval(errors, words, seed=3)
    assert bootstrap_interval([2], [4]) == (0.5, 0.5)  # one utterance can only be drawn again
    assert bootstrap_interval([1, 2, 3], [2, 4, 6]) == (0.5, 0.5)  # every utterance has the same rate


def test_blocks_of_resamples_do_not_change_the_kind_of_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    errors, words = rng.integers(0, 3, 50), rng.integers(3, 9, 50)
    whole = bootstrap_interval(errors, words)
    monkeypatch.setattr("linnet.metrics._BLOCK_CELLS", 50 * 7)
    assert bootstrap_interval(errors, words) == whole


def test_intervals_without_words() -> None:
    assert all(math.isnan(bound) for bound in bootstrap_interval([1, 2], [0, 0]))
    low, high = bootstrap_interval([1, 0], [0, 4])  # resamples that draw only the empty reference are left out
    assert (low, high) == (0.0, 0.25)


def test_bootstrap_arguments() -> None:
    with pytest.raises(ConfigError, match="one error count and one word count"):
        bootstrap_interval([1, 2], [1])
    with pytest.raises(ConfigError, match="one error count"):
        bootstrap_interval([], [])
    with pytest.raises(ConfigError, match="at least 100 resamples"):
        bootstrap_interval([1], [1], resamples=10)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        bootstrap_interval([1], [1], level=95)


def test_paired_bootstrap_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    words = np.full(200, 20)
    difficulty = rng.binomial(20, rng.beta(1, 3, size=200))  # utterances differ far more than the systems do
    worse = np.minimum(difficulty + (rng.random(200) < 0.3), 20)
    found = paired_bootstrap(difficulty, worse, words)
    assert found.difference == pytest.approx((difficulty.sum() - worse.sum()) / 4000)
    assert found.low < found.difference < found.high < 0
    assert found.share_a_better == 1.0
    assert bootstrap_interval(difficulty, words)[1] > bootstrap_interval(worse, words)[0]  # these two overlap


def test_paired_bootstrap_of_equal_systems() -> None:
    found = paired_bootstrap([1, 2, 0], [1, 2, 0], [5, 5, 5])
    assert (found.difference, found.low, found.high, found.share_a_better) == (0, 0, 0, 0.5)


@pytest.mark.parametrize("ratio_db", [-10.0, 0.0, 15.0, 40.0])
def test_si_sdr_of_orthogonal_noise_is_the_snr(ratio_db: float) -> None:
    time = np.arange(16_000) / 16_000
    speech, noise = np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 700 * time)  # orthogonal over a whole second
    mixture = speech + noise * 10 ** (-ratio_db / 20)
    assert si_sdr(speech, mixture) == pytest.approx(ratio_db, abs=1e-6)
    assert si_sdr(speech, -3 * mixture + 0.5) == pytest.approx(ratio_db, abs=1e-6)  # neither gain nor offset counts


def test_si_sdr_extremes() -> None:
    speech = np.random.default_rng(0).standard_normal(1000)
    assert si_sdr(speech, 2 * speech) == math.inf
    assert si_sdr(speech, np.zeros(1000)) == -math.inf
    with pytest.raises(AudioContentError, match="constant"):
        si_sdr(np.ones(1000), speech)
    with pytest.raises(AudioContentError, match=r"got \(1000,\) and \(999,\)"):
        si_sdr(speech, speech[1:])


def test_rtfx() -> None:
    assert rtfx(30.0, 1.5) == 20.0
    with pytest.raises(ConfigError, match="processing_s > 0"):
        rtfx(30.0, 0.0)
