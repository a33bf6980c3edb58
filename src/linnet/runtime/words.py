"""The words of a text as they are shown and timed, and how sure the model was of each.

A word is what stands between spaces; Han and kana are one word per character. Punctuation belongs to the word it
touches, an opening bracket or quotation mark to the next one, so the words of a text hold all of it but the spaces.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from linnet.results import Word

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CHARACTER = re.compile(
    "[\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_OPENING = {"Ps", "Pi"}  # brackets and quotation marks that open


def split_words(text: str) -> list[str]:
    """Words with their punctuation, in order; a text without letters and digits is one word, or none if it is empty."""
    words: list[str] = []
    waiting = ""  # what belongs to the next word
    for piece in text.split():
        fresh = True  # nothing of this piece is in a word yet
        for unit in _units(piece):
            if any(_is_sound(char) for char in unit):
                words.append(waiting + unit)
                waiting, fresh = "", False
            elif waiting or unicodedata.category(unit[-1]) in _OPENING or not words:
                waiting += unit
            else:
                words[-1] += (" " if fresh else "") + unit
                fresh = False
    if waiting:
        words = [*words[:-1], f"{words[-1]} {waiting}"] if words else [waiting]
    return words


def sounds(word: str) -> str:
    """A word without what has no sound: its letters, digits and apostrophes, as the forced aligner reads it."""
    return "".join(char for char in word if char == "'" or unicodedata.category(char)[0] in "LN")


def word_confidences(tokenizer: Tokenizer, tokens: Sequence[int], log_probs: Sequence[float], text: str) -> list[Word]:
    """The words of `text`, which stands in the answer `tokens`, without times.

    A confidence is the geometric mean of the probabilities of the tokens that have a part in the word; None for a word
    that is not found in the answer.
    """
    raw, owner = _spell(tokenizer, tokens)
    at = raw.rfind(b"<asr_text>") + 1
    words = []
    for word in split_words(text):
        pieces = word.encode().split()  # a dash on its own belongs to a word, after a space
        found: list[int] = []
        for piece in pieces:
            start = raw.find(piece, at)
            if start < 0:
                found = []
                break
            at = start + len(piece)
            found += owner[start:at]
        mean = [log_probs[index] for index in sorted(set(found))]
        words.append(Word(word, None, None, math.exp(sum(mean) / len(mean)) if mean else None))
    return words


def _spell(tokenizer: Tokenizer, tokens: Sequence[int]) -> tuple[bytes, list[int]]:
    """The bytes of an answer, and for each of them the index of its token."""
    alphabet = _byte_alphabet()
    spelt, owner = bytearray(), list[int]()
    for index, token in enumerate(tokens):
        piece = tokenizer.id_to_token(token) or ""
        known = all(char in alphabet for char in piece)
        data = bytes(alphabet[char] for char in piece) if known else piece.encode()
        spelt += data
        owner += [index] * len(data)
    return bytes(spelt), owner


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable alphabet of the 256 bytes, in which byte-level tokenizers write their tokens."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _units(piece: str) -> list[str]:
    """Characters of unspaced scripts alone; letters with all they touch together; other punctuation as it stands."""
    units: list[str] = []
    for char in piece:
        spelled = bool(_CHARACTER.match(char))
        last = units[-1] if units else ""
        touches = last and not _CHARACTER.match(last[-1]) and not _is_wide(last[-1])
        if touches and not spelled and not _is_wide(char):
            units[-1] += char
        else:
            units.append(char)
    return units


def _is_wide(char: str) -> bool:
    """Whether it is punctuation of unspaced scripts: 。，「 and the like."""
    return unicodedata.east_asian_width(char) in "WF" and not _is_sound(char)


def _is_sound(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNM"
