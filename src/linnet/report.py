"""What `evaluate` found: a row per corpus and condition, every utterance, and what it was measured with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.bundle import DESCRIPTION, Bundle
from linnet.environment import provenance
from linnet.errors import ConfigError
from linnet.metrics import ErrorRate, bootstrap_interval
from linnet.text import is_cjk

ALL, UNNAMED = "all", "(unnamed)"
_HEADER = ["corpus", "condition", "utts", "audio", "WER % [95 %]", "CER % [95 %]", "sub/del/ins", "failed", "RTF"]
_COMPARED = ["corpus", "condition", "utts", "rate", "here %", "there %", "difference [95 %]", "better in"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One utterance in one condition."""

    id: str
    corpus: str
    language: str | None
    noise: str | None
    """None when clean."""
    snr_db: float | None
    duration_s: float
    reference: str | None
    hypothesis: str | None
    """None if it failed."""
    error: str | None
    left_out: str | None
    """Why the rates leave it out: "failed", "no text" or "ref_quality"; None if it counts."""
    words: ErrorRate | None
    """Its word errors, characters of scripts without spaces counting as words; None if left out."""
    characters: ErrorRate | None
    processing_s: float


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An error rate with its 95 % bootstrap interval over utterances; NaN where there is no reference word."""

    rate: float
    low: float
    high: float
    errors: int
    total: int
    """Reference words (characters for CER)."""
    substitutions: int
    deletions: int
    insertions: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One corpus, or all of them, in one condition."""

    corpus: str
    noise: str | None
    snr_db: float | None
    utterances: int
    scored: int
    """Utterances that the rates count."""
    failures: int
    audio_s: float
    """Audio that was processed, unscored utterances included, failed ones not."""
    processing_s: float
    primary: str
    """"cer" if everything scored is Chinese, Cantonese or Japanese, otherwise "wer"."""
    wer: Interval
    cer: Interval

    @property
    def condition(self) -> str:
        """ "clean", the noise and its level, such as "babble 10 dB", or a damage without a level, such as "opus"."""
        return (self.noise or "clean") if self.snr_db is None else f"{self.noise} {self.snr_db:g} dB"

    def covers(self, corpus: str) -> bool:
        """Whether the row counts utterances of this corpus ("" where the manifest names none)."""
        return self.corpus in (ALL, corpus or UNNAMED)

    @property
    def rtf(self) -> float:
        """Processing time / audio time; NaN if nothing was processed."""
        return self.processing_s / self.audio_s if self.audio_s else math.nan


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row against a baseline on the same utterances; negative differences mean fewer errors than the baseline."""

    corpus: str
    condition: str
    metric: str
    """"wer" or "cer", as the row's primary rate."""
    utterances: int
    rate: float
    baseline_rate: float
    difference: float
    low: float
    high: float
    """95 % paired bootstrap interval of the difference."""
    share_better: float
    """Share of resamples with fewer errors than the baseline."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of `linnet.evaluate.evaluate`."""

    rows: tuple[Row, ...]
    utterances: tuple[Scored, ...]
    notes: tuple[str, ...]
    """What a reader of the rows must know, in sentences."""
    manifest: str | None
    seed: int
    settings: dict[str, Any]
    model: dict[str, Any]
    provenance: dict[str, Any]
    baseline: dict[str, Any] | None = None
    """The model that `comparisons` compare with."""
    comparisons: tuple[Comparison, ...] = ()

    @property
    def failures(self) -> tuple[Scored, ...]:
        """Utterances whose audio could not be used or on which the recogniser failed."""
        return tuple(utterance for utterance in self.utterances if utterance.error is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; numbers that do not exist are None."""
        plain = dataclasses.asdict(self)
        for record, row in zip(plain["rows"], self.rows, strict=True):
            record |= {"condition": row.condition, "rtf": row.rtf}
        cleaned: dict[str, Any] = _without_nan(plain)
        return cleaned

    def table(self) -> str:
        """Rows as aligned text, rates in per cent with their intervals, then the notes."""
        lines = _aligned([_HEADER, *(_cells(row) for row in self.rows)])
        if self.baseline:
            lines += ["", f"against {self.baseline['name']}, the same utterances:"]
            lines += _aligned([_COMPARED, *(_comparison_cells(comparison) for comparison in self.comparisons)])
        return "\n".join([*lines, *self.notes]) + "\n"


def make_report(
    scored: Sequence[Scored], *, bundle: Bundle, manifest: str | None, seed: int, settings: dict[str, Any]
) -> Report:
    """Sum up: a row per corpus in the order of the manifest and one for all, in every condition."""
    conditions = list(dict.fromkeys((utterance.noise, utterance.snr_db) for utterance in scored))
    corpora = list(dict.fromkeys(utterance.corpus for utterance in scored))
    rows = [
        _row(name, [one for one in scored if (one.noise, one.snr_db) == condition and has(one)], seed)
        for condition in conditions
        for name, has in [*((corpus or UNNAMED, _is_of(corpus)) for corpus in corpora), (ALL, lambda one: True)]
    ]
    return Report(
        rows=tuple(rows),
        utterances=tuple(scored),
        notes=tuple(_notes(scored, rows)),
        manifest=manifest,
        seed=seed,
        settings=settings,
        model={
            "name": bundle.name,
            "family": bundle.family,
            "precision": bundle.precision,
            "size_bytes": bundle.size_bytes,
            "sha256": _fingerprint(bundle),
            "provenance": bundle.provenance,
        },
        provenance=provenance(),
    )


def write_report(report: Report, path: Path) -> None:
    """The figures as one JSON object, with the utterances that failed; ConfigError if the file cannot be written.

    What was said and heard in every utterance is a file of its own (`write_predictions`), so that results stay small
    and free of other people's texts.
    """
    record = report.to_dict()
    record["failures"] = [one for one in record.pop("utterances") if one["error"] is not None]
    _write(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write_predictions(report: Report, path: Path) -> None:
    """One JSON object per utterance and condition; ConfigError if the file cannot be written."""
    _write(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in report.to_dict()["utterances"]))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from error


def _is_of(corpus: str) -> Callable[[Scored], bool]:
    return lambda scored: scored.corpus == corpus


def _row(corpus: str, chosen: list[Scored], seed: int) -> Row:
    counted = [one for one in chosen if one.left_out is None]
    processed = [one for one in chosen if one.error is None]
    return Row(
        corpus=corpus,
        noise=chosen[0].noise,
        snr_db=chosen[0].snr_db,
        utterances=len(chosen),
        scored=len(counted),
        failures=len(chosen) - len(processed),
        audio_s=sum(one.duration_s for one in processed),
        processing_s=sum(one.processing_s for one in processed),
        primary="cer" if counted and all(is_cjk(one.language) for one in counted) else "wer",
        wer=_interval([one.words for one in counted if one.words is not None], seed),
        cer=_interval([one.characters for one in counted if one.characters is not None], seed),
    )


def _interval(counts: list[ErrorRate], seed: int) -> Interval:
    errors, total = sum(count.errors for count in counts), sum(count.words for count in counts)
    low, high = math.nan, math.nan
    if total:
        low, high = bootstrap_interval([count.errors for count in counts], [count.words for count in counts], seed=seed)
    return Interval(
        rate=errors / total if total else math.nan,
        low=low,
        high=high,
        errors=errors,
        total=total,
        substitutions=sum(count.substitutions for count in counts),
        deletions=sum(count.deletions for count in counts),
        insertions=sum(count.insertions for count in counts),
    )


def _notes(scored: Sequence[Scored], rows: Sequence[Row]) -> list[str]:
    notes = []
    machine = {(one.corpus, one.id) for one in scored if one.left_out == "ref_quality"}
    unlabelled = {(one.corpus, one.id) for one in scored if one.left_out == "no text"}
    silent = sum(one.error is not None and one.left_out is None for one in scored)
    if machine:
        notes.append(f"{len(machine)} utterances have machine-made references (ref_quality); no rate counts them.")
    if unlabelled:
        notes.append(f"{len(unlabelled)} utterances have no reference text; no rate counts them.")
    if unusable := sum(one.left_out == "failed" for one in scored):
        notes.append(f"{unusable} transcriptions failed because of their audio; no rate counts them.")
    if silent:
        notes.append(f"{silent} transcriptions failed in the recogniser; they count as empty answers.")
    if any(row.primary == "cer" for row in rows):
        notes.append("Chinese, Cantonese and Japanese have no spaces between words; there the CER is the rate to read.")
    return notes


def _cells(row: Row) -> list[str]:
    primary = row.cer if row.primary == "cer" else row.wer
    return [
        row.corpus,
        row.condition,
        str(row.scored) if row.scored == row.utterances else f"{row.scored} of {row.utterances}",
        f"{row.audio_s / 60:.1f} min",
        "–" if row.primary == "cer" else _percent(row.wer),
        _percent(row.cer),
        f"{primary.substitutions}/{primary.deletions}/{primary.insertions}" if row.scored else "–",
        str(row.failures),
        "–" if math.isnan(row.rtf) else f"{row.rtf:.3f}",
    ]


def _comparison_cells(one: Comparison) -> list[str]:
    if math.isnan(one.difference):
        return [one.corpus, one.condition, str(one.utterances), one.metric.upper(), "–", "–", "–", "–"]
    return [
        one.corpus,
        one.condition,
        str(one.utterances),
        one.metric.upper(),
        f"{100 * one.rate:.2f}",
        f"{100 * one.baseline_rate:.2f}",
        f"{100 * one.difference:+.2f} [{100 * one.low:+.2f}, {100 * one.high:+.2f}]",
        f"{100 * one.share_better:.0f} %",
    ]


def _aligned(cells: list[list[str]]) -> list[str]:
    """Lines of a table: two columns of names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        names = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(names + numbers))
    return lines


def _percent(interval: Interval) -> str:
    if math.isnan(interval.rate):
        return "–"
    return f"{100 * interval.rate:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


def _fingerprint(bundle: Bundle) -> str | None:
    """SHA-256 of bundle.json, which holds the hashes of all files: one number that names the exact model."""
    description = bundle.path / DESCRIPTION
    return hashlib.sha256(description.read_bytes()).hexdigest() if description.is_file() else None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
