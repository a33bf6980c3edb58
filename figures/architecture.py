"""Where adapters sit in Qwen3-ASR, and what is inside one: drawn from the code's own names.

    python figures/architecture.py [--out docs/images]

Written as PNG and PDF. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

FROZEN, TRAINED, PLAIN = "#dfe7f2", "#f6c995", "#ffffff"
NETWORK = [
    ("log-mel, 128 bands", PLAIN),
    ("3 convolutions per chunk", FROZEN),
    ("encoder layers 0 … k", FROZEN),
    ("adapter  encoder.k", TRAINED),
    ("encoder layers k+1 …", FROZEN),
    ("projection to the decoder", FROZEN),
    ("adapter  encoder.output", TRAINED),
    ("Qwen3 decoder", FROZEN),
    ("text", PLAIN),
]
BRANCH = [
    ("x: tokens of one attention window", PLAIN),
    ("LayerNorm", TRAINED),
    ("down: D → b", TRAINED),
    ("mix along time: nothing, GELU, Re(F₂D),\nHartley, or learned filter + GELU", TRAINED),
    ("up: b → D, zero at first", TRAINED),
    ("x + branch", PLAIN),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 5.4), dpi=150)
    stack(axes[0], NETWORK, "Qwen3-ASR: blue is frozen, orange is trained")
    stack(axes[1], BRANCH, "one adapter")
    for ending in ("png", "pdf"):
        metadata = {"CreationDate": None} if ending == "pdf" else None
        figure.savefig(options.out / f"adapter_architecture.{ending}", bbox_inches="tight", metadata=metadata)


def stack(axis: plt.Axes, boxes: list[tuple[str, str]], title: str) -> None:
    """Boxes from top to bottom with arrows between them."""
    for row, (label, colour) in enumerate(boxes):
        y = len(boxes) - row
        axis.add_patch(FancyBboxPatch((0.1, y - 0.3), 3.8, 0.6, boxstyle="round,pad=0.02", facecolor=colour, lw=0.8))
        axis.text(2, y, label, ha="center", va="center", fontsize=9)
        if row + 1 < len(boxes):
            axis.annotate("", (2, y - 0.68), (2, y - 0.32), arrowprops={"arrowstyle": "->", "lw": 0.8})
    axis.set(xlim=(0, 4), ylim=(0.4, len(boxes) + 0.6), title=title)
    axis.axis("off")


if __name__ == "__main__":
    main()
