"""What a recogniser answers: words inside segments inside a transcription.

Frozen dataclasses with plain values only, so that results can be compared, pickled and written as JSON. Times are
seconds from the start of the recording; a confidence is the geometric mean of the probabilities of its tokens, in
0…1, or None where nothing honest is known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """One word, or one character where the language is written without spaces."""

    text: str
    start_s: float | None
    """None, as `end_s`, where words were not aligned with the sound."""
    end_s: float | None
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, keys as the field names."""
        return asdict(self)


@dataclass(frozen=True)
class Segment:
    """A stretch of speech that was recognised in one piece."""

    text: str
    start_s: float
    end_s: float
    language: str | None = None
    """ISO code such as "en", or None if unknown."""
    confidence: float | None = None
    words: tuple[Word, ...] = ()
    flags: tuple[str, ...] = ()
    """Machine-readable remarks such as "repetition"; never part of the text."""

    @property
    def has_word_times(self) -> bool:
        """Whether there are words and all of them have times."""
        return bool(self.words) and all(word.start_s is not None for word in self.words)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, keys as the field names; words and flags are lists."""
        return {**asdict(self), "words": [word.to_dict() for word in self.words], "flags": list(self.flags)}


@dataclass(frozen=True)
class Transcription:
    """Everything recognised in one recording. No speech is an empty text and no segments, not an error."""

    text: str
    language: str | None
    """ISO code of the language of most of the speech, or None if there was none."""
    duration_s: float
    """Length of the recording, silence included."""
    segments: tuple[Segment, ...]
    model: str
    processing_s: float | None = None
    """Wall-clock seconds the recognition took, or None if it was not measured."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, keys as the field names; segments is a list."""
        return {**asdict(self), "segments": [segment.to_dict() for segment in self.segments]}
