"""Greedy search: what ends a sequence, and that many at once are the same as one by one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import FakeDecoder, FloatArray
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.runtime.greedy import (
    MAX_PERIOD,
    MIN_REPEATED_TOKENS,
    MIN_REPEATS,
    Hypothesis,
    LoopGuard,
    Request,
    decode,
)

END = 9


def scripted(answers: Sequence[Sequence[int]], *, max_slots: int = 8) -> tuple[FakeDecoder, deque[Request[int]]]:
    """A decoder that gives answer i to a prompt of zeros whose first number is i, and the requests for them all."""
    decoder = FakeDecoder(lambda prompt: answers[int(prompt[0, 0])], hidden_size=4, vocab_size=64, max_slots=max_slots)
    prompts = [np.zeros((3, 4), np.float32) for _ in answers]
    for index, prompt in enumerate(prompts):
        prompt[0, 0] = index
    return decoder, deque(Request(index, prompt, 200) for index, prompt in enumerate(prompts))


def run(decoder: FakeDecoder, requests: deque[Request[int]], max_batch: int = 8) -> dict[int, Hypothesis]:
    def next_request() -> Request[int] | None:
        return requests.popleft() if requests else None

    return dict(decode(decoder, next_request, end_ids=[END, 11], max_batch=max_batch))


ANSWERS = st.lists(st.lists(st.integers(12, 40), max_size=12).map(lambda a: [*a, END]), max_size=9)


@given(ANSWERS, st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None)
def test_batches_of_any_size_give_each_its_own_answer(answers: list[list[int]], max_batch: int, slots: int) -> None:
    decoder, requests = scripted(answers, max_slots=slots)
    found = run(decoder, requests, max_batch)
    assert {key: [*one.tokens, END] for key, one in found.items()} == dict(enumerate(answers))
    assert decoder.most_live <= min(max_batch, slots)
    assert decoder.live == {}


def test_a_finished_sequence_makes_room_at_once() -> None:
    decoder, requests = scripted([[20] * 1 + [END], [20, 21] * 10 + [END], [22, END], [23, END]])
    order = list(run(decoder, requests, max_batch=2))
    assert order == [0, 2, 3, 1]  # the short ones pass the long one by


def test_an_answer_may_bring_new_requests() -> None:
    decoder, requests = scripted([[20, END], [21, 22, END]])
    waiting = deque([requests.popleft()])
    found = []
    for key, _ in decode(decoder, lambda: waiting.popleft() if waiting else None, end_ids=[END], max_batch=1):
        found.append(key)
        waiting.extend(requests)
        requests.clear()
    assert found == [0, 1]


def test_a_sequence_that_nobody_wants_is_dropped_without_an_answer() -> None:
    decoder, requests = scripted([[20] * 30 + [END], [21, 22] * 10 + [END], [23, END]])
    steps = 0

    def between() -> None:
        nonlocal steps
        steps += 1

    def next_request() -> Request[int] | None:
        return requests.popleft() if requests else None

    found = dict(
        decode(
            decoder, next_request, end_ids=[END], max_batch=2, between=between, wanted=lambda key: key != 0 or steps < 5
        )
    )
    assert list(found) == [2, 1] and decoder.live == {}
    assert steps >= 20  # it was called before every step of the longest one


def test_decodings_can_be_nested_while_slots_are_left() -> None:
    decoder, requests = scripted([[20] * 5 + [END], [21] * 5 + [END], [22] * 5 + [END]], max_slots=3)
    inner = deque([requests.pop()])
    within: dict[int, Hypothesis] = {}

    def between() -> None:
        if len(decoder.live) == 2 and inner:
            within.update(run(decoder, inner))

    def next_request() -> Request[int] | None:
        return requests.popleft() if requests else None

    outer = dict(decode(decoder, next_request, end_ids=[END], max_batch=2, between=between))
    assert within[2].tokens == (22,) * 5
    assert {key: one.tokens for key, one in outer.items()} == {0: (20,) * 5, 1: (21,) * 5}


def test_log_probs_are_those_of_a_softmax() -> None:
    decoder, requests = scripted([[20, 21, END]])
    answer = run(decoder, requests)[0]
    expected = 1 - math.log(math.e + 63)  # logits: one 1 and 63 zeros
    assert answer.log_probs == pytest.approx([expected] * 3, abs=1e-6)
    assert answer.confidence == pytest.approx(math.exp(expected), abs=1e-6)
    assert answer.stopped == "end"


def test_an_immediate_end_is_an_empty_answer() -> None:
    decoder, requests = scripted([[END], [11]])
    assert [one.tokens for one in run(decoder, requests).values()] == [(), ()]


def test_the_cap_stops_an_answer_that_never_ends() -> None:
    decoder, requests = scripted([[12 + i % 41 for i in range(300)]])
    answer = run(decoder, deque([Request(0, requests[0].prompt, 7)]))[0]
    assert answer.stopped == "cap"
    assert answer.tokens == tuple(range(12, 19))


def test_a_loop_is_stopped_and_kept_once() -> None:
    decoder, requests = scripted([[30, 31, *[20, 21, 22] * 60]])
    answer = run(decoder, requests)[0]
    assert answer.stopped == "loop"
    assert answer.tokens == (30, 31, 20, 21, 22)
    assert len(answer.log_probs) == len(answer.tokens)


def test_a_loop_that_the_cap_cuts_short_is_a_loop() -> None:
    decoder, requests = scripted([[30, 31, *[20, 21, 22] * 60]])
    answer = run(decoder, deque([Request(0, requests[0].prompt, 2 + 12)]))[0]
    assert answer.stopped == "loop"
    assert answer.tokens == (30, 31, 20, 21, 22)


def test_slots_are_freed_when_the_caller_stops_or_something_breaks() -> None:
    decoder, requests = scripted([[20, END], [21] * 9 + [END]])
    answers = decode(decoder, lambda: requests.popleft() if requests else None, end_ids=[END], max_batch=2)
    next(answers)
    assert decoder.live
    answers.close()
    assert decoder.live == {}

    def fails(slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        raise RuntimeError("out of memory")

    decoder, requests = scripted([[20, END]])
    decoder.step = fails  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        run(decoder, requests)
    assert decoder.live == {}


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, MAX_PERIOD), st.integers(0, 2**32 - 1))
def test_the_guard_hears_every_short_loop(lead: list[int], period: int, seed: int) -> None:
    phrase = [100 + int(i) for i in np.random.default_rng(seed).permutation(period)]  # no shorter period inside
    guard = LoopGuard()
    assert all(guard.push(token) == 0 for token in lead) or len(lead) >= MIN_REPEATED_TOKENS
    needed = max(MIN_REPEATED_TOKENS, MIN_REPEATS * period)
    repeated = [guard.push(phrase[i % period]) for i in range(needed)]
    assert repeated == [0] * (needed - 1) + [needed - period]


@pytest.mark.parametrize(
    "tokens",
    [[5] * (MIN_REPEATED_TOKENS - 1), list(range(100)), [1, 2, 3] * 10, list(range(MAX_PERIOD + 1)) * 5],
    ids=["a run of zeros", "no repeat", "ten times a word", "a period too long"],
)
def test_what_people_say_is_no_loop(tokens: list[int]) -> None:
    guard = LoopGuard()
    assert not any(guard.push(token) for token in tokens)
