"""Word error rate over noise for sound, lips and four fusions, from results/avsr_noise.json alone.

    python figures/avsr_noise.py [--results results/avsr_noise.json] [--out docs/images]

Written as PNG and PDF. Bars are 95 % bootstrap intervals over utterances; what part of the grid exists is in the title.
Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "audio": "#444444",
    "video": "#999999",
    "simple": "#1f77b4",
    "weighted": "#2ca02c",
    "attention": "#d62728",
    "adaptive": "#ff7f0e",
}
OWN_STREAM = {"audio": "audio", "video": "video"}  # the systems of one stream; all others use both
NOISES = ("babble", "white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/avsr_noise.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150}
    figure = draw(json.loads(options.results.read_text()))
    for ending in ("png", "pdf"):
        metadata = {"CreationDate": None} if ending == "pdf" else None
        figure.savefig(options.out / f"avsr_noise.{ending}", bbox_inches="tight", metadata=metadata)
    sys.stdout.write(f"{options.out / 'avsr_noise.png'}\n")


def draw(result: dict[str, Any]) -> plt.Figure:
    """A row per corpus, a column per noise."""
    corpora = sorted(result["grid"], reverse=True)  # drawn mouths above real ones
    size = (9.5, 3.2 * len(corpora))
    figure, axes = plt.subplots(len(corpora), 2, figsize=size, sharey="row", squeeze=False, layout="constrained")
    for row, corpus in zip(axes, corpora, strict=True):
        for axis, noise in zip(row, NOISES, strict=True):
            panel(axis, [one for one in result["rows"] if one["corpus"] == corpus], noise)
            axis.set_title(f"{corpus.replace('_', ' ')}, {noise}")
        row[0].set_ylabel("word error rate, %")
        row[0].set_ylim(0, 105)
    seeds = sorted({seed for systems in result["grid"].values() for known in systems.values() for seed in known})
    whole = "" if result["complete"] else ", a part of the grid"
    figure.suptitle(f"Sound, lips, and both: seed {', '.join(map(str, seeds))}{whole}")
    axes[0][1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def panel(axis: plt.Axes, rows: list[dict[str, Any]], noise: str) -> None:
    levels = sorted({level_of(row) for row in rows if row["condition"].startswith(noise)}, reverse=True)
    places = {"clean": 0} | {f"{noise} {level:g} dB": place for place, level in enumerate(levels, start=1)}
    for number, (system, colour) in enumerate(COLOURS.items()):
        own = [row for row in rows if row["system"] == system and row["stream"] == OWN_STREAM.get(system, "both")]
        found = {row["condition"]: row for row in own if row["condition"] in places}
        if not found:
            continue
        if system == "video":  # the same in any noise
            rate = 100 * found["clean"]["wer"]
            axis.axhline(rate, color=colour, linestyle="--", label="video")
            continue
        x = [places[condition] + 0.05 * (number - 2.5) for condition in found]
        y = [100 * row["wer"] for row in found.values()]
        bars = [[a - 100 * row["low"] for a, row in zip(y, found.values(), strict=True)],
                [100 * row["high"] - a for a, row in zip(y, found.values(), strict=True)]]  # fmt: skip
        axis.errorbar(x, y, yerr=bars, color=colour, marker="o", markersize=3, linewidth=1, capsize=2, label=system)
    axis.set_xticks(list(places.values()), ["clean", *(f"{level:g}" for level in levels)])
    axis.set_xlabel("signal-to-noise ratio, dB")


def level_of(row: dict[str, Any]) -> float:
    return float(row["condition"].split()[1])


if __name__ == "__main__":
    main()
