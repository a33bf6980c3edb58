"""Subtitles that can be read: line length, time on the screen, breaks, and nothing lost or invented."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.results import Segment, Word
from linnet.subtitles import (
    GAP_S,
    MAX_CUE_S,
    MAX_LINES,
    MIN_CUE_S,
    break_lines,
    columns,
    make_cues,
    max_columns,
    reading_s,
)


def spoken(text: str, *, word_s: float = 0.4, pause_s: float = 0.0, start_s: float = 0.0) -> Segment:
    """A segment whose words follow each other."""
    words, at = [], start_s
    for word in text.split():
        words.append(Word(word, at, at + word_s))
        at += word_s + pause_s
    return Segment(text, start_s, at, "en", words=tuple(words))


LONG = (
    "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country. "
    "My fellow citizens of the world, ask not what America will do for you. Thank you."
)


def test_a_long_segment_becomes_cues_of_two_lines_over_its_own_words() -> None:
    cues = make_cues([spoken(LONG)])
    assert " ".join(line for cue in cues for line in cue.lines) == LONG
    for cue in cues:
        assert len(cue.lines) <= MAX_LINES
        assert all(columns(line) <= 42 for line in cue.lines)
        assert cue.end_s - cue.start_s <= MAX_CUE_S
    assert cues[0].lines[-1].endswith(",")  # rather after punctuation than in the middle
    assert any(cue.lines[-1].endswith("country.") for cue in cues)


def test_chinese_has_sixteen_characters_a_line() -> None:
    text = "今天天气很好我们一起去公园散步吧，然后再去吃饭，晚上看一场电影怎么样？"
    words = tuple(Word(char, 0.3 * index, 0.3 * index + 0.3) for index, char in enumerate(text))
    cues = make_cues([Segment(text, 0, 0.3 * len(text), "zh", words=words)])
    assert "".join(line for cue in cues for line in cue.lines) == text
    assert max(len(line) for cue in cues for line in cue.lines) <= 16
    assert not any(line[0] in "，。？" for cue in cues for line in cue.lines)


def test_without_times_of_words_a_segment_is_one_cue_over_its_own_time() -> None:
    (cue,) = make_cues([Segment(LONG, 3.0, 20.0, "en", words=(Word("And", None, None),))])
    assert (cue.start_s, cue.end_s) == (3.0, 20.0)
    assert " ".join(cue.lines) == LONG
    assert all(columns(line) <= 42 for line in cue.lines)


def test_no_cue_flashes_if_there_is_room() -> None:
    cues = make_cues([spoken("Yes.", word_s=0.1), spoken("No.", word_s=0.1, start_s=5.0)])
    assert [round(cue.end_s - cue.start_s, 3) for cue in cues] == [round(MIN_CUE_S, 3)] * 2


def test_a_fast_cue_stays_until_it_is_read_or_the_next_one_comes() -> None:
    text = "quickly spoken words that nobody can read"  # 41 characters: two seconds
    alone, crowded = spoken(text, word_s=0.1), [spoken(text, word_s=0.1), spoken("and", start_s=1.5)]
    assert make_cues([alone])[0].end_s == pytest.approx(41 / 20)
    assert make_cues(crowded)[0].end_s == pytest.approx(1.5 - GAP_S)


def test_a_long_pause_ends_a_cue() -> None:
    first, second = make_cues([spoken("one two", pause_s=2.0)])
    assert (first.lines, second.lines) == (("one",), ("two",))


def test_short_sentences_share_a_cue() -> None:
    assert len(make_cues([spoken("Yes. No. Yes.")])) == 1


def test_segments_without_text_make_no_cue() -> None:
    assert make_cues([Segment(" \n", 0, 1), Segment("", 1, 2)]) == []


TEXTS = st.text(alphabet="abc def,.!?' 你好。，“”(é", min_size=1, max_size=200).map(lambda text: " ".join(text.split()))


@settings(deadline=None)
@given(TEXTS)
def test_breaking_loses_nothing_and_lines_fit_unless_a_word_does_not(text: str) -> None:
    lines = break_lines(text)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        assert columns(line) <= max_columns(text) or " " not in line.strip()


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, st.floats(0.05, 1), st.floats(0, 1.5)), min_size=1, max_size=4))
def test_cues_do_not_overlap_and_keep_every_word(parts: list[tuple[str, float, float]]) -> None:
    segments, at = [], 0.0
    for text, word_s, pause_s in parts:
        segments.append(spoken(text, word_s=word_s, pause_s=pause_s, start_s=at))
        at = segments[-1].end_s + 0.5
    cues = make_cues(segments)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in pairwise(cues))
    assert all(cue.end_s > cue.start_s for cue in cues)
    shown = "".join("".join(cue.lines) for cue in cues)
    assert "".join(shown.split()) == "".join("".join(text.split()) for text, _, _ in parts)


def test_reading_takes_longer_in_wide_characters() -> None:
    assert reading_s("a" * 20) == 1.0
    assert reading_s("你" * 9) == 1.0
