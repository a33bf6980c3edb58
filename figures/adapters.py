"""Figures of the adapter experiments, from their results alone: robustness, bottleneck, placement, loss, memory.

    python figures/adapters.py [--results results] [--out docs/images]

Each is written as PNG and PDF; a figure whose result is not there is left out and named. Needs matplotlib.
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
import numpy as np

DIGITS, SENTENCES = "fsdd", "speechocean762"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150}
    for name, draw in (
        ("noise_robustness", robustness),
        ("adapter_bottleneck", bottleneck),
        ("adapter_placement", bars),
        ("adapter_loss", bars),
        ("adapter_memory", memory),
        ("adapter_overhead", overhead),
    ):
        path = options.results / f"{name}.json"
        if not path.exists():
            sys.stderr.write(f"{path} is not there; {name} is left out\n")
            continue
        figure = draw(json.loads(path.read_text()))
        for ending in ("png", "pdf"):
            metadata = {"CreationDate": None} if ending == "pdf" else None
            figure.savefig(options.out / f"{name}.{ending}", bbox_inches="tight", metadata=metadata)
        plt.close(figure)
        sys.stdout.write(f"{options.out / name}.png\n")


def robustness(result: dict[str, Any]) -> plt.Figure:
    """Distance to the clean features and errors per condition, one line of dots per system."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    systems = list(dict.fromkeys(row["system"] for row in result["rows"]))
    for axis, corpus, key, title in (
        (axes[0, 0], DIGITS, "distance", "digits: distance to clean features"),
        (axes[0, 1], SENTENCES, "distance", "sentences: distance to clean features"),
        (axes[1, 0], DIGITS, "cer", "digits: CER minus base, points (95 %)"),
        (axes[1, 1], SENTENCES, "cer", "sentences: CER minus base, points (95 %)"),
    ):
        rows = [row for row in result["rows"] if row["corpus"] == corpus]
        conditions = list(dict.fromkeys(row["condition"] for row in rows))
        for place, name in enumerate(systems):
            own = [next(row for row in rows if (row["system"], row["condition"]) == (name, c)) for c in conditions]
            x = np.arange(len(own)) + 0.09 * (place - len(systems) / 2)
            if key == "distance":
                values = np.array([np.mean(row[key]) for row in own])
                spread = np.array([[v - min(r[key]), max(r[key]) - v] for v, r in zip(values, own, strict=True)]).T
            else:
                values = 100 * np.array([row["difference"] for row in own])
                spread = 100 * np.array([[r["difference"] - r["low"], r["high"] - r["difference"]] for r in own]).T
            axis.errorbar(x, values, np.abs(spread), fmt="o", markersize=3, linewidth=1, label=name)
        if key == "distance":
            bases = [next(r["base_distance"] for r in rows if r["condition"] == c) for c in conditions]
            axis.plot(range(len(bases)), bases, "k_", markersize=14, label="base")
        else:
            axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(conditions)), conditions, rotation=40, ha="right")
        axis.set_title(title)
    axes[0, 0].legend(fontsize=7)
    return figure


def bottleneck(result: dict[str, Any]) -> plt.Figure:
    """Mean difference in noise against the encoder's extra time; the thin lines reach to the best and worst seed."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, corpus, title in ((axes[0], DIGITS, "digits"), (axes[1], SENTENCES, "sentences")):
        for system in result["systems"]:
            rows = [row for row in result["rows"] if (row["system"], row["corpus"]) == (system["name"], corpus)
                    and row["condition"] != "clean"]  # fmt: skip
            seeds = 100 * np.mean([np.array(row["cer"]) - row["base_cer"] for row in rows], axis=0)
            x = 100 * result.get("overhead", {}).get(system["name"], np.nan)
            size = f"{system['name']} ({system['parameters'] / 1e3:.0f} k)"
            span = [[seeds.mean() - seeds.min()], [seeds.max() - seeds.mean()]]
            axis.errorbar(x, seeds.mean(), span, fmt="o", label=size)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xlabel="encoder time over the base, %", ylabel="mean ΔCER in noise, points", title=title)
    axes[1].legend(fontsize=8)
    return figure


def bars(result: dict[str, Any]) -> plt.Figure:
    """Clean cost and gain in noise per system; dots are seeds."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    names = [system["name"] for system in result["systems"] if result["seeds_done"][system["name"]]]
    for axis, key, corpus, title in (
        (axes[0], "distance", SENTENCES, "sentences: distance to clean features"),
        (axes[1], "cer", DIGITS, "digits: CER"),
        (axes[2], "cer", SENTENCES, "sentences: CER"),
    ):
        for shift, clean in ((-0.2, True), (0.2, False)):
            rows = [[row for row in result["rows"] if (row["system"], row["corpus"]) == (name, corpus)
                     and (row["condition"] == "clean") == clean] for name in names]  # fmt: skip
            per_seed = [np.mean([row[key] for row in own], axis=0) for own in rows]
            x = np.arange(len(names)) + shift
            axis.bar(x, [seeds.mean() for seeds in per_seed], 0.36, label="clean" if clean else "noise")
            for place, seeds in zip(x, per_seed, strict=True):
                axis.plot([place] * len(seeds), seeds, "k.", markersize=3)
            base = np.mean([row[f"base_{key}"] for row in rows[0]])
            axis.axhline(base, color="C0" if clean else "C1", linestyle=":", linewidth=1)
        axis.set_xticks(range(len(names)), names)
        axis.set_title(f"{title} (dotted: base)", fontsize=9)
    axes[0].legend()
    return figure


def memory(result: dict[str, Any]) -> plt.Figure:
    """Measured peak beside the plan's parts."""
    figure, axis = plt.subplots(figsize=(7, 5.2))
    labels, parts = [], ("baseline", "weights", "adapter", "gradients", "optimizer", "activations")
    ordered = sorted(
        result["cases"], key=lambda case: (case["checkpoint"], case["backbone"], case["loss"]), reverse=True
    )
    for place, case in enumerate(ordered):
        bottom = 0.0
        for index, part in enumerate(parts):
            size = case["plan"][part] / 1e6
            axis.barh(place - 0.2, size, 0.36, left=bottom, color=f"C{index}", label=part if place == 0 else None)
            bottom += size
        axis.barh(place + 0.2, case["peak_bytes"] / 1e6, 0.36, color="black", label="measured" if place == 0 else None)
        labels.append(
            f"{case['checkpoint']} {case['backbone']}, {case['loss']}, {case['site']}, {case['audio_s']:.0f} s"
        )
    axis.set_yticks(range(len(labels)), labels)
    axis.axvline(4000, color="black", linestyle=":", linewidth=1)
    axis.set_xlabel("MB (dotted: 4 GB)")
    axis.legend(fontsize=7)
    return figure


def overhead(result: dict[str, Any]) -> plt.Figure:
    """Parameters and extra encoder time with its 95 % interval."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), sharey=True)
    rows = [row for row in result["rows"] if row["adapter"]]
    names = [row["name"] for row in rows]
    axes[0].barh(names, [row["parameters"] / 1e6 for row in rows])
    axes[0].set_xlabel("million parameters")
    values = np.array([100 * row["overhead"] for row in rows])
    low, high = 100 * np.array([row["interval"] for row in rows]).T
    axes[1].barh(names, values, xerr=[values - low, high - values], error_kw={"linewidth": 1})
    axes[1].axvline(5, color="black", linestyle=":", linewidth=1)
    axes[1].set_xlabel("encoder time over the base, % (dotted: 5)")
    return figure


if __name__ == "__main__":
    main()
