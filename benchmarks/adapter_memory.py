"""Peak memory of adapter training against the plan: train two steps of one clip each, in a process of its own.

    python benchmarks/adapter_memory.py CHECKPOINT --results results/adapter_memory.json

CHECKPOINT is a Qwen3-ASR checkpoint folder; random weights do, since memory does not depend on them, but no token's
embedding may be zero: a position that is zero in all layers multiplies the gradient by 1000 in each of them. On a CPU
the peak is the process's resident set. Finished cases are kept, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from linnet.audio import write_audio
from linnet.environment import provenance
from linnet.export.qwen3_asr_adapter import AdapterConfig
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.manifest import Utterance, write_manifest
from linnet.models.presets import ADAPTER
from linnet.models.qwen3_asr.adapter_config import AdapterTrainConfig
from linnet.models.qwen3_asr.memory import make_plan

RATE_HZ, SEED = 16_000, 0
CASES = [  # loss, site, seconds of audio, backbone
    ("feature", "encoder.output", 10.0, "bf16"),
    ("feature", "encoder.8", 10.0, "bf16"),
    ("feature", "encoder.output", 30.0, "bf16"),
    ("feature", "encoder.8", 30.0, "bf16"),
    ("ce", "encoder.output", 10.0, "bf16"),
    ("feature", "encoder.8", 30.0, "int8"),
    ("ce", "encoder.output", 10.0, "int8"),
    ("ce", "encoder.output", 10.0, "int4"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results/adapter_memory.json"))
    parser.add_argument("--case", type=int, help="internal: train this case and print the peak")
    options = parser.parse_args()
    if options.case is not None:
        print(measure(options.checkpoint, *CASES[options.case]))
        return
    known = json.loads(options.results.read_text()) if options.results.exists() else {"cases": []}
    done = {
        tuple(case[key] for key in ("checkpoint", "loss", "site", "audio_s", "backbone")) for case in known["cases"]
    }
    for number, (loss, site, audio_s, backbone) in enumerate(CASES):
        if (options.checkpoint.name, loss, site, audio_s, backbone) in done:
            continue
        command = [sys.executable, __file__, str(options.checkpoint), "--case", str(number)]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # errors stay visible
        peak = int(found.stdout.split()[-1])
        case = {"checkpoint": options.checkpoint.name, "loss": loss, "site": site, "audio_s": audio_s,
                "backbone": backbone, "peak_bytes": peak}  # fmt: skip
        known["cases"].append(case)
        options.results.write_text(json.dumps(known | {"seed": SEED, "provenance": provenance()}, indent=2) + "\n")
    shape = read_config(options.checkpoint)
    for case in known["cases"]:  # finished ones as well: the plan may have changed since they were measured
        if case["checkpoint"] == options.checkpoint.name:
            loss, site, audio_s, backbone = (case[key] for key in ("loss", "site", "audio_s", "backbone"))
            plan, peak = make_plan(config_for(loss, site, audio_s, backbone), shape, audio_s), case["peak_bytes"]
            case |= {"plan_bytes": plan.total, "plan_over_peak": round(plan.total / peak, 3),
                     "plan": dataclasses.asdict(plan)}  # fmt: skip
            print(f"{loss:8} {site:15} {audio_s:5.0f} s  {backbone}  measured {peak / 1e6:7.0f} MB  "
                  f"plan {plan.total / 1e6:7.0f} MB")  # fmt: skip
    options.results.write_text(json.dumps(known | {"seed": SEED, "provenance": provenance()}, indent=2) + "\n")


def config_for(loss: Any, site: str, audio_s: float, backbone: Any, **fields: Any) -> AdapterTrainConfig:
    """The training of one case."""
    adapter = AdapterConfig(mode="gate", bottleneck=128, sites=(site,))
    return replace(
        ADAPTER, adapter=adapter, loss=loss, backbone=backbone, batch_audio_s=audio_s, max_duration_s=audio_s + 1,
        steps=2, warmup_steps=0, noise_probability=1.0, threads=1, validate_every=2, save_every=2, **fields
    )  # fmt: skip


def measure(checkpoint: Path, loss: str, site: str, audio_s: float, backbone: str) -> int:
    """Peak resident set in bytes after two steps."""
    import resource

    from linnet.train.trainer import fit

    with tempfile.TemporaryDirectory() as folder:
        work, rng = Path(folder), np.random.default_rng(SEED)
        utterances = []
        for index in range(2):
            samples = (0.1 * rng.standard_normal(int(audio_s * RATE_HZ))).astype(np.float32)
            write_audio(work / f"{index}.wav", samples, RATE_HZ)
            text = "word " * int(audio_s * 2.5)
            utterances.append(Utterance(audio_path=work / f"{index}.wav", duration_s=audio_s, text=text, language="en"))
        write_manifest(work / "clips.jsonl", utterances)
        manifests = (work / "clips.jsonl",)
        fit(
            config_for(loss, site, audio_s, backbone, base=checkpoint, train_manifests=manifests, run_dir=work / "run"),
            quiet=True,
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
