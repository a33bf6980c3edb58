"""Qwen3-ASR's prompt and answer format: the one place that knows its markers. Pure and torch-free; training uses it.

The chat template of the official checkpoint (qwen-asr 0.0.6, chat_template.json), with one `<|audio_pad|>` per encoder
token, and the answer that the model gives:

    <|im_start|>system\\n{context}<|im_end|>\\n
    <|im_start|>user\\n<|audio_start|><|audio_pad|>…<|audio_end|><|im_end|>\\n
    <|im_start|>assistant\\n[language X<asr_text>]          ← bracketed when the language is forced
    language X<asr_text>the words<|im_end|>
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linnet.errors import BundleError
from linnet.text import LANGUAGES, language_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
AUDIO_START, AUDIO_PAD, AUDIO_END = "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"
TEXT_MARKER = "<asr_text>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, START, END, AUDIO_START, AUDIO_END, AUDIO_PAD, TEXT_MARKER)
"""The strings every Qwen3-ASR tokenizer must have as single tokens, in the order of the official ids."""


@dataclass(frozen=True)
class PromptTokens:
    """Token ids before and after the audio; the encoder's output takes the place of the pads between them."""

    prefix: tuple[int, ...]
    audio_pad_id: int
    audio_tokens: int
    suffix: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        """The whole prompt, as the official processor writes it: prefix, pads, suffix."""
        return [*self.prefix, *[self.audio_pad_id] * self.audio_tokens, *self.suffix]


@dataclass(frozen=True)
class Answer:
    """What the model said: the Qwen name of the language (None if it named none we know) and the words."""

    language: str | None
    text: str


def build_prompt(
    tokenizer: Tokenizer, audio_tokens: int, *, context: str = "", language: str | None = None
) -> PromptTokens:
    """Prompt for a clip of `audio_tokens` encoder tokens.

    `context` (hot words, topic) is plain text: a special token's string inside it stays text. `language` (code or
    name) forces the language; LanguageError if it is not one of Qwen3-ASR's. BundleError if the tokenizer lacks a
    special token.
    """
    answer_start = f"language {language_name(language)}{TEXT_MARKER}" if language else ""
    start, end = (token_id(tokenizer, token) for token in (START, END))
    return PromptTokens(
        prefix=(
            start,
            *encode_plain(tokenizer, f"system\n{context}"),
            end,
            *_encode(tokenizer, f"\n{START}user\n{AUDIO_START}"),
        ),
        audio_pad_id=token_id(tokenizer, AUDIO_PAD),
        audio_tokens=audio_tokens,
        suffix=tuple(_encode(tokenizer, f"{AUDIO_END}{END}\n{START}assistant\n{answer_start}")),
    )


def encode_answer(tokenizer: Tokenizer, text: str, *, language: str | None) -> list[int]:
    """Training target `language X<asr_text>text<|im_end|>`; `language None` if the language is unknown."""
    name = language_name(language) if language else "None"
    marker, end = token_id(tokenizer, TEXT_MARKER), token_id(tokenizer, END)
    return [*_encode(tokenizer, f"language {name}"), marker, *encode_plain(tokenizer, text), end]


def parse_answer(text: str, *, forced_language: str | None = None) -> Answer:
    """Split an answer (decoded with its special tokens) into language and words; no marker ever stays in the words.

    `forced_language` (code or name) is the one the prompt ended with, so the answer starts with the words. Without it,
    a missing or broken header gives language None. Several blocks are joined with a space; the first language counts.
    """
    language = language_name(forced_language) if forced_language else None
    # Control tokens first, so that a header split by one is seen whole; then the marker, whole or half-written.
    clean = _PARTIAL_MARKER_AT_END.sub("", _CONTROL_TOKEN.sub(" ", text))
    *blocks, last = _MARKER.split(clean)
    words = []
    for position, block in enumerate(blocks):
        # Right before a marker stands a header. An unforced answer starts with one, even if it is misspelt.
        must_be_header = position == 0 and not forced_language
        header = (_LOOSE_HEADER.fullmatch(block) if must_be_header else None) or _HEADER_AT_END.search(block)
        if header:
            language = language or _known(header["names"])
            block = block[: header.start()]
        words.append(block)
    if not blocks and not forced_language and (header := _HEADER_WITHOUT_MARKER.match(last)):
        language, last = _known(header["name"]), last[header.end() :]
    return Answer(language, " ".join(" ".join([*words, last]).split()))


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a special token; BundleError if the tokenizer does not know it."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise BundleError(
            f"The tokenizer has no special token {token!r}; a Qwen3-ASR bundle needs {', '.join(SPECIAL_TOKENS)}. "
            "Export the bundle again with the checkpoint's own tokenizer."
        )
    return int(found)


def encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` in which no special token is honoured: `<|im_end|>` becomes the characters it is written with."""
    specials = [str(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
    if not any(special in text for special in specials):
        return _encode(tokenizer, text)
    # A string cut after its first character is no special token any more; the ids still decode to the same text.
    inside = re.compile("|".join(f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in specials if len(s) > 1))
    return [token for piece in inside.split(text) for token in _encode(tokenizer, piece)]


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: Sequence[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return list(ids)


def _known(names: str) -> str | None:
    """First language of a header's list ("Chinese,English") that Qwen3-ASR has."""
    for name in names.split(","):
        if (found := _BY_LOWER_NAME.get(name.strip().lower())) is not None:
            return found
    return None


_BY_LOWER_NAME = {name.lower(): name for name in LANGUAGES.values()}
_CONTROL_TOKEN = re.compile(r"<\|im_start\|>(?:system|user|assistant)\b|<\|[A-Za-z0-9_]*\|?>?")
_MARKER = re.compile(r"</?asr(?:_t?e?x?t?)?\|?>?")
_PARTIAL_MARKER_AT_END = re.compile(r"</?as?$")
_NAMES = r"(?P<names>[A-Za-z]+(?:\s*,\s*[A-Za-z]+)*)"
_HEADER_AT_END = re.compile(rf"(?<![A-Za-z])language\s+{_NAMES}\s*$", re.IGNORECASE)
_LOOSE_HEADER = re.compile(r"\s*language\b(?P<names>[^\n]{0,40})", re.IGNORECASE)
_HEADER_WITHOUT_MARKER = re.compile(
    rf"\s*language\s+(?P<name>none|{'|'.join(map(re.escape, _BY_LOWER_NAME))})(?![A-Za-z])[\s:]*", re.IGNORECASE
)
