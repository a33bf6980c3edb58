"""Character error rate and training loss by minutes of labels, pretrained and from random weights, from the results.

    python figures/wav2vec2_label_budget.py [--results results] [--out docs/images]

One dot per seed, a line through the means; one line per cell for the loss. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STARTS = {"pretrained": "tab:blue", "random": "tab:orange"}
STYLES = {5: ":", 15: "--", 60: "-"}


def main() -> None:
    """Draw the figure, or say that there is nothing to draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    path = options.results / "wav2vec2_label_budget.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": []}
    cells = results["cells"]
    if not cells:
        sys.stderr.write(f"{path} has no finished cells; run experiments/wav2vec2_label_budget.py\n")
        return
    corpora = sorted(cells[0]["test"]["greedy"])
    figure, axes = plt.subplots(1, len(corpora) + 1, figsize=(4.5 * len(corpora) + 4.5, 3.6), squeeze=False)
    for axis, corpus in zip(axes[0], corpora, strict=False):
        for start, colour in STARTS.items():
            for decoding, style in (("greedy", "-"), ("lm", "--")):
                points = [(cell["minutes"], cell["test"][decoding][corpus]["cer"])
                          for cell in cells if cell["start"] == start]  # fmt: skip
                budgets = sorted({minutes for minutes, _ in points})
                means = [sum(cer for m, cer in points if m == minutes) / sum(m == minutes for m, _ in points)
                         for minutes in budgets]  # fmt: skip
                axis.plot(budgets, means, style, color=colour, label=f"{start}, {decoding}")
                axis.plot(*zip(*points, strict=True), ".", color=colour) if points else None
        axis.set(xscale="log", xticks=[5, 15, 60], xticklabels=["5", "15", "60"], title=corpus)
        axis.set(xlabel="minutes of labels", ylabel="character error rate")
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
    every = results["fine_tuning"]["training_ctc_every"]
    for cell in cells:
        losses = cell["training_ctc"]
        updates = [every * (index + 1) for index in range(len(losses))]
        label = f"{cell['start']}, {cell['minutes']} min" if cell["seed"] == cells[0]["seed"] else None
        axes[0][-1].plot(updates, losses, STYLES[cell["minutes"]], color=STARTS[cell["start"]], label=label)
    axes[0][-1].set(title="training", xlabel="updates", ylabel="CTC loss per character (nats)", ylim=(0, 4))
    axes[0][-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes[0][0].legend(frameon=False, fontsize=8)
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "pdf"):
        path = options.out / f"wav2vec2_label_budget.{kind}"
        figure.savefig(path, bbox_inches="tight", dpi=150)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
