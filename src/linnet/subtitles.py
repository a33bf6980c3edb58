"""Cues that can be read: lines of a length that fits, texts that stay long enough, breaks where the sentence has them.

With times of words, a segment becomes as many cues as its text needs, each over its own words. Without them a segment
is one cue over the segment's time: where a word stands in it is not known, and not guessed. The numbers are those of
Netflix's Timed Text Style Guide: two lines of 42 characters (16 in Chinese), 5/6 s to 7 s, 20 characters a second (9 in
Chinese), two frames between cues.

Widths are in columns: Han, kana and the like take two. Times are in seconds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from linnet.results import Segment, Word

MAX_LINES = 2
MIN_CUE_S, MAX_CUE_S = 5 / 6, 7.0
GAP_S = 1 / 12
"""Between two cues, so that the eye sees the change: two frames of film."""
LONG_PAUSE_S = 0.7
"""A pause that ends a cue wherever it stands."""
_SENTENCE_END, _CLAUSE_END = tuple(".!?。！？…"), tuple(",;:，；：、")


@dataclass(frozen=True)
class Cue:
    """Lines that are shown from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def make_cues(segments: Iterable[Segment]) -> list[Cue]:
    """Cues in order that do not overlap."""
    rough = [cue for segment in segments for cue in _cues_of(segment)]
    return _stretched(sorted(rough, key=lambda cue: cue.start_s))


def columns(text: str) -> int:
    """Width of a text; wide characters take two columns, marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def max_columns(text: str) -> int:
    """Width of a line: 42 characters, or 16 wide ones."""
    return 32 if _is_mostly_wide(text) else 42


def reading_s(text: str) -> float:
    """Time that reading takes: 20 characters a second, or 9 wide ones."""
    return columns(text) / (18 if _is_mostly_wide(text) else 20)


def break_lines(text: str) -> list[str]:
    """Lines of at most `max_columns`, as few as possible and then as even as possible.

    Breaks are at spaces and beside wide characters, never before closing punctuation; a longer word has its own line.
    """
    pieces, widest = _pieces(text), max_columns(text)
    fewest = len(_greedy(pieces, widest))
    if fewest <= 1:
        return [text] if text else []
    for width in range(-(-columns(text) // fewest), widest):  # the narrowest that needs no more lines
        lines = _greedy(pieces, width)
        if len(lines) == fewest:
            return lines
    return _greedy(pieces, widest)


def _cues_of(segment: Segment) -> Iterator[Cue]:
    text = " ".join(segment.text.split())
    if not text:
        return
    if not segment.has_word_times:
        yield Cue(segment.start_s, max(segment.end_s, segment.start_s), tuple(break_lines(text)))
        return
    for words in _groups(segment.words):
        start_s, end_s = words[0].start_s, words[-1].end_s
        assert start_s is not None and end_s is not None
        yield Cue(start_s, end_s, tuple(break_lines(_joined(words))))


def _groups(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Words of one cue each: up to a sentence's end or a long pause; what is too long is cut at its best place."""
    group: list[Word] = []
    for word, following in [*pairwise(words), (words[-1], None)]:
        group.append(word)
        pause_s = 0.0 if following is None else _time(following.start_s) - _time(word.end_s)
        ends = word.text.endswith(_SENTENCE_END) and columns(_joined(group)) > 20  # "Yes. No." is one cue
        if following is None or ends or pause_s >= LONG_PAUSE_S:
            yield from _split(group)
            group = []


def _split(words: list[Word]) -> Iterator[list[Word]]:
    """Halves of halves until each fits into a cue: near the middle, rather after punctuation and at pauses."""
    fits = len(break_lines(_joined(words))) <= MAX_LINES
    if len(words) == 1 or (fits and _time(words[-1].end_s) - _time(words[0].start_s) <= MAX_CUE_S):
        yield words
        return
    middle = len(words) / 2

    def cost(index: int) -> float:
        before = words[index - 1]
        bonus = 0.5 if before.text.endswith(_SENTENCE_END) else 0.3 if before.text.endswith(_CLAUSE_END) else 0.0
        pause_s = _time(words[index].start_s) - _time(before.end_s)
        return abs(index - middle) / len(words) - bonus - min(pause_s, 0.5)

    best = min(range(1, len(words)), key=cost)
    yield from _split(words[:best])
    yield from _split(words[best:])


def _stretched(cues: list[Cue]) -> list[Cue]:
    """Cues that stay long enough to be read, as far as the next one leaves room."""
    result = []
    for index, cue in enumerate(cues):
        needed_s = max(MIN_CUE_S, reading_s("".join(cue.lines)))
        end_s = max(cue.end_s, cue.start_s + min(needed_s, MAX_CUE_S))
        if index + 1 < len(cues):
            following_s = cues[index + 1].start_s
            end_s = min(end_s, max(following_s - GAP_S, min(cue.end_s, following_s)))
        result.append(Cue(cue.start_s, end_s, cue.lines))
    return result


def _joined(words: Sequence[Word]) -> str:
    """The words as text: no space beside Han and kana."""
    text = ""
    for word in words:
        glued = not text or _is_wide(text[-1]) or _is_wide(word.text[0])
        text += word.text if glued else f" {word.text}"
    return text


def _pieces(text: str) -> list[str]:
    """What a line may be made of: words with the space before them, wide characters with what closes behind them."""
    pieces: list[str] = []
    for char in text:
        last = pieces[-1] if pieces else ""
        closing = unicodedata.category(char) in ("Pe", "Pf", "Po")
        opened = bool(last) and unicodedata.category(last[-1]) in ("Ps", "Pi")
        breaks = char == " " or ((_is_wide(char) or (bool(last) and _is_wide(last[-1]))) and not closing and not opened)
        if not last or (breaks and last != " "):
            pieces.append(char)
        else:
            pieces[-1] += char
    return pieces


def _greedy(pieces: Sequence[str], max_columns: int) -> list[str]:
    lines: list[str] = []
    for piece in pieces:
        if lines and columns(lines[-1] + piece) <= max_columns:
            lines[-1] += piece
        else:
            lines.append(piece.lstrip())
    return [line for line in lines if line]


def _is_mostly_wide(text: str) -> bool:
    return 2 * sum(map(_is_wide, text)) > len(text)


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF"


def _time(time_s: float | None) -> float:
    assert time_s is not None  # of words with times only
    return time_s
