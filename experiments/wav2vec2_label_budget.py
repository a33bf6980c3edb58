"""How far do 5, 15 and 60 minutes of labels go, with wav2vec 2.0 pretraining and without?

    python experiments/wav2vec2_label_budget.py --data DATA --work WORK

Pretrains `wav2vec2-tiny` once on unlabelled.jsonl and the sound of train.jsonl. Then, for every budget and seed,
fine-tunes it, and trains the same network from random weights on the same labels for as many updates (matched control).
Labels are spoken digits as far as they go (16 minutes), words that so small a network can learn in minutes, and read
sentences beyond. All are scored on test utterances of spoken digits and of speechocean762, greedily and with a trigram
language model of the training texts. Every cell is a run folder in WORK; a second start goes on where the first one
stopped, and the results file holds what is finished: `cells_missing` counts what is not. When WORK holds the
pretraining, two processes, one with `--starts pretrained` and one with `--starts random`, share two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState

from linnet.bundle import Bundle
from linnet.errors import LinnetError
from linnet.manifest import Utterance, read_manifest, write_manifest
from linnet.models.presets import WAV2VEC2_TINY, WAV2VEC2_TINY_CTC
from linnet.report import Row
from linnet.train.run_folder import environment
from linnet.train.trainer import fit

MINUTES = (60, 15, 5)
SEEDS = (0, 1, 2)
T_95 = 4.303  # Student's t for three seeds
STARTS = ("pretrained", "random")
CORPORA = ("speechocean762", "fsdd", "ljspeech")
DIGITS = "fsdd"
TEST_CORPORA = ("speechocean762", "fsdd")
LOG_EVERY = 50


def main() -> None:
    """Train what is missing, evaluate, write the results after every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, dev, test and unlabelled.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and bundles")
    parser.add_argument("--results", type=Path, default=Path("results/wav2vec2_label_budget.json"))
    parser.add_argument("--pretraining-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=1500, help="updates of fine-tuning, for every cell the same")
    parser.add_argument("--test-utterances", type=int, default=250, help="of each test corpus")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, help="run these cells alone")
    parser.add_argument("--summarise", action="store_true", help="write and print what is finished, train nothing")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    cells = [(seed, minutes, start) for seed in SEEDS for minutes in MINUTES for start in STARTS]
    if options.summarise:
        sys.stdout.write(table(write_results(options, cells)))
        return
    pretrained = pretrain(options) if "pretrained" in options.starts else None
    for seed, minutes, start in cells:
        if start not in options.starts:
            continue
        run = fine_tune(options, seed, minutes, pretrained if start == "pretrained" else None)
        evaluate_cell(options, run)
        write_results(options, cells)


def pretrain(options: argparse.Namespace) -> Path:
    """The pretrained run; unlabelled speech and the sound of the training set."""
    run = options.work / "pretraining"
    config = replace(
        WAV2VEC2_TINY,
        run_dir=run,
        train_manifests=(options.data / "unlabelled.jsonl", options.data / "train.jsonl"),
        dev_manifests=(options.data / "dev.jsonl",),
        steps=options.pretraining_steps,
        validate_every=200,
        save_every=200,
        threads=options.threads,
    )
    train(config)
    return run


def fine_tune(options: argparse.Namespace, seed: int, minutes: int, pretrained: Path | None) -> Path:
    """One cell."""
    run = options.work / f"{'pretrained' if pretrained else 'random'}-{minutes}min-seed{seed}"
    manifest = options.work / f"labels-{minutes}min-seed{seed}.jsonl"
    if not manifest.exists():
        write_manifest(manifest, labelled(options.data / "train.jsonl", minutes, seed))
    config = replace(
        WAV2VEC2_TINY_CTC,
        run_dir=run,
        seed=seed,
        init_from=pretrained,
        train_manifests=(manifest,),
        dev_manifests=(options.data / "dev.jsonl",),
        dev_utterances=40,
        steps=options.steps,
        # All layers learn in both arms, convolutions too: so short a pretraining leaves none of them finished.
        freeze_feature_encoder=False,
        log_every=LOG_EVERY,
        validate_every=max(1, options.steps // 3),
        save_every=500,
        threads=options.threads,
    )
    train(config)
    return run


def train(config: object) -> None:
    """Start, or go on after an interruption, or do nothing if it is finished."""
    run: Path = config.run_dir  # type: ignore[attr-defined]
    log = run / "metrics.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])["step"] if log.exists() and log.read_text().strip() else 0
    if last >= config.steps and (run / "checkpoints" / "last").is_dir():  # type: ignore[attr-defined]
        return
    AcceleratorState._reset_state(reset_partial_state=True)
    fit(config, resume=(run / "config.json").exists(), quiet=True)  # type: ignore[arg-type]
    sys.stderr.write(f"{run.name}: done\n")


def labelled(manifest: Path, minutes: int, seed: int) -> list[Utterance]:
    """Random spoken digits up to `minutes`, then random sentences; the smaller budgets are inside the larger ones."""
    pool = [utterance for utterance in read_manifest(manifest) if utterance.corpus in CORPORA]
    order = np.random.default_rng([seed, 0x1AB]).permutation(len(pool))
    chosen, total_s = [], 0.0
    for index in sorted(order, key=lambda index: pool[index].corpus != DIGITS):  # stable: the order within stays
        total_s += pool[index].duration_s
        if total_s > 60 * minutes:
            break
        chosen.append(pool[index])
    return chosen


def evaluate_cell(options: argparse.Namespace, run: Path) -> None:
    """Error rates of one run, greedy and with the language model, beside the run."""
    from linnet.evaluate import evaluate
    from linnet.models.wav2vec2.export import export_run
    from linnet.runtime.loader import load_model

    if (run / "test.json").exists():
        return
    bundle = run / "bundle"
    if not bundle.exists():
        export_run(run, bundle, precision="fp32", checkpoint="last")
    found = {}
    for decoding in ("greedy", "lm"):
        if decoding == "lm":
            attach(options, read(bundle))
        recognizer = load_model(bundle, threads=options.threads)
        report = evaluate(recognizer, options.data / "test.jsonl", corpora=TEST_CORPORA, limit=options.test_utterances)
        recognizer.close()
        found[decoding] = {row.corpus: figures(row) for row in report.rows if row.corpus in TEST_CORPORA}
    (run / "test.json").write_text(json.dumps(found, indent=2) + "\n")


def figures(row: Row) -> dict[str, Any]:
    """Rates with 95 % intervals over utterances."""
    rates = {name: getattr(row, name) for name in ("wer", "cer")}
    return {
        **{name: interval.rate for name, interval in rates.items()},
        **{f"{name}_interval": [interval.low, interval.high] for name, interval in rates.items()},
        "utterances": row.scored,
    }


def attach(options: argparse.Namespace, bundle: Bundle) -> None:
    """Put the trigram model of all training texts into the bundle."""
    from linnet.verbs.lm import lm

    texts = options.work / "texts.txt"
    if not texts.exists():
        lines = [utterance.text or "" for utterance in read_manifest(options.data / "train.jsonl")
                 if utterance.corpus in CORPORA]  # fmt: skip
        texts.write_text("\n".join(lines) + "\n")
    lm(texts, options.work / "texts.arpa", bundle=bundle.path)


def read(folder: Path) -> Bundle:
    from linnet.bundle import read_bundle

    return read_bundle(folder)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def table(found: list[dict[str, Any]]) -> str:
    """Word and character error rates in per cent: the mean over seeds, lowest and highest in brackets."""
    lines = ["minutes  start       decoding  corpus           WER                  CER                  seeds"]
    for minutes in sorted(MINUTES):
        for start, decoding, corpus in itertools.product(STARTS, ("greedy", "lm"), TEST_CORPORA):
            tests = [cell["test"][decoding][corpus] for cell in found
                     if (cell["minutes"], cell["start"]) == (minutes, start)]  # fmt: skip
            if not tests:
                continue
            rates = []
            for name in ("wer", "cer"):
                each = [100 * test[name] for test in tests]
                rates.append(f"{sum(each) / len(each):5.1f} [{min(each):5.1f}, {max(each):5.1f}]")
            lines.append(f"{minutes:7}  {start:10}  {decoding:8}  {corpus:15}  {rates[0]}  {rates[1]}  {len(tests)}")
        for decoding, corpus in itertools.product(("greedy", "lm"), TEST_CORPORA):
            lines.append(
                f"{minutes:7}  difference  {decoding:8}  {corpus:15}  {difference(found, minutes, decoding, corpus)}"
            )
    return "\n".join(lines) + "\n"


def difference(found: list[dict[str, Any]], minutes: int, decoding: str, corpus: str) -> str:
    """WER with pretraining minus WER without, in points: mean over paired seeds and 95 % interval (Student's t)."""
    rates = {(cell["start"], cell["seed"]): 100 * cell["test"][decoding][corpus]["wer"]
             for cell in found if cell["minutes"] == minutes}  # fmt: skip
    if len(rates) < len(STARTS) * len(SEEDS):
        return "needs all seeds"
    pairs = np.array([rates["pretrained", seed] - rates["random", seed] for seed in SEEDS])
    half = T_95 * pairs.std(ddof=1) / len(pairs) ** 0.5
    return f"{pairs.mean():5.1f} [{pairs.mean() - half:5.1f}, {pairs.mean() + half:5.1f}]"


def write_results(options: argparse.Namespace, cells: list[tuple[int, int, str]]) -> list[dict[str, Any]]:
    """Everything that is finished; returns the cells."""
    found = []
    for seed, minutes, start in cells:
        run = options.work / f"{start}-{minutes}min-seed{seed}"
        if (run / "test.json").exists():
            found.append(
                {
                    "seed": seed,
                    "minutes": minutes,
                    "start": start,
                    "commit": json.loads((run / "meta.json").read_text())["commit"],
                    "training_ctc": [line["ctc"] for line in metrics(run) if "ctc" in line],
                    "test": json.loads((run / "test.json").read_text()),
                }
            )
    pretraining = options.work / "pretraining"
    lines = metrics(pretraining) if (pretraining / "metrics.jsonl").exists() else []
    validations = [line for line in lines if "dev_accuracy" in line]
    results = {
        "question": "error rates by minutes of labels, with pretraining and without",
        "cells": found,
        "cells_missing": len(cells) - len(found),
        "pretraining": {"steps": options.pretraining_steps, "seed": 0, "last_validation": validations[-1:]},
        "fine_tuning": {
            "steps": options.steps,
            "batch_audio_s": WAV2VEC2_TINY_CTC.batch_audio_s,
            "training_ctc_every": LOG_EVERY,
        },
        "environment": environment(),
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return found


if __name__ == "__main__":
    try:
        main()
    except LinnetError as error:
        raise SystemExit(f"wav2vec2_label_budget: {error}") from error
