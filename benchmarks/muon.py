"""What one update of nano's matrices costs: Linnet's Muon beside torch's, in one run.

    python benchmarks/muon.py            # a thread; --threads 2 for more

Median of `--repeats` updates of every matrix that Muon moves in the `nano` preset, random gradients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

from linnet.environment import provenance
from linnet.models.presets import NANO
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.train.muon import Muon


def main() -> None:
    """Measure, print, write results/muon.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("results/muon.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = Qwen3ASR(NANO.shape)
    matrices = [value for name, value in network.named_parameters() if ".layers." in name and value.ndim == 2]
    torchs = torch.optim.Muon(copies(matrices), lr=1e-3, adjust_lr_fn="match_rms_adamw")
    seconds = {
        "linnet_s": median_update_s(Muon(copies(matrices), lr=1e-3, weight_decay=0.1), options.repeats),
        "torch_s": median_update_s(torchs, options.repeats),
    }
    report = {
        "matrices": len(matrices),
        "threads": options.threads,
        **{name: round(value, 4) for name, value in seconds.items()},
        "ratio": round(seconds["torch_s"] / seconds["linnet_s"], 2),
        "provenance": provenance() | {"torch": torch.__version__},
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps({key: value for key, value in report.items() if key != "provenance"}) + "\n")


def copies(matrices: list[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters of their own, with gradients."""
    made = [nn.Parameter(matrix.detach().clone()) for matrix in matrices]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return made


def median_update_s(optimizer: torch.optim.Optimizer, repeats: int) -> float:
    """Seconds of one step, after two that warm up."""
    taken = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        optimizer.step()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


if __name__ == "__main__":
    main()
