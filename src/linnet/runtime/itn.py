"""Inverse text normalisation: numbers, dates and amounts as they are written ("twenty five dollars" → "$25").

The rules are those of WeTextProcessing, through its runtime `wetext` (the extra `[itn]`), for Chinese, English and
Japanese. Text in other languages stays as it is. Words keep their spoken form and their times.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from linnet.errors import MissingExtraError
from linnet.results import Transcription
from linnet.runtime.assemble import join_texts

LANGUAGES = {"zh": "zh", "yue": "zh", "en": "en", "ja": "ja"}
"""Language of the text → language of the rules."""


class InverseNormalizer:
    """Rewrites texts; the rules of a language are opened when they are first needed."""

    def __init__(self) -> None:
        """Raises MissingExtraError without `linnet[itn]`."""
        try:
            from wetext import Normalizer
        except ImportError as missing:
            raise MissingExtraError("Inverse text normalisation", "itn", "wetext") from missing
        self._open: Any = Normalizer
        self._rules: dict[str, Any] = {}

    def text(self, text: str, language: str | None) -> str:
        """The text as it is written; unchanged if there are no rules for the language."""
        code = LANGUAGES.get(language or "")
        if code is None or not text:
            return text
        if code not in self._rules:
            self._rules[code] = self._open(lang=code, operator="itn")
        return str(self._rules[code].normalize(text)) or text

    def __call__(self, transcription: Transcription) -> Transcription:
        """The transcription with all its texts rewritten, segment by segment."""
        segments = tuple(replace(one, text=self.text(one.text, one.language)) for one in transcription.segments)
        return replace(transcription, segments=segments, text=join_texts(segments))
