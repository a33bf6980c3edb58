"""Beam search over a Decoder: several continuations of each sequence live side by side, and the surest answer wins.

Greedy search (`greedy.py`) takes the most probable token at every step and cannot take it back. A beam keeps the
`beam_size` most probable beginnings, and of the finished answers gives the one with the greatest mean ln p per token,
end token included (length normalisation: Wu et al. 2016, arXiv:1609.08144, equation 14 with α = 1); it stops once
`beam_size` answers have ended, as transformers does with `early_stopping=True`. A small model gains much by it, a large
one little, and every beam costs a sequence's work and memory. Shapes: B live beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal

import numpy as np
import numpy.typing as npt

from linnet.runtime.decoder import Decoder
from linnet.runtime.greedy import FloatArray, Hypothesis, Key, LoopGuard, Request


def beam_decode(
    decoder: Decoder,
    next_request: Callable[[], Request[Key] | None],
    *,
    end_ids: Sequence[int],
    max_batch: int,
    beam_size: int,
    between: Callable[[], None] = lambda: None,
    wanted: Callable[[Key], bool] = lambda key: True,
) -> Iterator[tuple[Key, Hypothesis]]:
    """What `greedy.decode` does, with `beam_size` slots for each request and as many requests as `max_batch` holds.

    A request is taken when there are slots for all of its beams, or when nothing else is live.
    """
    live: list[_Search[Key]] = []
    ends = frozenset(end_ids)
    try:
        while True:
            between()
            for search in [search for search in live if not wanted(search.request.key)]:
                live.remove(search)
                search.free(decoder)
            while (not live or ((len(live) + 1) * beam_size <= max_batch and decoder.free_slots >= beam_size)) and (
                request := next_request()
            ) is not None:
                filled = decoder.prefill([request.prompt])
                search = _Search(request, beam_size, [_Beam(filled.slots[0])])
                live.append(search)
                if (answer := search.advance(filled.logits, ends, decoder)) is not None:
                    live.pop().free(decoder)
                    yield request.key, answer
            if not live:
                return
            beams = [beam for search in live for beam in search.beams]
            logits = decoder.step([beam.slot for beam in beams], [beam.tokens[-1] for beam in beams])
            finished, first = [], 0
            for search in live:
                count = len(search.beams)
                answer = search.advance(logits[first : first + count], ends, decoder)
                first += count
                if answer is not None:
                    finished.append((search, answer))
            live = [search for search in live if all(search is not done for done, _ in finished)]
            for search, _ in finished:
                search.free(decoder)
            for search, answer in finished:
                yield search.request.key, answer
    finally:  # an error, or a caller that stops early, must not leave slots taken
        for search in live:
            search.free(decoder)


@dataclass(eq=False)
class _Beam:
    """A beginning of an answer, and the slot whose cache holds all of it but the last token."""

    slot: int
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    guard: LoopGuard = field(default_factory=LoopGuard)

    def answer(self, stopped: Literal["end", "loop", "cap"], *, repeated: int = 0) -> Hypothesis:
        """What is left without the last `repeated` tokens."""
        kept = len(self.tokens) - repeated
        return Hypothesis(self.tokens[:kept], self.log_probs[:kept] if repeated else self.log_probs, stopped)

    @property
    def mean_log_prob(self) -> float:
        """How sure the decoder is of it, per token."""
        return sum(self.log_probs) / len(self.log_probs)


@dataclass(eq=False)
class _Search(Generic[Key]):
    """The beams of one request, best first, and the answers that it has found."""

    request: Request[Key]
    width: int
    beams: list[_Beam]
    found: list[tuple[float, Hypothesis]] = field(default_factory=list)

    def free(self, decoder: Decoder) -> None:
        """Give all slots back."""
        for beam in self.beams:
            decoder.free(beam.slot)
        self.beams = []

    def advance(self, logits: FloatArray, ends: frozenset[int], decoder: Decoder) -> Hypothesis | None:
        """Take the logits [B, V] behind every beam; the answer, if the search is over."""
        grown: list[_Beam] = []
        for rank, (row, token, log_prob) in enumerate(self._candidates(logits, len(ends))):
            parent = self.beams[row]
            log_probs = (*parent.log_probs, log_prob)
            if token in ends:
                if rank < self.width:  # an end that is less probable than that many beginnings is no answer
                    beam = _Beam(parent.slot, parent.tokens, log_probs)
                    self.found.append((beam.mean_log_prob, beam.answer("end")))
                continue
            beam = _Beam(parent.slot, (*parent.tokens, token), log_probs, parent.guard.copy())
            if repeated := beam.guard.push(token):
                # It competes with the answers: if it is the surest, something is wrong with what was heard.
                self.found.append((beam.mean_log_prob, beam.answer("loop", repeated=repeated)))
                continue
            grown.append(beam)
            if len(grown) == self.width:
                break
        full = bool(grown) and len(grown[0].tokens) >= self.request.max_tokens
        if full and not self.found:
            repeated = grown[0].guard.repeated(0)  # too long for its audio: was it on its way to a loop?
            return grown[0].answer("loop" if repeated else "cap", repeated=repeated)
        if full or not grown or len(self.found) >= self.width:
            return max(self.found, key=lambda one: one[0])[1]
        self._place(grown, decoder)
        return None

    def _candidates(self, logits: FloatArray, ends: int) -> list[tuple[int, int, float]]:
        """(beam, token, ln p) of continuations, the most probable first: enough that `width` of them can go on."""
        count = min(2 * self.width + ends, logits.shape[1])
        tokens, log_probs = _most_probable(logits, count)
        scored = [
            (sum(beam.log_probs) + float(log_probs[row, column]), row, int(tokens[row, column]), column)
            for row, beam in enumerate(self.beams)
            for column in range(count)
        ]
        scored.sort(key=lambda one: (-one[0], one[1], one[2]))
        return [(row, token, float(log_probs[row, column])) for _, row, token, column in scored]

    def _place(self, grown: list[_Beam], decoder: Decoder) -> None:
        """Give each beam a slot: the first child of a beam takes over its slot, the others fork it."""
        parents = {beam.slot for beam in grown}
        for beam in self.beams:
            if beam.slot not in parents:
                decoder.free(beam.slot)
        self.beams = []
        taken: set[int] = set()
        try:
            for beam in grown:
                slot = beam.slot
                beam.slot = decoder.fork(slot) if slot in taken else slot
                taken.add(slot)
                self.beams.append(beam)
        except BaseException:
            for slot in parents - taken:
                decoder.free(slot)
            raise


def _most_probable(logits: FloatArray, count: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The `count` most probable tokens [B, count] of each row, in no order, and their ln p."""
    top = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
    tokens = np.argpartition(logits, -count, axis=1)[:, -count:]
    return tokens, np.take_along_axis(logits, tokens, axis=1) - total
