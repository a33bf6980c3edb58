"""The segments of one recording become its Transcription."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from linnet.results import Segment, Transcription
from linnet.text import is_cjk


def assemble(
    segments: Sequence[Segment], *, duration_s: float, model: str, processing_s: float, language: str | None = None
) -> Transcription:
    """Transcription of segments in order; `language` is the one that was forced, else the speech decides."""
    return Transcription(
        text=join_texts(segments),
        language=language or majority_language(segments),
        duration_s=duration_s,
        segments=tuple(segments),
        model=model,
        processing_s=processing_s,
    )


def join_texts(segments: Iterable[Segment]) -> str:
    """The segments' texts in one line: a space between them, but none between two written without spaces."""
    text, before = "", None
    for segment in segments:
        gap = "" if not text or (is_cjk(before) and is_cjk(segment.language)) else " "
        text, before = text + gap + segment.text, segment.language
    return text


def majority_language(segments: Iterable[Segment]) -> str | None:
    """Language of most of the speech, by duration; the earlier one if two have the same."""
    seconds: dict[str, float] = {}
    for segment in segments:
        if segment.language is not None:
            seconds[segment.language] = seconds.get(segment.language, 0.0) + segment.end_s - segment.start_s
    return max(seconds, key=lambda language: seconds[language], default=None)
