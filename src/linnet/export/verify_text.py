"""Error rates of two bundles on the same recordings, per language, and whether they differ. Torch-free.

Where a recording has a transcript, both are scored against it and the difference gets a paired bootstrap interval
(Bisani & Ney, ICASSP 2004). Recordings without one still tell how often the two disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from linnet.evaluate import evaluate
from linnet.metrics import ErrorRate, PairedDifference, paired_bootstrap, wer
from linnet.report import Scored
from linnet.runtime.base import Recognizer


@dataclass(frozen=True, kw_only=True)
class TextParity:
    """One language: error rates of the bundle and of the reference, their difference, and how often they disagree."""

    language: str
    utterances: int
    """With a transcript; the rates count these."""
    words: int
    wer: float | None
    reference_wer: float | None
    wer_difference: float | None
    """Positive: the bundle makes more errors than the reference."""
    wer_low: float | None
    """95 % interval of the difference."""
    wer_high: float | None
    cer_difference: float | None
    cer_low: float | None
    cer_high: float | None
    disagreement: float | None
    """Words of the bundle that differ from the reference's, over all recordings, transcript or not."""


def compare_text(
    bundle: Recognizer,
    reference: Recognizer,
    manifest: str | Path,
    *,
    progress: Callable[[float, float], None] | None = None,
) -> tuple[TextParity, ...]:
    """Transcribe a manifest with both and compare, language by language ("all" first if there are several).

    Raises ManifestError, or ConfigError for a manifest without utterances. Recordings that either cannot read are left
    out for both.
    """

    def show(part: int) -> Callable[[float, float], None] | None:
        return None if progress is None else lambda done, total: progress(part * total + done, 2 * total)

    ours = evaluate(bundle, manifest, progress=show(0)).utterances
    theirs = evaluate(reference, manifest, progress=show(1)).utterances
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.hypothesis is not None and b.hypothesis is not None]
    by_language: dict[str, list[tuple[Scored, Scored]]] = defaultdict(list)
    for a, b in pairs:
        by_language[a.language or "unknown"].append((a, b))
    rows = [_row(language, found) for language, found in sorted(by_language.items())]
    return (_row("all", pairs), *rows) if len(rows) > 1 else tuple(rows)


def _row(language: str, pairs: Sequence[tuple[Scored, Scored]]) -> TextParity:
    words = [(a.words, b.words) for a, b in pairs if a.words is not None and b.words is not None]
    characters = [
        (a.characters, b.characters) for a, b in pairs if a.characters is not None and b.characters is not None
    ]
    total = sum(a.words for a, _ in words)
    errors, reference_errors = sum(a.errors for a, _ in words), sum(b.errors for _, b in words)
    by_word, by_character = _paired(words), _paired(characters)
    code = None if language in ("all", "unknown") else language
    agreement = wer([b.hypothesis or "" for _, b in pairs], [a.hypothesis or "" for a, _ in pairs], language=code)
    return TextParity(
        language=language,
        utterances=len(words),
        words=total,
        wer=errors / total if total else None,
        reference_wer=reference_errors / total if total else None,
        wer_difference=None if by_word is None else by_word.difference,
        wer_low=None if by_word is None else by_word.low,
        wer_high=None if by_word is None else by_word.high,
        cer_difference=None if by_character is None else by_character.difference,
        cer_low=None if by_character is None else by_character.low,
        cer_high=None if by_character is None else by_character.high,
        disagreement=agreement.rate if agreement.words else None,
    )


def _paired(rates: Sequence[tuple[ErrorRate, ErrorRate]]) -> PairedDifference | None:
    """Difference of two systems' error rates; None without a single reference word."""
    if not sum(a.words for a, _ in rates):
        return None
    return paired_bootstrap([a.errors for a, _ in rates], [b.errors for _, b in rates], [a.words for a, _ in rates])
