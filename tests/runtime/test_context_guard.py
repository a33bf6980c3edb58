"""Context that leaks into the text, and context that helps."""

from __future__ import annotations

import pytest

from linnet.runtime.context_guard import is_heard, is_suspect

HOT = "Linnet, Qwen, Hangzhou, Dr. Szymborska, BSQ"


@pytest.mark.parametrize(
    "answer", ["Linnet, Qwen, Hangzhou", "Linnet Qwen Hangzhou Dr Szymborska BSQ.", "Linnet.", "Uh Qwen"]
)
def test_answers_made_of_the_context_are_suspect(answer: str) -> None:
    assert is_suspect(answer, HOT)


@pytest.mark.parametrize(
    "answer", ["", "I met Dr. Szymborska in Hangzhou last week", "we asked Qwen about the weather"]
)
def test_names_inside_other_words_are_not(answer: str) -> None:
    assert not is_suspect(answer, HOT)


def test_nothing_is_suspect_without_context() -> None:
    assert not is_suspect("Linnet", "")


def test_chinese_is_compared_by_character() -> None:
    assert is_suspect("微信支付，支付宝", "微信支付、支付宝、银联")
    assert not is_suspect("我想用微信支付这个订单的钱可以吗", "微信支付、支付宝、银联")


@pytest.mark.parametrize(
    ("answer", "plain"),
    [("Linnet, Qwen", "lynette, quen"), ("Szymborska", "shimborska"), ("微信支付", "威信知府"), ("Linnet.", "linnet")],
)
def test_a_name_spelt_as_it_sounds_supports_the_answer(answer: str, plain: str) -> None:
    assert is_heard(answer, plain)


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("Linnet, Qwen, Hangzhou", ""),
        ("Linnet, Qwen, Hangzhou", "I'll have the soup"),
        ("微信支付，支付宝，银联", "今天天气很好我们走吧"),
        ("微信支付", ""),
        ("微信支付", "嗯"),
    ],
)
def test_silence_and_other_speech_do_not(answer: str, plain: str) -> None:
    assert not is_heard(answer, plain)
