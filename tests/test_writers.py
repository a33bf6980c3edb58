"""Every output format against documents written by hand."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.errors import ConfigError
from linnet.results import Segment, Transcription, Word
from linnet.writers import FORMATS, render


def transcription(*segments: Segment, language: str | None = "en") -> Transcription:
    return Transcription(" ".join(s.text for s in segments), language, 4000.0, segments, "nano", 1.0)


TWO = transcription(
    Segment("Hello there.", 0.0, 1.25, "en", 0.5, (Word("Hello", 0.0, 0.5, 0.9), Word("there.", 0.5, 1.25))),
    Segment("Über <b>&</b> --> more", 3599.9996, 3601.5),
)
EMPTY = Transcription("", None, 3.0, (), "nano")


def test_txt_is_one_line() -> None:
    assert render(transcription(Segment("a\nb\t c", 0, 1)), "txt") == "a b c\n"


def test_srt() -> None:
    assert render(TWO, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,250\nHello there.\n\n2\n01:00:00,000 --> 01:00:01,500\nÜber <b>&</b> -> more\n\n"
    )


def test_vtt_escapes_markup() -> None:
    assert render(TWO, "vtt") == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.250\nHello there.\n\n"
        "01:00:00.000 --> 01:00:01.500\nÜber &lt;b&gt;&amp;&lt;/b&gt; --&gt; more\n\n"
    )


def test_tsv_has_milliseconds_and_no_stray_tabs() -> None:
    text = render(transcription(Segment("a\tb\nc\r\nd", 0.0014, 2.0)), "tsv")
    assert text == "start\tend\ttext\n1\t2000\ta b c d\n"


def test_json_is_the_result_itself() -> None:
    text = render(TWO, "json")
    assert json.loads(text) == TWO.to_dict()
    assert "Über" in text


def test_verbose_json_has_openai_fields() -> None:
    document = json.loads(render(TWO, "verbose_json"))
    assert (document["task"], document["language"], document["duration"]) == ("transcribe", "english", 4000.0)
    assert document["words"] == [
        {"word": "Hello", "start": 0.0, "end": 0.5},
        {"word": "there.", "start": 0.5, "end": 1.25},
    ]
    first, second = document["segments"]
    assert (first["id"], first["seek"], first["start"], first["end"]) == (0, 0, 0.0, 1.25)
    assert first["avg_logprob"] == pytest.approx(math.log(0.5), abs=1e-4)
    assert (second["id"], second["seek"], second["start"]) == (1, 360_000, 3600.0)
    assert "avg_logprob" not in second  # unknown confidence is left out, not invented
    assert "no_speech_prob" not in first


def test_verbose_json_language_names() -> None:
    for code, name in [("zh", "chinese"), ("yue", "cantonese"), (None, ""), ("xx", "xx")]:
        assert json.loads(render(transcription(language=code), "verbose_json"))["language"] == name


def test_verbose_json_compression_ratio_shows_loops() -> None:
    loop, speech = Segment("and so " * 60, 0, 9), Segment("and so my fellow americans ask not", 0, 9)
    ratios = [
        s["compression_ratio"] for s in json.loads(render(transcription(loop, speech), "verbose_json"))["segments"]
    ]
    assert ratios[0] > 2.4 > ratios[1]  # 2.4 is openai-whisper's threshold


def test_no_speech_gives_valid_empty_documents() -> None:
    assert {format: render(EMPTY, format) for format in ("txt", "srt", "vtt", "tsv")} == {
        "txt": "\n",
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "tsv": "start\tend\ttext\n",
    }
    assert json.loads(render(EMPTY, "json"))["segments"] == []
    document = json.loads(render(EMPTY, "verbose_json"))
    assert (document["segments"], document["text"], "words" in document) == ([], "", False)


def test_empty_segments_make_no_cues() -> None:
    assert render(transcription(Segment(" \n", 0, 1), Segment("b", 1, 2)), "srt").startswith("1\n00:00:01,000 -->")


@given(
    start_s=st.floats(0, 400_000, allow_nan=False),
    length_s=st.floats(-1, 100, allow_nan=False),
)
def test_times_are_well_formed_and_the_end_is_after_the_start(start_s: float, length_s: float) -> None:
    one = transcription(Segment("x", start_s, start_s + length_s))
    for format, point in [("srt", ","), ("vtt", r"\.")]:
        stamp = rf"(\d\d+):([0-5]\d):([0-5]\d){point}(\d{{3}})"
        found = re.search(rf"^{stamp} --> {stamp}$", render(one, format), re.MULTILINE)
        assert found
        h, m, s, ms, h2, m2, s2, ms2 = map(int, found.groups())
        start, end = ((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2
        assert start == pytest.approx(start_s * 1000, abs=0.51)
        assert end > start


def test_an_unknown_format_lists_the_known_ones() -> None:
    assert set(FORMATS) == {"txt", "srt", "vtt", "tsv", "json", "verbose_json"}
    with pytest.raises(ConfigError, match=r"'docx'; accepted: txt, srt, vtt"):
        render(TWO, "docx")
