"""How good and how fast: error rates with intervals, SI-SDR, real-time factor.

Rates are corpus rates, the sum of all errors over the sum of all reference units, not the mean of utterance rates.
Intervals are percentile bootstraps over utterances (Bisani & Ney, ICASSP 2004), since errors within one utterance
are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.errors import AudioContentError, ConfigError
from linnet.text import normalize, words

_BLOCK_CELLS = 1 << 22  # resample counts held at once: 32 MB


@dataclass(frozen=True)
class ErrorRate:
    """Edit operations from the references to the hypotheses, at the least total number."""

    rate: float
    """errors / words; above 1 with many insertions, NaN where the references hold no word at all."""
    errors: int
    words: int
    """Reference words; characters for `cer`."""
    substitutions: int
    deletions: int
    insertions: int


@dataclass(frozen=True)
class PairedDifference:
    """Error rate of system A minus that of system B on the same utterances; negative means A is better."""

    difference: float
    low: float
    high: float
    share_a_better: float
    """Share of the resamples in which A makes fewer errors than B (ties count half)."""


def wer(references: Sequence[str], hypotheses: Sequence[str], *, language: str | None = None) -> ErrorRate:
    """Word error rate of normalised texts; Han, kana and Thai characters count as words (see `linnet.text.words`).

    An empty reference contributes its hypothesis as insertions, an empty hypothesis its reference as deletions. The
    counts of one utterance are those of lists of one.
    """
    pairs = _pairs(references, hypotheses)
    return _align([(words(reference, language), words(hypothesis, language)) for reference, hypothesis in pairs])


def cer(references: Sequence[str], hypotheses: Sequence[str], *, language: str | None = None) -> ErrorRate:
    """Character error rate of normalised texts; a space between words is a character too, as in jiwer."""
    pairs = _pairs(references, hypotheses)
    return _align([(_characters(reference, language), _characters(hypothesis, language))
                   for reference, hypothesis in pairs])  # fmt: skip


def bootstrap_interval(
    errors: npt.ArrayLike, words: npt.ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval (low, high) of sum(errors) / sum(words) over utterances drawn with replacement.

    `errors` and `words` are [U], one number per utterance. The same seed gives the same interval. Resamples without
    a single reference word are left out; without any word at all the interval is (NaN, NaN).
    """
    error_counts, word_counts = _counts(errors, words)
    totals = _resample(np.stack([error_counts, word_counts], axis=1), resamples, seed)
    return _percentiles(totals[:, 0], totals[:, 1], level)


def paired_bootstrap(
    errors_a: npt.ArrayLike,
    errors_b: npt.ArrayLike,
    words: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Whether A differs from B: both are scored on the same resampled utterances, so hard utterances cancel out.

    All arrays are [U]. An interval that excludes 0 is a difference that does not hang on the choice of utterances.
    """
    a, word_counts = _counts(errors_a, words)
    b, _ = _counts(errors_b, words)
    totals = _resample(np.stack([a - b, word_counts], axis=1), resamples, seed)
    low, high = _percentiles(totals[:, 0], totals[:, 1], level)
    total_words = word_counts.sum()
    difference = float((a - b).sum() / total_words) if total_words else math.nan
    better = float(np.mean(totals[:, 0] < 0) + np.mean(totals[:, 0] == 0) / 2)
    return PairedDifference(difference, low, high, better)


def si_sdr(reference: npt.ArrayLike, estimate: npt.ArrayLike) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of two mono signals [N] (Le Roux et al. 2019, means removed).

    Infinite for a scaled copy of the reference, −inf for silence. AudioContentError if the shapes differ or the
    reference is silent, which leaves nothing to compare with.
    """
    target, guess = np.asarray(reference, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if target.ndim != 1 or target.shape != guess.shape or target.size == 0:
        raise AudioContentError(f"si_sdr needs two signals of one shape [N], got {target.shape} and {guess.shape}.")
    target, guess = target - target.mean(), guess - guess.mean()
    energy = float(target @ target)
    if energy == 0:
        raise AudioContentError("si_sdr needs a reference with sound in it, got one that is constant.")
    projection = target * (float(guess @ target) / energy)
    kept, lost = float(projection @ projection), float(np.sum((guess - projection) ** 2))
    # Rounding alone leaves about 1e-32 of the energy behind; that is a perfect copy.
    if lost <= kept * 1e-28:
        return math.inf if kept else -math.inf
    return 10 * math.log10(kept / lost) if kept else -math.inf


def rtfx(audio_s: float, processing_s: float) -> float:
    """Seconds of audio handled per second of work (higher is better; the real-time factor is its inverse)."""
    if not (audio_s >= 0 and processing_s > 0):
        raise ConfigError(f"rtfx needs audio_s ≥ 0 and processing_s > 0, got {audio_s} and {processing_s}.")
    return audio_s / processing_s


def _pairs(references: Sequence[str], hypotheses: Sequence[str]) -> list[tuple[str, str]]:
    if isinstance(references, str) or isinstance(hypotheses, str):
        raise ConfigError("Error rates need lists of texts, got one text; put it in a list.")
    if len(references) != len(hypotheses):
        raise ConfigError(
            f"Every reference needs its hypothesis, got {len(references)} references and {len(hypotheses)} hypotheses."
        )
    return list(zip(references, hypotheses, strict=True))


def _characters(text: str, language: str | None) -> list[str]:
    return ["␣" if char == " " else char for char in normalize(text, language)]  # "␣" never survives normalisation


def _align(pairs: list[tuple[list[str], list[str]]]) -> ErrorRate:
    import jiwer

    if not pairs:
        return ErrorRate(math.nan, 0, 0, 0, 0, 0)
    found = jiwer.process_words(
        [" ".join(reference) for reference, _ in pairs], [" ".join(guess) for _, guess in pairs]
    )
    errors = found.substitutions + found.deletions + found.insertions
    total = found.hits + found.substitutions + found.deletions
    rate = errors / total if total else math.nan
    return ErrorRate(rate, errors, total, found.substitutions, found.deletions, found.insertions)


def _counts(errors: npt.ArrayLike, words: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    error_counts, word_counts = np.asarray(errors, dtype=np.float64), np.asarray(words, dtype=np.float64)
    if error_counts.ndim != 1 or error_counts.shape != word_counts.shape or error_counts.size == 0:
        raise ConfigError(
            f"A bootstrap needs one error count and one word count per utterance, got shapes {error_counts.shape} "
            f"and {word_counts.shape}; accepted: two of [U] with U ≥ 1."
        )
    return error_counts, word_counts


def _resample(values: npt.NDArray[np.float64], resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Column sums [R, K] over utterances drawn with replacement from values [U, K]."""
    if resamples < 100:
        raise ConfigError(f"A percentile interval needs at least 100 resamples, got {resamples}.")
    rng, utterances = np.random.default_rng(seed), len(values)
    block = max(1, _BLOCK_CELLS // utterances)
    return np.concatenate([
        rng.multinomial(utterances, np.full(utterances, 1 / utterances), size=min(block, resamples - start)) @ values
        for start in range(0, resamples, block)
    ])  # fmt: skip


def _percentiles(errors: npt.NDArray[np.float64], words: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ConfigError(f"A confidence level lies between 0 and 1, got {level}.")
    counted = words > 0
    if not counted.any():
        return math.nan, math.nan
    tail = 50 * (1 - level)
    low, high = np.percentile(errors[counted] / words[counted], [tail, 100 - tail])
    return float(low), float(high)
