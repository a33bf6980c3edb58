"""Numbers as they are written, in the languages that have rules."""

from __future__ import annotations

import sys

import pytest

from linnet.errors import MissingExtraError
from linnet.results import Segment, Transcription, Word
from linnet.runtime.itn import InverseNormalizer


@pytest.fixture(scope="module")
def itn() -> InverseNormalizer:
    pytest.importorskip("wetext", reason="the [itn] extra is not installed")
    return InverseNormalizer()


@pytest.mark.parametrize(
    ("text", "language", "written"),
    [
        ("i paid twenty five dollars", "en", "i paid $25"),
        ("百分之五十", "zh", "50%"),
        ("我花了二十五块钱", "yue", "我花了25块钱"),
        ("fünfundzwanzig euro", "de", "fünfundzwanzig euro"),
        ("twenty five", None, "twenty five"),
        ("", "en", ""),
        ("hello there", "en", "hello there"),
    ],
)
def test_numbers_are_written_in_digits(itn: InverseNormalizer, text: str, language: str | None, written: str) -> None:
    assert itn.text(text, language) == written


def test_a_transcription_changes_in_its_texts_only(itn: InverseNormalizer) -> None:
    words = (Word("twenty", 0.0, 0.4), Word("five", 0.4, 0.9))
    segments = (Segment("twenty five", 0.0, 1.0, "en", 0.5, words, ("repetition",)), Segment("五十", 2.0, 3.0, "zh"))
    before = Transcription("twenty five 五十", "en", 3.0, segments, "nano")
    after = itn(before)
    assert after.text == "25 50"
    assert [segment.text for segment in after.segments] == ["25", "50"]
    assert after.segments[0].words == words and after.segments[0].flags == ("repetition",)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wetext", None)
    with pytest.raises(MissingExtraError, match=r"linnet\[itn\]"):
        InverseNormalizer()
