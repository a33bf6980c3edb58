"""Words as they are shown, and how sure the model was of each."""

from __future__ import annotations

import math

import pytest
from fakes import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.runtime.prompt import encode_answer
from linnet.runtime.words import sounds, split_words, word_confidences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Hello, world!", ["Hello,", "world!"]),
        ("don't well-known 3.5 %", ["don't", "well-known", "3.5 %"]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("我用Qwen3模型", ["我", "用", "Qwen3", "模", "型"]),
        ("他说：“好”。", ["他", "说：", "“好”。"]),
        ("(see below) «oui»", ["(see", "below)", "«oui»"]),
        ("ひらがな カ", ["ひ", "ら", "が", "な", "カ"]),
        ("안녕 하세요", ["안녕", "하세요"]),
        ("wait – what", ["wait –", "what"]),
        ("– so", ["–so"]),
        ("…", ["…"]),
    ],
)
def test_words_keep_their_punctuation(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@settings(deadline=None)
@given(st.text(alphabet="ab 'é你好カ。，“”()–-!1", max_size=30))
def test_no_character_but_spaces_is_lost_or_moved(text: str) -> None:
    words = split_words(text)
    assert "".join("".join(words).split()) == "".join(text.split())
    assert all(words)
    if len(words) > 1:
        assert all(sounds(word) for word in words)


def test_the_sounds_of_a_word_are_its_letters_and_digits() -> None:
    assert [sounds(word) for word in ["“Don't!”", "well-known", "界。", "3.5 %", "…", "'tis"]] == [
        *("Don't", "wellknown", "界", "35", "", "'tis")
    ]


def test_a_words_confidence_is_the_mean_of_its_own_tokens() -> None:
    tokens = encode_answer(byte_tokenizer(), "so, 你好", language="en")
    log_probs = [-0.001 * index for index in range(len(tokens))]
    at = len(tokens) - len("so, 你好".encode()) - 1  # a token per byte, and the end token
    words = word_confidences(byte_tokenizer(), tokens, log_probs, "so, 你好")
    assert [word.text for word in words] == ["so,", "你", "好"]
    for word, (first, last) in zip(words, [(0, 3), (4, 7), (7, 10)], strict=True):
        own = log_probs[at + first : at + last]
        assert word.confidence == pytest.approx(math.exp(sum(own) / len(own)))
        assert (word.start_s, word.end_s) == (None, None)


def test_a_word_that_also_stands_in_the_header_is_looked_for_behind_it() -> None:
    tokens = encode_answer(byte_tokenizer(), "English", language="en")
    log_probs = [-9.0] * (len(tokens) - 8) + [-1.0] * 8
    (word,) = word_confidences(byte_tokenizer(), tokens, log_probs, "English")
    assert word.confidence == pytest.approx(math.exp(-1))


def test_a_word_that_was_not_said_has_no_confidence() -> None:
    tokens = encode_answer(byte_tokenizer(), "one three", language="en")
    words = word_confidences(byte_tokenizer(), tokens, [-1.0] * len(tokens), "one two three")
    assert [word.confidence is None for word in words] == [False, True, False]
