"""Beam search over a Decoder: several continuations of each sequence live side by side, and the surest answer wins.

Greedy search (`greedy.py`) takes the most probable token at every step and cannot take it back. A beam keeps the
`beam_size` most probable beginnings, and of the finished answers gives the one with the greatest mean ln p per token,
end token included (length normalisation: Wu et al. 2016, arXiv:1609.08144, equation 14 with α = 1); it stops once
`beam_size` answers have ended, as transformers does with `early_stopping=True`. A small model gains much by it, a large
one little, and every beam costs a sequence's work and memory. Shapes: B live beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal

import numpy as np
import numpy.typing as npt

from linnet.runtime.decoder import Decoder
from linnet.runtime.greedy import FloatArray, Hypothesis, Key, LoopGuard, Request


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
class BeamSearch(Generic[Key]):
    """The search for one answer, for `greedy.decode`: the beams of a request, best first, and the answers found."""

    request: Request[Key]
    width: int
    beams: list[_Beam]
    found: list[tuple[float, Hypothesis]] = field(default_factory=list)

    @classmethod
    def begin(cls, width: int) -> Callable[[Request[Key], int], BeamSearch[Key]]:
        """What makes a search of `width` beams from a request and the slot of its prompt."""
        return lambda request, slot: cls(request, width, [_Beam(slot)])

    @property
    def slots(self) -> list[int]:
        return [beam.slot for beam in self.beams]

    @property
    def last_tokens(self) -> list[int]:
        return [beam.tokens[-1] for beam in self.beams]

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
        before = np.array([[sum(beam.log_probs)] for beam in self.beams])
        # The most probable first; of two alike the better beam, then the smaller token.
        rows = np.repeat(np.arange(len(self.beams)), count)
        order = np.lexsort((tokens.ravel(), rows, -(before + log_probs).ravel()))
        picked = zip(rows[order], tokens.ravel()[order], log_probs.ravel()[order], strict=True)
        return [(int(row), int(token), float(log_prob)) for row, token, log_prob in picked]

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
