"""The small byte-level BPE of models trained from scratch: lossless, Qwen's special tokens, reproducible."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from linnet.models.qwen3_asr.tokenizer import train_tokenizer
from linnet.runtime.prompt import SPECIAL_TOKENS, TEXT_MARKER, build_prompt, encode_answer, encode_plain, parse_answer

TEXTS = ["one two three", "the cat sat on the mat", "it's seven o'clock", "你好", "zero nine eight"]


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    decoded = tokenizer.decode(encode_plain(tokenizer, text), skip_special_tokens=False)
    assert decoded == unicodedata.normalize("NFC", text)


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_a_training_answer_is_parsed_back(tokenizer: Tokenizer, text: str) -> None:
    words = "".join(character for character in text if character.isalnum() or character == " ")
    answer = encode_answer(tokenizer, f" {words}", language="en")
    parsed = parse_answer(tokenizer.decode(answer, skip_special_tokens=False))
    assert parsed.language == "English"
    assert parsed.text == " ".join(unicodedata.normalize("NFC", words).split())


def test_special_tokens_are_single_and_follow_the_vocabulary(tokenizer: Tokenizer) -> None:
    size = tokenizer.get_vocab_size()
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    assert ids == list(range(size - len(SPECIAL_TOKENS), size))
    for token, number in zip(SPECIAL_TOKENS, ids, strict=True):
        assert tokenizer.encode(f"a{token}b", add_special_tokens=False).ids[1] == number


def test_only_the_text_marker_is_decoded_as_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("".join(SPECIAL_TOKENS), add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT_MARKER
    assert tokenizer.decode(ids, skip_special_tokens=False) == "".join(SPECIAL_TOKENS)


@pytest.mark.parametrize("size", [280, 300, 320])
def test_the_vocabulary_has_the_size_asked_for(size: int) -> None:
    assert train_tokenizer(TEXTS, vocab_size=size).get_vocab_size() == size


def test_few_texts_give_a_smaller_vocabulary() -> None:
    made = train_tokenizer(["one"], vocab_size=5000)
    assert 256 + len(SPECIAL_TOKENS) < made.get_vocab_size() < 400


def test_prompts_stay_short(tokenizer: Tokenizer) -> None:
    # 7 control tokens, 3 role names, 5 line breaks; the answer's header is `language`, ` English`, the marker.
    assert len(build_prompt(tokenizer, 0).ids) <= 16
    assert [len(tokenizer.encode(word, add_special_tokens=False).ids) for word in ("language", " English")] == [1, 1]


def test_frequent_words_with_their_space_become_one_token() -> None:
    made = train_tokenizer(["one two"] * 50 + ["three"], vocab_size=400)
    assert len(made.encode(" one two", add_special_tokens=False).ids) == 2


def test_training_is_reproducible_in_another_process() -> None:
    # A resumed run trains its tokenizer again; other ids would make nonsense of its weights.
    code = (
        "import hashlib; from linnet.models.qwen3_asr.tokenizer import train_tokenizer as t; "
        f"print(hashlib.sha256(t({TEXTS!r}, vocab_size=330).to_str().encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hashlib.sha256(train_tokenizer(TEXTS, vocab_size=330).to_str().encode()).hexdigest()
    assert done.stdout.strip() == here
