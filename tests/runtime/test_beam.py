"""Beam search: greedy at width 1, the best of all answers when nothing is pruned, and the same alone and in company."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import FakeDecoder, FloatArray
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.runtime.beam import BeamSearch
from linnet.runtime.decoder import Prefilled
from linnet.runtime.greedy import MIN_REPEATED_TOKENS, Hypothesis, Request, decode

VOCAB, END = 4, 3
SEEDS = st.integers(0, 2**32 - 1)


class TreeDecoder(FakeDecoder):
    """Random logits for every sequence of tokens: a function of the prompt's first number and what was said since."""

    def __init__(self, *, max_slots: int = 8, sharpness: float = 2.0) -> None:
        super().__init__(lambda prompt: [], hidden_size=1, vocab_size=VOCAB, max_slots=max_slots)
        self.sharpness = sharpness
        self.said: dict[int, tuple[int, ...]] = {}

    def prefill(self, prompts: Sequence[FloatArray]) -> Prefilled:
        opened = [self._open((int(prompt[0, 0]),)) for prompt in prompts]
        return Prefilled(opened, self._rows(opened))

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        assert len(set(slots)) == len(slots)
        for slot, token in zip(slots, tokens, strict=True):
            self.said[slot] = (*self.said[slot], token)
        return self._rows(slots)

    def fork(self, slot: int) -> int:
        return self._open(self.said[slot])

    def free(self, slot: int) -> None:
        del self.said[slot]

    @property
    def free_slots(self) -> int:
        return self.max_slots - len(self.said)

    def logits_after(self, said: tuple[int, ...]) -> FloatArray:
        rng = np.random.default_rng([abs(number) for number in said])
        return (self.sharpness * rng.standard_normal(VOCAB)).astype(np.float32)

    def _open(self, said: tuple[int, ...]) -> int:
        slot, self._next = self._next, self._next + 1
        self.said[slot] = said
        self.most_live = max(self.most_live, len(self.said))
        assert len(self.said) <= self.max_slots
        return slot

    def _rows(self, slots: Sequence[int]) -> FloatArray:
        return np.stack([self.logits_after(self.said[slot]) for slot in slots])


def requests(seeds: Sequence[int], max_tokens: int) -> deque[Request[int]]:
    return deque(Request(seed, np.full((1, 1), seed, np.float64), max_tokens) for seed in seeds)


def search(
    decoder: FakeDecoder,
    waiting: deque[Request[int]],
    *,
    beam_size: int,
    max_batch: int = 8,
    end_ids: Sequence[int] = (END,),
) -> dict[int, Hypothesis]:
    def take() -> Request[int] | None:
        return waiting.popleft() if waiting else None

    begin = BeamSearch.begin(beam_size)
    return dict(decode(decoder, take, end_ids=end_ids, max_batch=max_batch, begin=begin, width=beam_size))


def log_probs(decoder: TreeDecoder, seed: int, tokens: Sequence[int]) -> list[float]:
    """ln p of each token after those before it, by the definition of the softmax."""
    values = []
    for position, token in enumerate(tokens):
        logits = decoder.logits_after((seed, *tokens[:position])).astype(np.float64)
        values.append(float(logits[token] - np.log(np.exp(logits).sum())))
    return values


@given(st.lists(SEEDS, min_size=1, max_size=4, unique=True), st.integers(1, 12))
@settings(deadline=None)
def test_a_beam_of_one_is_greedy_search(seeds: list[int], max_tokens: int) -> None:
    waiting = requests(seeds, max_tokens)
    greedy = dict(decode(TreeDecoder(), lambda: waiting.popleft() if waiting else None, end_ids=[END], max_batch=8))
    beams = search(TreeDecoder(), requests(seeds, max_tokens), beam_size=1)
    assert {key: (one.tokens, one.stopped) for key, one in beams.items()} == {
        key: (one.tokens, one.stopped) for key, one in greedy.items()
    }
    for key, one in beams.items():
        assert one.log_probs == pytest.approx(greedy[key].log_probs, abs=1e-5)  # float32 sums in another order


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_a_beam_that_prunes_nothing_finds_the_best_of_all_answers(seed: int) -> None:
    """Every answer of up to four tokens, scored one by one, is the oracle."""
    longest, width = 4, 200  # more than 1 + 3 + 9 + 27 + 81 beginnings
    decoder = TreeDecoder(max_slots=width)
    found = search(decoder, requests([seed], longest + 1), beam_size=width, max_batch=width)[seed]
    scores = {
        tokens: float(np.mean(log_probs(decoder, seed, (*tokens, END))))
        for length in range(longest + 1)
        for tokens in itertools.product(range(END), repeat=length)
    }
    best = max(scores, key=lambda tokens: scores[tokens])
    assert found.tokens == best and found.stopped == "end"
    assert found.log_probs == pytest.approx(log_probs(decoder, seed, (*best, END)), abs=1e-5)
    assert found.confidence == pytest.approx(math.exp(scores[best]), abs=1e-5)
    assert not decoder.said


@given(st.lists(SEEDS, min_size=1, max_size=5, unique=True), st.integers(2, 4), st.integers(1, 12))
@settings(deadline=None)
def test_requests_side_by_side_get_what_they_get_alone(seeds: list[int], width: int, max_batch: int) -> None:
    decoder = TreeDecoder(max_slots=12)
    together = search(decoder, requests(seeds, 10), beam_size=width, max_batch=max_batch)
    assert decoder.most_live <= max(width, max_batch) and not decoder.said
    assert set(together) == set(seeds)
    for seed in seeds:
        assert together[seed] == search(TreeDecoder(), requests([seed], 10), beam_size=width)[seed]


def test_a_wider_beam_finds_what_greed_misses() -> None:
    """Over many random trees the answers become more probable with the beam."""
    seeds = range(200)
    means = []
    for width in (1, 2, 4):
        found = search(TreeDecoder(), requests(seeds, 30), beam_size=width)
        means.append(np.mean([sum(one.log_probs) for one in found.values()]))
    assert means[0] < means[1] < means[2]


class Scripted(FakeDecoder):
    """A FakeDecoder that can be forked, sure enough of itself to leave a beam nothing else."""

    def fork(self, slot: int) -> int:
        self.live[self._next] = self.live[slot]
        self._next += 1
        return self._next - 1

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        for slot in slots:
            answer, position = self.live[slot]
            self.live[slot] = (answer, position + 1)
        return self._logits(slots)

    def _logits(self, slots: Sequence[int]) -> FloatArray:
        return 20.0 * super()._logits(slots)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_loop_is_stopped_and_kept_once(beam_size: int) -> None:
    decoder = Scripted(lambda prompt: [30, 31, *[20, 21, 22] * 60], hidden_size=1, vocab_size=64)
    found = search(decoder, requests([0], 200), beam_size=beam_size)[0]
    assert found.stopped == "loop"
    assert found.tokens == (30, 31, 20, 21, 22)
    assert len(found.log_probs) == len(found.tokens) and not decoder.live


def test_a_loop_that_the_cap_cuts_short_is_a_loop() -> None:
    decoder = Scripted(lambda prompt: [30, 31, *[20] * 60], hidden_size=1, vocab_size=64)
    assert MIN_REPEATED_TOKENS > 20
    found = search(decoder, requests([0], 22), beam_size=2)[0]
    assert (found.stopped, found.tokens) == ("loop", (30, 31, 20))


def test_the_cap_stops_an_answer_that_never_ends() -> None:
    decoder = Scripted(lambda prompt: [12 + i % 41 for i in range(300)], hidden_size=1, vocab_size=64)
    found = search(decoder, requests([0], 7), beam_size=3)[0]
    assert (found.stopped, found.tokens) == ("cap", tuple(range(12, 19)))


def test_an_immediate_end_is_an_empty_answer() -> None:
    decoder = Scripted(lambda prompt: [END], hidden_size=1, vocab_size=64)
    assert search(decoder, requests([0], 9), beam_size=4)[0].tokens == ()


def test_what_nobody_wants_any_more_is_dropped_with_all_its_beams() -> None:
    decoder, steps = TreeDecoder(sharpness=0.5), 0
    waiting = requests([1, 2], 40)

    def between() -> None:
        nonlocal steps
        steps += 1

    def take() -> Request[int] | None:
        return waiting.popleft() if waiting else None

    found = dict(
        decode(
            decoder,
            take,
            end_ids=[],
            max_batch=8,
            begin=BeamSearch.begin(3),
            width=3,
            between=between,
            wanted=lambda key: key == 2 or steps < 5,
        )
    )
    assert list(found) == [2] and steps >= 40 and not decoder.said


def test_a_caller_that_stops_early_leaves_no_slot_taken() -> None:
    decoder = TreeDecoder(sharpness=0.5)
    waiting = requests([1, 2, 3], 40)
    answers = decode(
        decoder,
        lambda: waiting.popleft() if waiting else None,
        end_ids=[END],
        max_batch=8,
        begin=BeamSearch.begin(2),
        width=2,
    )
    next(answers)
    answers.close()
    assert not decoder.said
