"""What an audio-visual model makes of sound and sight together and of each alone, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from linnet.report import Interval, Report

MODALITIES = ("both", "audio", "video")
_NAMES = {"both": "audio+video", "audio": "audio", "video": "video"}


def modality_table(reports: Mapping[str, Report]) -> str:
    """Word error rates in per cent with their intervals: a line per corpus and condition, a column per modality.

    `reports` has a report per modality on the same manifest and noises. What is seen does not depend on noise, so the
    video column repeats its clean rate where the video report has no such row.
    """
    header = ["corpus", "condition", *(f"WER % {_NAMES[name]}" for name in reports), "failed"]
    lines = [header]
    clean = {(name, row.corpus): row for name, report in reports.items() for row in report.rows if row.noise is None}
    for row in next(iter(reports.values())).rows:
        cells, failed = [row.corpus, row.condition], 0
        for name, report in reports.items():
            same = [one for one in report.rows if (one.corpus, one.condition) == (row.corpus, row.condition)]
            found = same[0] if same else clean.get((name, row.corpus))
            cells.append("–" if found is None else _percent(found.wer))
            failed += found.failures if found else 0
        lines.append([*cells, str(failed)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(rows) + "\n"


def write_modalities(reports: Mapping[str, Report], path: Path) -> None:
    """All reports as one JSON object, a key per modality."""
    whole = {name: report.to_dict() for name, report in reports.items()}
    path.write_text(json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _percent(rate: Interval) -> str:
    return f"{100 * rate.rate:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
