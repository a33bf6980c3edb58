"""Search over a Decoder, greedy by default, several sequences at once: a finished one makes room for the next.

What stops a sequence: an end token, the cap on its length, or the loop guard. `beam.py` is the other search. Shapes: V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from linnet.errors import ConfigError
from linnet.runtime.decoder import Decoder

FloatArray = npt.NDArray[np.float32]
Key = TypeVar("Key")

MAX_PERIOD = 32
"""Longest repeated phrase the guard looks for, in tokens."""
MIN_REPEATS, MIN_REPEATED_TOKENS = 4, 48
"""A phrase is a loop once it came this often and fills this many tokens: one token 48 times, a phrase of 16 four times.
People do say "no no no no" and long runs of zeros; a false alarm costs a second try on smaller cuts, not words."""

TOKENS_PER_SECOND, EXTRA_TOKENS = 25, 24
"""Cap on an answer: fast speech in a vocabulary of little more than bytes, plus the language header."""


def answer_cap(duration_s: float) -> int:
    """Most tokens that an answer about this much audio may have."""
    return math.ceil(duration_s * TOKENS_PER_SECOND) + EXTRA_TOKENS


def answer_room(decoder: Decoder, *, context: int, audio: int, rest: int) -> int:
    """Positions left for the answer behind a prompt of these three parts; ConfigError if that is no answer at all."""
    room = decoder.max_length - context - audio - rest
    if room < EXTRA_TOKENS:
        raise ConfigError(
            f"The prompt takes {context + audio + rest} positions (context {context}, audio {audio}), and the decoder "
            f"holds {decoder.max_length} with the answer. Shorten the context."
        )
    return room


@dataclass(frozen=True)
class Request(Generic[Key]):
    """One sequence to decode: prompt embeddings [T, H], the most tokens it may answer, and the caller's own key."""

    key: Key
    prompt: FloatArray
    max_tokens: int


@dataclass(frozen=True)
class Hypothesis:
    """An answer without its end token. After a loop, `tokens` holds the repeated phrase once."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    """ln p of each token, and of the end token if there was one."""
    stopped: Literal["end", "loop", "cap"]

    @property
    def confidence(self) -> float:
        """Geometric mean of the token probabilities, 0…1."""
        return math.exp(sum(self.log_probs) / len(self.log_probs)) if self.log_probs else 0.0


class LoopGuard:
    """Watches a token sequence for a phrase that repeats at its end."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._same: dict[int, int] = {}  # period p → how many of the last tokens equal the one p before; 0 left out

    def push(self, token: int) -> int:
        """Number of tokens at the end that only repeat what stands before them, once that is a loop; else 0."""
        before = self._tokens[: -MAX_PERIOD - 1 : -1]
        self._tokens.append(token)
        self._same = {period: self._same.get(period, 0) + 1 for period, old in enumerate(before, 1) if old == token}
        return self.repeated(MIN_REPEATED_TOKENS)

    def copy(self) -> LoopGuard:
        """A guard that has seen the same tokens and goes its own way from here."""
        twin = LoopGuard()
        twin._tokens, twin._same = self._tokens.copy(), self._same
        return twin

    def repeated(self, min_tokens: int) -> int:
        """As `push` returns it, for loops that fill at least `min_tokens`."""
        for period, same in self._same.items():
            if same + period >= max(min_tokens, MIN_REPEATS * period):
                return same
        return 0


class Search(Protocol[Key]):
    """The search for one answer: its live sequences, and what to do with the logits behind them."""

    request: Request[Key]

    @property
    def slots(self) -> list[int]:
        """The decoder's slots of its live sequences."""
        ...

    @property
    def last_tokens(self) -> list[int]:
        """The token to be read next in each of them."""
        ...

    def advance(self, logits: FloatArray, ends: frozenset[int], decoder: Decoder) -> Hypothesis | None:
        """Take the logits [sequences, V] behind every sequence; the answer, if that ended the search."""
        ...


def decode(
    decoder: Decoder,
    next_request: Callable[[], Request[Key] | None],
    *,
    end_ids: Sequence[int],
    max_batch: int,
    between: Callable[[], None] = lambda: None,
    wanted: Callable[[Key], bool] = lambda key: True,
    begin: Callable[[Request[Key], int], Search[Key]] | None = None,
    width: int = 1,
) -> Iterator[tuple[Key, Hypothesis]]:
    """Decode what `next_request` gives until it gives None and nothing is live; answers come as they finish.

    It is asked again after every step while there is room, so the caller may react to an answer by queueing more. At
    most `max_batch` sequences exist at a time, and no more than the decoder has free slots: decodings may be nested.
    Before each step `between` is called, and `wanted` about every live request: one that is not is dropped without an
    answer. `begin` makes the search for a request from the slot of its prompt (None: greedy), which takes up to `width`
    slots.
    """
    start: Callable[[Request[Key], int], Search[Key]] = begin or GreedySearch
    live: list[Search[Key]] = []
    ends = frozenset(end_ids)
    try:
        while True:
            between()
            for search in [search for search in live if not wanted(search.request.key)]:
                live.remove(search)
                _free(decoder, search)
            while (
                # without any slot at all, the decoder says so
                not live or ((len(live) + 1) * width <= max_batch and decoder.free_slots >= width)
            ) and (request := next_request()) is not None:
                filled = decoder.prefill([request.prompt])
                live.append(start(request, filled.slots[0]))
                if (answer := live[-1].advance(filled.logits, ends, decoder)) is not None:
                    _free(decoder, live.pop())
                    yield request.key, answer
            if not live:
                return
            counts = [len(search.slots) for search in live]
            logits = decoder.step(
                [slot for search in live for slot in search.slots],
                [token for search in live for token in search.last_tokens],
            )
            finished = []
            for search, rows in zip(live, np.split(logits, np.cumsum(counts)[:-1]), strict=True):
                answer = search.advance(rows, ends, decoder)
                if answer is not None:
                    finished.append((search, answer))
            live = [search for search in live if all(search is not done for done, _ in finished)]
            for search, _ in finished:
                _free(decoder, search)
            for search, answer in finished:
                yield search.request.key, answer
    finally:  # an error, or a caller that stops early, must not leave slots taken
        for search in live:
            _free(decoder, search)


def _free(decoder: Decoder, search: Search[Key]) -> None:
    for slot in search.slots:
        decoder.free(slot)


@dataclass(eq=False)
class GreedySearch(Generic[Key]):
    """The most probable token at every step: one live sequence and what it has answered so far."""

    request: Request[Key]
    slot: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    guard: LoopGuard = field(default_factory=LoopGuard)

    @property
    def slots(self) -> list[int]:
        return [self.slot]

    @property
    def last_tokens(self) -> list[int]:
        return self.tokens[-1:]

    def advance(self, logits: FloatArray, ends: frozenset[int], decoder: Decoder) -> Hypothesis | None:
        """Take the logits [1, V]; the answer, if the next token ended it."""
        token = int(logits[0].argmax())
        self.log_probs.append(-math.log(float(np.exp(logits[0] - logits[0, token]).sum())))
        if token in ends:
            return self._answer("end")
        self.tokens.append(token)
        repeated, full = self.guard.push(token), len(self.tokens) >= self.request.max_tokens
        if full and not repeated:  # an answer too long for its audio that ends in a repetition was on its way to a loop
            repeated = self.guard.repeated(0)
        if repeated:
            del self.tokens[-repeated:], self.log_probs[-repeated:]
            return self._answer("loop")
        return self._answer("cap") if full else None

    def _answer(self, stopped: Literal["end", "loop", "cap"]) -> Hypothesis:
        return Hypothesis(tuple(self.tokens), tuple(self.log_probs), stopped)
