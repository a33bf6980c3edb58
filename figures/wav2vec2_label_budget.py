"""Character error rate by minutes of labels, pretrained and from random weights, from the results alone.

    python figures/wav2vec2_label_budget.py [--results results] [--out docs/images]

One dot per seed, a line through the means. Needs matplotlib.
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


def main() -> None:
    """Draw the figure, or say that there is nothing to draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    path = options.results / "wav2vec2_label_budget.json"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    if not cells:
        sys.stderr.write(f"{path} has no finished cells; run experiments/wav2vec2_label_budget.py\n")
        return
    corpora = sorted(cells[0]["test"]["greedy"])
    figure, axes = plt.subplots(1, len(corpora), figsize=(4.5 * len(corpora), 3.6), squeeze=False)
    for axis, corpus in zip(axes[0], corpora, strict=True):
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
        axis.set_ylim(bottom=0)
    axes[0][0].legend(frameon=False, fontsize=8)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "wav2vec2_label_budget.png", bbox_inches="tight", dpi=150)
    sys.stdout.write(f"{options.out / 'wav2vec2_label_budget.png'}\n")


if __name__ == "__main__":
    main()
