"""How fast tokenizers of the presets' shapes encode and decode: random weights, since speed does not depend on them.

    python benchmarks/bsq.py --presets bsq-tiny bsq-18 --precisions fp32 int8 --threads 2

Wall-clock and CPU seconds per second of audio, for encoding and for decoding through the waveform head, median of the
repeats after one that does not count. CPU seconds tell more than wall-clock on a machine that does other work as well.
The answer goes to stdout and to results/bsq_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from linnet.bundle import write_bundle
from linnet.environment import provenance
from linnet.models.bsq.config import BSQTrainConfig
from linnet.models.bsq.graph import PRECISIONS, write_graphs
from linnet.models.bsq.model import BSQ
from linnet.models.presets import PRESETS
from linnet.noise import pink
from linnet.runtime.bsq import BSQCodec
from linnet.runtime.bsq_config import BSQConfig

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name, preset in PRESETS.items() if isinstance(preset, BSQTrainConfig)]
    parser.add_argument("--presets", nargs="+", choices=names, default=["bsq-tiny", "bsq-9", "bsq-18"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "int8", "int8_blocks"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--audio-s", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bsq_speed.json")
    options = parser.parse_args()

    rows = []
    for name in options.presets:
        preset = PRESETS[name]
        assert isinstance(preset, BSQTrainConfig)
        weights = {key: value.detach().numpy() for key, value in BSQ(preset.shape).named_parameters()}
        for precision in options.precisions:
            row = measure(weights, preset.shape, precision, options.threads, options.audio_s, options.repeats)
            rows.append({"preset": name, "precision": precision, **row})
            print(json.dumps(rows[-1]), flush=True)
    load = os.getloadavg()[0]
    report = {"threads": options.threads, "audio_s": options.audio_s, "load_average": load, "rows": rows}
    options.out.write_text(json.dumps(report | {"environment": provenance()}, indent=2) + "\n")


def measure(
    weights: dict[str, Any], config: BSQConfig, precision: str, threads: int, audio_s: float, repeats: int
) -> dict[str, float]:
    """One row of the report."""
    rate_hz = config.features.sample_rate_hz
    samples = 0.1 * pink(round(audio_s * rate_hz), rate_hz=rate_hz, rng=np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(weights, config, Path(folder), precision=precision)
        bundle = write_bundle(
            folder, name="speed", family="bsq", model=config.to_dict(), features=config.features, provenance={},
            precision={"encoder": precision, "decoder": precision}, languages=(), parity={},
        )  # fmt: skip
        codec = BSQCodec(bundle, threads=threads)
        codes = codec.encode(samples, sample_rate_hz=rate_hz)
        encoded = median(lambda: codec.encode(samples, sample_rate_hz=rate_hz), repeats)
        decoded = median(lambda: codec.decode(codes, vocoder="head"), repeats)
        size_mb = bundle.size_bytes / 1e6
    return {
        "parameters_millions": round(sum(value.size for value in weights.values()) / 1e6, 2),
        "size_mb": round(size_mb, 2),
        "encode_rtf": round(encoded[0] / audio_s, 4),
        "decode_rtf": round(decoded[0] / audio_s, 4),
        "encode_cpu_s_per_s": round(encoded[1] / audio_s, 4),
        "decode_cpu_s_per_s": round(decoded[1] / audio_s, 4),
    }


def median(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)


if __name__ == "__main__":
    main()
