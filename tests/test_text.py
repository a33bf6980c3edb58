"""Language names and what scoring ignores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.errors import LanguageError
from linnet.text import LANGUAGES, is_cjk, language_code, language_name, normalize, words


def test_languages_are_those_of_the_model(shared: Path) -> None:
    config = json.loads((shared / "qwen3_asr/Qwen3-ASR-0.6B/config.json").read_text())
    assert list(LANGUAGES.values()) == config["support_languages"]


@pytest.mark.parametrize(
    ("given_name", "code"),
    [
        ("zh", "zh"), ("Chinese", "zh"), ("CHINESE", "zh"), ("zh-CN", "zh"), ("zh_TW", "zh"), ("cmn", "zh"),
        ("zh-HK", "yue"), ("yue", "yue"), ("Cantonese", "yue"), ("tl", "fil"), ("fil", "fil"), (" english ", "en"),
        ("pt-BR", "pt"), ("farsi", "fa"),
    ],
)  # fmt: skip
def test_a_language_by_code_name_or_tag(given_name: str, code: str) -> None:
    assert language_code(given_name) == code
    assert language_name(given_name) == LANGUAGES[code]


@pytest.mark.parametrize("unknown", ["", "klingon", "auto", "e", "english please"])
def test_an_unknown_language_lists_the_known_ones(unknown: str) -> None:
    with pytest.raises(LanguageError, match=r"Accepted: Chinese \(zh\), English \(en\).*Macedonian \(mk\)"):
        language_name(unknown)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(LanguageError, match="did you mean 'Portuguese'"):
        language_code("portugese")


def test_is_cjk() -> None:
    assert all(is_cjk(language) for language in ("zh", "Chinese", "zh-CN", "yue", "ja", "Japanese"))
    assert not any(is_cjk(language) for language in ("en", "ko", "th", "xx", "", None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IT WAS GOOD FOR ME", "it was good for me"),
        ("Beatman's, Beatman's Diner.", "beatman's beatman's diner"),
        ("Don’t say ‘no’!", "don't say no"),
        ("ill-disposed, well—known", "ill disposed well known"),
        ("the U.S. and the e.g.", "the us and the eg"),
        ("one.two", "one two"),
        ("$1,000.50 for 3.5% of 1,2", "1000.50 for 3.5 of 1 2"),
        ("  tabs\tand\nlines ", "tabs and lines"),
        ("ﬁve ＡＢＣ １２", "five abc 12"),
        ("naïve café", "naïve café"),
        ("नमस्ते, दुनिया!", "नमस्ते दुनिया"),
        ("안녕하세요, 세계!", "안녕하세요 세계"),
        ("…?!", ""),
        ("", ""),
    ],
)
def test_spaced_languages(text: str, expected: str) -> None:
    assert normalize(text, "en") == expected


@pytest.mark.parametrize(
    ("text", "expected", "units"),
    [
        ("你好，世界！", "你好世界", ["你", "好", "世", "界"]),
        ("你 好 世 界", "你好世界", ["你", "好", "世", "界"]),
        ("我爱 Python 语言 very much", "我爱python语言very much", ["我", "爱", "python", "语", "言", "very", "much"]),
        ("人々は、テストー", "人々はテストー", list("人々はテストー")),
        ("二〇二四年", "二〇二四年", list("二〇二四年")),
        ("《书》·「引」", "书引", ["书", "引"]),
    ],
)
def test_unspaced_scripts_count_characters(text: str, expected: str, units: list[str]) -> None:
    assert normalize(text, "zh") == expected
    assert words(text, "zh") == units
    assert words(text) == units  # the script decides, not the language


def test_decomposed_accents_are_the_same_word() -> None:
    assert normalize("cafe\u0301") == normalize("café")


def test_turkish_i() -> None:
    assert normalize("IŞIK İYİ", "tr") == "ışık iyi"
    assert normalize("IT", "en") == "it"


@given(st.text(max_size=40))
def test_normalising_leaves_only_words_and_single_spaces(text: str) -> None:
    result = normalize(text)
    assert result == result.strip()
    assert "  " not in result
    assert "".join(words(text)) == result.replace(" ", "")


@given(
    st.text(alphabet=st.characters(categories=["Ll", "Lu", "Lo", "Nd", "Po", "Zs"], max_codepoint=0xFFFF), max_size=30)
)
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
