"""What bits, convolution and the entropy term do for a tokenizer: the tiny preset, three seeds, one change at a time.

    python experiments/bsq_ablation.py --data DATA --work runs/bsq-ablation --steps 300

Arms: 36 bits (the preset), 9 and 18 bits, 36 bits without convolution, 36 bits without the entropy term. Every arm sees
the same data in the same order for the same number of updates, per seed. Figures are those of validation on the dev
manifest, of the averaged weights after the last update: log-mel distance in dB of the decoder's picture and its wave,
entropy of single bits per token. Runs that are there are not made again, so that an interrupted command goes on;
results/bsq_ablation.json names the runs that are missing (`complete: false`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from linnet.environment import provenance
from linnet.models.bsq.config import BSQTrainConfig
from linnet.models.presets import BSQ_TINY
from linnet.train.trainer import fit

FIGURES = ("dev_mel_db", "dev_wave_mel_db", "dev_bit_entropy", "dev_distinct_tokens")


def arms() -> dict[str, BSQTrainConfig]:
    """One change each."""
    shape = BSQ_TINY.shape
    return {
        "36 bits": BSQ_TINY,
        # The temperature of the entropy term follows the bits, as in the presets.
        "18 bits": replace(BSQ_TINY, shape=replace(shape, bits=18), inverse_temperature=15.0, entropy_weight=0.15),
        "9 bits": replace(BSQ_TINY, shape=replace(shape, bits=9), inverse_temperature=7.5, entropy_weight=0.075),
        "36 bits, no convolution": replace(BSQ_TINY, shape=replace(shape, convolution=False)),
        "36 bits, no entropy term": replace(BSQ_TINY, entropy_weight=0.0),
    }


def main() -> None:
    """Train what is missing, seed after seed, and write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl, unlabelled.jsonl, dev.jsonl")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("results/bsq_ablation.json"))
    options = parser.parse_args()

    for seed in options.seeds:
        for name, arm in arms().items():
            run = options.work / f"{name.replace(' ', '-').replace(',', '')}-{options.steps}-{seed}"
            if finished(run):
                continue
            config = replace(
                arm,
                run_dir=run,
                seed=seed,
                steps=options.steps,
                warmup_steps=min(50, options.steps // 4),
                average_weights=0.98,
                threads=options.threads,
                train_manifests=(options.data / "train.jsonl", options.data / "unlabelled.jsonl"),
                dev_manifests=(options.data / "dev.jsonl",),
                validate_every=options.steps,
                save_every=options.steps,
            )
            fit(config, resume=run.exists(), quiet=True)
            write(options.work, options.steps, options.seeds, options.out)
    write(options.work, options.steps, options.seeds, options.out)


def finished(run: Path) -> bool:
    """Whether the run has been validated at its end."""
    log = run / "metrics.jsonl"
    return log.exists() and any("dev_mel_db" in line for line in log.read_text().splitlines())


def write(work: Path, steps: int, seeds: list[int], out: Path) -> None:
    """The table of all runs there are."""
    rows = {}
    for name in arms():
        found = {}
        for seed in seeds:
            run = work / f"{name.replace(' ', '-').replace(',', '')}-{steps}-{seed}"
            if finished(run):
                records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
                last = [record for record in records if "dev_mel_db" in record][-1]
                found[seed] = {figure: last[figure] for figure in FIGURES if figure in last}
        rows[name] = {"seeds": found} | {
            figure: {
                "mean": statistics.mean(values),
                "sd": statistics.stdev(values) if len(values) > 1 else None,
            }
            for figure in FIGURES
            if (values := [one[figure] for one in found.values() if figure in one])
        }
    complete = all(len(row["seeds"]) == len(seeds) for row in rows.values())
    report = {"steps": steps, "seeds": seeds, "complete": complete, "arms": rows, "environment": provenance()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
