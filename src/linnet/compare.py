"""Two systems on the same utterances: a paired bootstrap of their error rates in every condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from linnet.errors import ConfigError
from linnet.metrics import ErrorRate, paired_bootstrap
from linnet.report import Comparison, Report, Row, Scored


def compare(report: Report, baseline: Report) -> Report:
    """`report` with a comparison per row of it: its error rate minus the baseline's, on utterances that both score.

    Raises ConfigError if the reports share no utterance in a condition, as those of different manifests.
    """
    comparisons = [_compared(row, report, baseline) for row in report.rows]
    return replace(report, baseline=baseline.model, comparisons=tuple(comparisons))


def _compared(row: Row, report: Report, baseline: Report) -> Comparison:
    ours, theirs = (_by_id(row, one.utterances) for one in (report, baseline))
    shared = [key for key in ours if key in theirs]
    if ours and not shared:
        raise ConfigError(
            f"The two reports share no utterance in {row.corpus}, {row.condition}; evaluate both on one manifest."
        )
    a, b = [ours[key] for key in shared], [theirs[key] for key in shared]
    total = sum(count.words for count in a)
    nan = math.nan
    if not total:
        return Comparison(corpus=row.corpus, condition=row.condition, metric=row.primary, utterances=0,
                          rate=nan, baseline_rate=nan, difference=nan, low=nan, high=nan, share_better=nan)  # fmt: skip
    errors = [count.errors for count in a], [count.errors for count in b]
    found = paired_bootstrap(*errors, [count.words for count in a], seed=report.seed)
    return Comparison(
        corpus=row.corpus,
        condition=row.condition,
        metric=row.primary,
        utterances=len(shared),
        rate=sum(errors[0]) / total,
        baseline_rate=sum(errors[1]) / total,
        difference=found.difference,
        low=found.low,
        high=found.high,
        share_better=found.share_a_better,
    )


def _by_id(row: Row, utterances: Sequence[Scored]) -> dict[tuple[str, str], ErrorRate]:
    """The counts of a row's utterances."""
    counts = {}
    for one in utterances:
        if (one.noise, one.snr_db) == (row.noise, row.snr_db) and row.covers(one.corpus) and one.left_out is None:
            count = one.characters if row.primary == "cer" else one.words
            assert count is not None
            counts[(one.corpus, one.id)] = count
    return counts
