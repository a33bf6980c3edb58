"""What an adapter adds to the encoder's time in ONNX Runtime: processor time for a window of 8 s, in turns,
the median of the ratios of each turn with its 95 % interval.

    python benchmarks/adapter_overhead.py CHECKPOINT --results results/adapter_overhead.json

CHECKPOINT is a Qwen3-ASR checkpoint folder; random weights do, since time does not depend on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from linnet.environment import provenance
from linnet.export.qwen3_asr_adapter import OUTPUT, AdapterConfig, AdapterFile, count_parameters, parameter_shapes
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.export.qwen3_asr_encoder import write_encoder
from linnet.export.safetensors import open_checkpoint
from linnet.runtime.encoder import Encoder

PRECISION, FRAMES, REPEATS = "int8", 800, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results/adapter_overhead.json"))
    options = parser.parse_args()
    shape = read_config(options.checkpoint)
    every = tuple(f"encoder.{layer}" for layer in range(shape.encoder_layers))
    adapters = {
        "base": None,
        "base again": None,  # two sessions of one graph differ too: the noise of the table
        "gate 128, output": AdapterConfig(mode="gate", bottleneck=128, sites=(OUTPUT,)),
        "gate 128, every layer": AdapterConfig(mode="gate", bottleneck=128, sites=every),
        "linear 128, every layer": AdapterConfig(mode="linear", bottleneck=128, sites=every),
    }
    rng, encoders = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as work, open_checkpoint(options.checkpoint) as tensors:
        for name, config in adapters.items():
            folder = Path(work) / name.replace(" ", "-")
            folder.mkdir()
            stored = None
            if config is not None:
                shapes = parameter_shapes(config, shape)
                arrays = {key: 0.02 * rng.standard_normal(size, np.float32) for key, size in shapes.items()}
                stored = AdapterFile(config, "", arrays)
            write_encoder(tensors, shape, folder, precision=PRECISION, adapter=stored)
            encoders[name] = Encoder(folder, shape, threads=1)
        mel = rng.standard_normal((shape.n_mels, FRAMES), np.float32)
        spent: dict[str, list[float]] = {name: [] for name in encoders}
        for turn in range(REPEATS):
            for name in list(encoders)[:: 1 if turn % 2 else -1]:
                started = time.process_time()
                encoders[name](mel)
                spent[name].append(time.process_time() - started)
    rows = [
        {
            "name": name,
            "adapter": None if (config := adapters[name]) is None else dataclasses.asdict(config),
            "parameters": 0 if config is None else count_parameters(config, shape),
            "cpu_s": times,
            "median_cpu_s": float(np.median(times)),
            **overhead(np.array(times) / np.array(spent["base"])),
        }
        for name, times in spent.items()
    ]
    about = {"checkpoint": options.checkpoint.name, "precision": PRECISION, "audio_s": FRAMES / 100, "threads": 1}
    options.results.write_text(json.dumps({**about, "rows": rows, "provenance": provenance()}, indent=2) + "\n")
    for row in rows:
        low, high = (100 * bound for bound in row["interval"])
        print(f"{row['name']:26} {row['median_cpu_s']:.3f} s  {100 * row['overhead']:+.1f} % [{low:+.1f}, {high:+.1f}]")


def overhead(ratios: np.ndarray) -> dict[str, object]:
    """Median of the ratios of neighbouring runs, less one, and its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {
        "overhead": round(float(np.median(ratios)) - 1, 4),
        "interval": [round(float(low) - 1, 4), round(float(high) - 1, 4)],
    }


if __name__ == "__main__":
    main()
