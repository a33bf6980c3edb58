"""CTC decoding against brute force: every alignment of a small problem, collapsed and summed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.ctc import forced_align, greedy, min_frames, prefix_beam
from linnet.errors import AudioContentError, ConfigError

Array = npt.NDArray[np.float64]


def random_log_probs(frames: int, labels: int, seed: int, peak: float = 1.5) -> Array:
    logits = np.random.default_rng(seed).standard_normal((frames, labels)) * peak
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def one_hot(path: list[int], labels: int) -> Array:
    """Nearly certain log-probabilities of this alignment."""
    probs = np.full((len(path), labels), 0.01 / (labels - 1))
    probs[np.arange(len(path)), path] = 0.99
    return np.log(probs)


def collapse(path: tuple[int, ...] | list[int], blank: int) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def brute_force(log_probs: Array, blank: int) -> dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]]:
    """Every alignment (log-probability, path), grouped by the labels it collapses to."""
    answers = defaultdict(list)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        answers[collapse(path, blank)].append((sum(log_probs[t, v] for t, v in enumerate(path)), path))
    return answers


def summed(alignments: list[tuple[float, tuple[int, ...]]]) -> float:
    return float(np.logaddexp.reduce([score for score, _ in alignments]))


small = {"frames": st.integers(1, 5), "labels": st.integers(2, 4), "seed": st.integers(0, 10**6)}


@settings(max_examples=60, deadline=None)
@given(**small, data=st.data())
def test_prefix_beam_finds_the_sequence_with_the_largest_sum_over_alignments(
    frames: int, labels: int, seed: int, data: st.DataObject
) -> None:
    blank = data.draw(st.integers(0, labels - 1))
    log_probs = random_log_probs(frames, labels, seed)
    answers = {tokens: summed(paths) for tokens, paths in brute_force(log_probs, blank).items()}
    result = prefix_beam(log_probs, beam_size=len(answers), blank_id=blank, frame_s=0.02)
    assert result.score == pytest.approx(max(answers.values()), abs=1e-9)
    assert answers[result.tokens] == pytest.approx(result.score, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(**small, beam=st.integers(1, 6))
def test_a_narrow_beam_never_claims_more_than_the_true_probability(
    frames: int, labels: int, seed: int, beam: int
) -> None:
    log_probs = random_log_probs(frames, labels, seed)
    result = prefix_beam(log_probs, beam_size=beam, frame_s=0.02)
    assert result.score <= summed(brute_force(log_probs, 0)[result.tokens]) + 1e-9


@settings(max_examples=60, deadline=None)
@given(**small, data=st.data())
def test_forced_alignment_is_the_best_alignment_of_the_labels(
    frames: int, labels: int, seed: int, data: st.DataObject
) -> None:
    log_probs = random_log_probs(frames, labels, seed)
    answers = brute_force(log_probs, 0)
    tokens = data.draw(st.sampled_from(sorted(answers)))
    score, path = max(answers[tokens])
    aligned = forced_align(log_probs, tokens)
    assert aligned.score == pytest.approx(score, abs=1e-9)
    rebuilt = [0] * frames
    for token, span in zip(tokens, aligned.spans, strict=True):
        rebuilt[span.start : span.end] = [token] * (span.end - span.start)
        assert span.confidence == pytest.approx(np.exp(log_probs[span.start : span.end, token]).mean())
    assert tuple(rebuilt) == path


@settings(max_examples=100, deadline=None)
@given(path=st.lists(st.integers(0, 3), max_size=30), blank=st.integers(0, 3))
def test_greedy_collapses_repeats_and_drops_blanks(path: list[int], blank: int) -> None:
    result = greedy(one_hot(path, 4) if path else np.zeros((0, 4)), blank_id=blank, frame_s=0.1)
    assert result.tokens == collapse(path, blank)
    # Drawing the spans back gives the path again, so times and tokens agree with each other.
    rebuilt = [blank] * len(path)
    for token, start, end in zip(result.tokens, result.start_s, result.end_s, strict=True):
        rebuilt[round(start * 10) : round(end * 10)] = [token] * round((end - start) * 10)
    assert rebuilt == path
    assert result.score == pytest.approx(len(path) * np.log(0.99))
    assert all(c == pytest.approx(0.99) for c in result.confidence)


@settings(max_examples=50, deadline=None)
@given(path=st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_all_decoders_agree_where_the_model_is_certain(path: list[int]) -> None:
    log_probs = one_hot(path, 4)
    best, beam = greedy(log_probs, frame_s=0.04), prefix_beam(log_probs, frame_s=0.04)
    assert beam.tokens == best.tokens
    assert (beam.start_s, beam.end_s) == (best.start_s, best.end_s)


def test_summing_alignments_can_beat_the_best_single_one() -> None:
    log_probs = np.log([[0.6, 0.4], [0.6, 0.4]])  # blank blank .36; "a" has .16 + .24 + .24
    assert greedy(log_probs, frame_s=1).tokens == ()
    result = prefix_beam(log_probs, frame_s=1)
    assert result.tokens == (1,) and result.score == pytest.approx(np.log(0.64))


@pytest.mark.parametrize("decode", [greedy, prefix_beam])
def test_edge_cases_decode_to_the_obvious(decode: Any) -> None:
    assert decode(np.zeros((0, 3)), frame_s=1).tokens == ()
    assert decode(one_hot([0], 3), frame_s=1).tokens == ()
    assert decode(one_hot([0] * 50, 3), frame_s=1).tokens == ()
    single = decode(one_hot([2], 3), frame_s=0.5)
    assert (single.tokens, single.start_s, single.end_s) == ((2,), (0.0,), (0.5,))
    assert decode(one_hot([1, 1, 0, 1, 1], 3), frame_s=1).tokens == (1, 1)
    assert decode(one_hot([1, 1, 1, 1, 1], 3), frame_s=1).tokens == (1,)
    assert decode(one_hot([2, 2, 1], 3), blank_id=2, frame_s=1).tokens == (1,)


def test_impossible_labels_do_not_disturb() -> None:
    with np.errstate(divide="ignore"):
        certain = np.log([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    result = prefix_beam(certain, frame_s=1)
    assert result.tokens == (1, 1) and result.score == pytest.approx(0.0)
    with pytest.raises(AudioContentError, match="probability above zero"):
        forced_align(certain, [2])


class Bigram:
    """A toy n-gram over labels 1 and 2 which knows only that 2 follows 1 and the other way round."""

    def start(self) -> int:
        return 0

    def score(self, state: int, token: int) -> tuple[float, int]:
        return (float(np.log(0.9 if token != state else 0.1)), token)


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10**6), weight=st.floats(0, 2), bonus=st.floats(-1, 1))
def test_fusion_maximises_the_weighted_sum(frames: int, seed: int, weight: float, bonus: float) -> None:
    log_probs, model = random_log_probs(frames, 3, seed), Bigram()

    def fused(tokens: tuple[int, ...], acoustic: float) -> float:
        state, language = model.start(), 0.0
        for token in tokens:
            log_prob, state = model.score(state, token)
            language += log_prob
        return acoustic + weight * language + bonus * len(tokens)

    answers = {tokens: fused(tokens, summed(paths)) for tokens, paths in brute_force(log_probs, 0).items()}
    result = prefix_beam(log_probs, beam_size=len(answers), frame_s=1, lm=model, lm_weight=weight, token_bonus=bonus)
    assert result.score == pytest.approx(max(answers.values()), abs=1e-9)
    assert answers[result.tokens] == pytest.approx(result.score, abs=1e-9)


def test_a_language_model_that_forbids_everything_does_not_empty_the_beam() -> None:
    class Never(Bigram):
        def score(self, state: int, token: int) -> tuple[float, int]:
            return (-np.inf, token)

    assert np.isfinite(prefix_beam(one_hot([1, 0, 2], 3), frame_s=1, lm=Never()).score)


def test_limiting_the_tokens_per_frame_keeps_the_answer_of_a_peaked_model() -> None:
    log_probs = random_log_probs(60, 500, seed=3, peak=6)
    full = prefix_beam(log_probs, frame_s=1, tokens_per_frame=499)
    few = prefix_beam(log_probs, frame_s=1, tokens_per_frame=20)
    assert few.tokens == full.tokens and len(full.tokens) > 20
    assert few.score == pytest.approx(full.score, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(1, 2), max_size=4))
def test_min_frames_is_the_shortest_length_that_has_an_alignment(labels: list[int]) -> None:
    shortest = next(
        n for n in range(9) if tuple(labels) in {collapse(p, 0) for p in itertools.product(range(3), repeat=n)}
    )
    assert min_frames(labels) == shortest
    log_probs = random_log_probs(shortest, 3, seed=1)
    assert len(forced_align(log_probs, labels).spans) == len(labels)
    if shortest:
        with pytest.raises(AudioContentError, match=f"at least {shortest} frames, got {shortest - 1}"):
            forced_align(log_probs[1:], labels)


def test_misuse_is_refused_with_a_reason() -> None:
    logits = np.array([[3.0, -1.0]])
    for call in (greedy, prefix_beam):
        with pytest.raises(ConfigError, match="log_softmax"):
            call(logits, frame_s=1)
        with pytest.raises(ConfigError, match="log_softmax"):
            call(np.array([[np.nan, -1.0]]), frame_s=1)
        with pytest.raises(ConfigError, match="log_softmax"):
            call(np.full((1, 2), -np.inf), frame_s=1)
        with pytest.raises(ConfigError, match="blank_id"):
            call(np.log([[0.5, 0.5]]), blank_id=2, frame_s=1)
        with pytest.raises(ConfigError, match=r"\[T, V\]"):
            call(np.zeros(3), frame_s=1)
    with pytest.raises(ConfigError, match="beam_size"):
        prefix_beam(np.log([[0.5, 0.5]]), beam_size=0, frame_s=1)
    for wrong in ([0], [5], [-1]):
        with pytest.raises(ConfigError, match="without the blank"):
            forced_align(np.log(np.full((4, 3), 1 / 3)), wrong)
