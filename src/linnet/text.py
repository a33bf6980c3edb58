"""Languages by name and code, and the text normalisation that scoring uses.

Scoring compares what was said, not how it was typeset: case, punctuation and spacing never count, words, digits and
accents do. Numbers are not spelled out ("7" and "seven" differ), abbreviations are not expanded. Han, kana and Thai
are written without spaces; there each character is one unit, in every language, so mixed text needs no special case.
"""

from __future__ import annotations

import difflib
import re
import unicodedata

from linnet.errors import LanguageError

LANGUAGES: dict[str, str] = {
    "zh": "Chinese",
    "en": "English",
    "yue": "Cantonese",
    "ar": "Arabic",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "pt": "Portuguese",
    "id": "Indonesian",
    "it": "Italian",
    "ko": "Korean",
    "ru": "Russian",
    "th": "Thai",
    "vi": "Vietnamese",
    "ja": "Japanese",
    "tr": "Turkish",
    "hi": "Hindi",
    "ms": "Malay",
    "nl": "Dutch",
    "sv": "Swedish",
    "da": "Danish",
    "fi": "Finnish",
    "pl": "Polish",
    "cs": "Czech",
    "fil": "Filipino",
    "fa": "Persian",
    "el": "Greek",
    "ro": "Romanian",
    "hu": "Hungarian",
    "mk": "Macedonian",
}
"""ISO 639 code → the name Qwen3-ASR answers with, for its 30 languages in the order of its configuration."""

_ALIASES = {
    "cmn": "zh",
    "mandarin": "zh",
    "tl": "fil",
    "tagalog": "fil",
    "farsi": "fa",
    "zh-hk": "yue",
    "zh-yue": "yue",
}
_CODES = {name.lower(): code for code, name in LANGUAGES.items()} | {code: code for code in LANGUAGES} | _ALIASES

# Scripts without spaces between words: Han with 々 and 〇, kana, Thai.
_UNSPACED = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u0e00-\u0e7f"
_UNITS = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_SPACE_NEXT_TO_UNSPACED = re.compile(f"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))  # NFKC would turn ´ into a space with an accent
_ACRONYM = re.compile(r"(?<!\w)(?:[^\W\d_]\.){2,}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_INNER = re.compile(r"(?<=\w)'(?=\w)|(?<=\d)\.(?=\d)")  # don't, 3.5


def normalize(text: str, language: str | None = None) -> str:
    """The text as scoring sees it: NFKC, lower case, single spaces, no punctuation.

    Apostrophes inside words and decimal points stay, thousands separators and the dots of acronyms go (U.S. → us),
    hyphens and all other punctuation and symbols separate words. Spaces beside Han, kana and Thai are dropped.
    `language` (a code, a name, or None) matters only for Turkish, whose I has another lower case.
    """
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES)
    if language and _code(language) == "tr":
        text = text.replace("İ", "i").replace("I", "ı")
    text = _ACRONYM.sub(lambda match: match[0].replace(".", ""), text.lower())
    text = _THOUSANDS.sub("", text)
    kept = {match.start() for match in _INNER.finditer(text)}
    text = "".join(char if index in kept or _counts(char) else " " for index, char in enumerate(text))
    return _SPACE_NEXT_TO_UNSPACED.sub("", " ".join(text.split()))


def words(text: str, language: str | None = None) -> list[str]:
    """The units that the word error rate counts, of the normalised text: words, or characters of unspaced scripts."""
    return _UNITS.findall(normalize(text, language))


def is_cjk(language: str | None) -> bool:
    """Whether words of this language (code or name) are written without spaces in Han or kana: zh, yue, ja.

    Korean has spaces. An unknown language, "" or None is not.
    """
    return language is not None and _code(language) in ("zh", "yue", "ja")


def language_code(name: str) -> str:
    """The code in LANGUAGES of a language given by code, name or tag, in any case: "Chinese", "ZH", "zh-CN" → "zh".

    Raises LanguageError for anything else; "auto" and None are for the caller to handle.
    """
    code = _code(name)
    if code is None:
        known = {**{code: code for code in LANGUAGES}, **{full.lower(): full for full in LANGUAGES.values()}}
        close = difflib.get_close_matches(name.strip().lower(), known, n=1)
        raise LanguageError(
            f"Unknown language {name!r}{f'; did you mean {known[close[0]]!r}?' if close else '.'} Accepted: "
            f"{', '.join(f'{full} ({code})' for code, full in LANGUAGES.items())}."
        )
    return code


def language_name(code_or_name: str) -> str:
    """The name Qwen3-ASR uses, for example "Chinese" for "zh", "zh-CN" or "chinese"; LanguageError as language_code."""
    return LANGUAGES[language_code(code_or_name)]


def _code(language: str) -> str | None:
    wanted = language.strip().lower().replace("_", "-")
    return _CODES.get(wanted) or _CODES.get(wanted.split("-")[0])


def _counts(char: str) -> bool:
    """Letters, digits and the marks that vowels are in many scripts; not punctuation, symbols, control characters."""
    return unicodedata.category(char)[0] in "LNM"
