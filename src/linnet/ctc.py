"""CTC decoding and alignment (Graves et al. 2006), the same for every family: greedy, prefix beam, forced alignment.

An alignment gives each frame one label or the blank; collapsing it (merge repeats, then drop blanks) gives the label
sequence. The probability of a sequence is the sum over its alignments.

Shapes: T frames, V labels including the blank, L labels of an answer. `log_probs` are natural logarithms [T, V], ≤ 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from linnet.errors import AudioContentError, ConfigError

_Array = npt.NDArray[np.float64]
_LM_FLOOR = -100.0  # a language model may forbid a token (−inf), but it must not leave the beam empty


@dataclass(frozen=True)
class CtcResult:
    """Decoded labels [L] with their times and confidences; `score` is the logarithm that the decoder maximised."""

    tokens: tuple[int, ...]
    start_s: tuple[float, ...]
    end_s: tuple[float, ...]
    confidence: tuple[float, ...]
    """Mean probability of the label over the frames it occupies, 0…1."""
    score: float


@dataclass(frozen=True)
class LabelSpan:
    """Frames `start` … `end` − 1 on which a label is emitted, and its mean probability there."""

    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Alignment:
    """The most probable alignment of given labels: one span per label and its log-probability, blanks included."""

    spans: tuple[LabelSpan, ...]
    score: float


class LanguageModel(Protocol):
    """What shallow fusion needs, for example an n-gram: any state object, and a natural log-probability per token."""

    def start(self) -> Any:
        """State before the first token."""
        ...

    def score(self, state: Any, token: int) -> tuple[float, Any]:
        """Log-probability of `token` after `state`, and the state that follows."""
        ...


def greedy(log_probs: npt.ArrayLike, *, blank_id: int = 0, frame_s: float) -> CtcResult:
    """The most probable label of each frame, collapsed; `score` is the log-probability of that one alignment.

    `frame_s` is the duration of a frame. Raises ConfigError if `log_probs` [T, V] is not what its name says.
    """
    frames = _check(log_probs, blank_id)
    path = frames.argmax(axis=1)
    edges = np.flatnonzero(np.diff(path, prepend=-1, append=-1))
    spans = [(int(a), int(b)) for a, b in pairwise(edges) if path[a] != blank_id]
    tokens = tuple(int(path[start]) for start, _ in spans)
    score = float(frames.max(axis=1).sum())
    return _result(
        tokens, tuple(_span(frames, *s, token=t) for s, t in zip(spans, tokens, strict=True)), score, frame_s
    )


def prefix_beam(
    log_probs: npt.ArrayLike,
    *,
    beam_size: int = 8,
    blank_id: int = 0,
    frame_s: float,
    lm: LanguageModel | None = None,
    lm_weight: float = 0.5,
    token_bonus: float = 0.0,
    tokens_per_frame: int = 40,
) -> CtcResult:
    """The most probable label sequence, its alignments summed (Hannun et al. 2014, arXiv:1408.2873).

    Maximises log P(labels | audio) + lm_weight · log P_lm(labels) + token_bonus · L over prefixes; exact if the beam
    holds every prefix and `tokens_per_frame`, the number of labels that may extend a prefix, is V − 1 or more. Times
    are those of the best alignment of the answer. Raises ConfigError as `greedy` does.
    """
    frames = _check(log_probs, blank_id)
    if beam_size < 1 or tokens_per_frame < 1:
        raise ConfigError(
            f"beam_size and tokens_per_frame must be at least 1, got {beam_size} and {tokens_per_frame}; try 8 and 40."
        )
    fusion = _Fusion(lm, lm_weight, token_bonus, frames.shape[1])
    labels = np.delete(np.arange(frames.shape[1]), blank_id)
    prefixes: list[tuple[int, ...]] = [()]
    ends_blank, ends_label = np.zeros(1), np.full(1, -np.inf)  # log-probability of each prefix by its last frame
    for frame in frames:
        tokens = labels
        if labels.size > tokens_per_frame:
            tokens = labels[np.argpartition(-frame[labels], tokens_per_frame)[:tokens_per_frame]]
        last = np.array([prefix[-1] if prefix else -1 for prefix in prefixes])
        total = np.logaddexp(ends_blank, ends_label)
        stay_blank = total + frame[blank_id]
        stay_label = ends_label + frame[last]  # −inf for the empty prefix, whatever frame[−1] is
        # A label that repeats the last one is a new label only across a blank.
        grow = np.where(tokens == last[:, None], ends_blank[:, None], total[:, None]) + frame[tokens]
        column = {int(token): k for k, token in enumerate(tokens)}
        row = {prefix: b for b, prefix in enumerate(prefixes)}
        for b, prefix in enumerate(prefixes):  # a grown prefix that is already in the beam is the same answer
            parent = row.get(prefix[:-1]) if prefix else None
            k = column.get(prefix[-1]) if prefix else None
            if parent is not None and k is not None:
                stay_label[b] = np.logaddexp(stay_label[b], grow[parent, k])
                grow[parent, k] = -np.inf
        kept = np.logaddexp(stay_blank, stay_label) + [fusion.of(prefix) for prefix in prefixes]
        grown = grow + fusion.of_extensions(prefixes, tokens)
        ranked = np.concatenate((kept, grown.ravel()))
        best = np.argsort(-ranked, kind="stable")[:beam_size]
        best = best[ranked[best] > -np.inf]
        stays, grows = best[best < len(prefixes)], best[best >= len(prefixes)] - len(prefixes)
        parents, columns = np.divmod(grows, tokens.size)
        prefixes = [prefixes[b] for b in stays] + [
            (*prefixes[b], int(tokens[k])) for b, k in zip(parents, columns, strict=True)
        ]
        ends_blank = np.concatenate((stay_blank[stays], np.full(grows.size, -np.inf)))
        ends_label = np.concatenate((stay_label[stays], grow[parents, columns]))
    scores = np.logaddexp(ends_blank, ends_label) + [fusion.of(prefix) for prefix in prefixes]
    winner = int(scores.argmax())
    spans = forced_align(frames, prefixes[winner], blank_id=blank_id).spans
    return _result(prefixes[winner], spans, float(scores[winner]), frame_s)


def min_frames(labels: Sequence[int]) -> int:
    """Fewest frames that can hold these labels: one each, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def forced_align(log_probs: npt.ArrayLike, labels: Sequence[int], *, blank_id: int = 0) -> Alignment:
    """The most probable alignment (Viterbi) of labels [L] to log_probs [T, V]; needs T · (2 L + 1) bytes.

    Raises AudioContentError if the labels do not fit into the frames, ConfigError if a label is the blank or not in
    the vocabulary.
    """
    frames = _check(log_probs, blank_id)
    labels = [int(label) for label in labels]
    if any(label == blank_id or not 0 <= label < frames.shape[1] for label in labels):
        raise ConfigError(f"Labels must be 0…{frames.shape[1] - 1} without the blank {blank_id}, got {labels[:20]}.")
    if len(frames) < min_frames(labels):
        raise AudioContentError(
            f"{len(labels)} labels need at least {min_frames(labels)} frames, got {len(frames)}; "
            "the text is too long for this audio: check that they belong together."
        )
    if len(frames) == 0:
        return Alignment((), 0.0)
    states = np.full(2 * len(labels) + 1, blank_id)  # blank, label, blank, …, label, blank
    states[1::2] = labels
    skips = np.zeros(states.size, dtype=bool)  # a label may follow the previous one directly unless they are equal
    skips[3::2] = states[3::2] != states[1:-2:2]
    emitted = frames[:, states]
    best = np.full(states.size, -np.inf)
    best[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, dtype=np.int8)  # how many states back the best predecessor lies
    moves = np.full((3, states.size), -np.inf)
    for t in range(1, len(frames)):
        moves[0] = best
        moves[1, 1:] = best[:-1]
        moves[2, 2:] = np.where(skips[2:], best[:-2], -np.inf)
        steps[t] = moves.argmax(axis=0)
        best = moves.max(axis=0) + emitted[t]
    state = int(states.size - 2 + best[-2:].argmax()) if labels else 0
    score = float(best[state])
    if score == -np.inf:
        raise AudioContentError("No alignment of these labels has a probability above zero; check text and audio.")
    path = np.empty(len(frames), dtype=np.int64)
    for t in range(len(frames) - 1, -1, -1):
        path[t] = state
        state -= int(steps[t, state])
    starts = np.searchsorted(path, np.arange(1, states.size, 2), side="left")  # the path never goes back
    ends = np.searchsorted(path, np.arange(1, states.size, 2), side="right")
    spans = (_span(frames, int(a), int(b), token=label) for a, b, label in zip(starts, ends, labels, strict=True))
    return Alignment(tuple(spans), score)


class _Fusion:
    """Language-model score plus bonus of prefixes; the model is asked once per prefix and next token."""

    def __init__(self, lm: LanguageModel | None, weight: float, bonus: float, vocab_size: int) -> None:
        self._lm, self._weight, self._bonus, self._vocab_size = lm, weight, bonus, vocab_size
        self._known: dict[tuple[int, ...], tuple[float, Any]] = {(): (0.0, lm.start() if lm else None)}
        self._next: dict[tuple[int, ...], _Array] = {}  # prefix → log-probability of each token [V], NaN: not asked yet

    def of(self, prefix: tuple[int, ...]) -> float:
        if self._lm is None:
            return self._bonus * len(prefix)
        if prefix not in self._known:
            before, state = self._known[prefix[:-1]]
            log_prob, after = self._lm.score(state, prefix[-1])
            self._known[prefix] = before + self._weight * max(log_prob, _LM_FLOOR) + self._bonus, after
        return self._known[prefix][0]

    def of_extensions(self, prefixes: list[tuple[int, ...]], tokens: npt.NDArray[np.int64]) -> _Array:
        """Scores [B, K] of every prefix followed by every token ([B, 1] without a model: the token does not matter)."""
        before = np.array([[self.of(prefix)] for prefix in prefixes])
        if self._lm is None:
            return before + self._bonus
        return before + self._bonus + self._weight * np.stack([self._log_probs(prefix, tokens) for prefix in prefixes])

    def _log_probs(self, prefix: tuple[int, ...], tokens: npt.NDArray[np.int64]) -> _Array:
        assert self._lm is not None
        if prefix not in self._next:
            self._next[prefix] = np.full(self._vocab_size, np.nan)
        row, state = self._next[prefix], self._known[prefix][1]
        for token in tokens[np.isnan(row[tokens])].tolist():
            row[token] = max(self._lm.score(state, token)[0], _LM_FLOOR)
        return row[tokens]


def _check(log_probs: npt.ArrayLike, blank_id: int) -> _Array:
    frames = np.asarray(log_probs, dtype=np.float64)
    if frames.ndim != 2 or not 0 <= blank_id < frames.shape[1]:
        raise ConfigError(f"CTC needs log_probs [T, V] with 0 ≤ blank_id < V, got {frames.shape} and {blank_id}.")
    if frames.size and not (frames.max() <= 0.01 and np.isfinite(frames.max(axis=1)).all()):
        raise ConfigError(
            "CTC needs log-probabilities: every value ≤ 0 and no NaN, and in every frame something possible; "
            f"got values up to {frames.max():g}. Apply log_softmax to logits first."
        )
    return frames


def _span(frames: _Array, start: int, end: int, *, token: int) -> LabelSpan:
    return LabelSpan(start, end, min(1.0, float(np.exp(frames[start:end, token]).mean())))


def _result(tokens: tuple[int, ...], spans: tuple[LabelSpan, ...], score: float, frame_s: float) -> CtcResult:
    return CtcResult(
        tokens=tokens,
        start_s=tuple(span.start * frame_s for span in spans),
        end_s=tuple(span.end * frame_s for span in spans),
        confidence=tuple(span.confidence for span in spans),
        score=score,
    )
