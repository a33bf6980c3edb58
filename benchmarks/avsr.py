"""Latency of audio-visual recognition on a CPU: a clip of 3 s, batches of 1 and 4, the network and what precedes it.

    python benchmarks/avsr.py --bundle BUNDLE --repeats 100
    python benchmarks/avsr.py --bundle BUNDLE --video face.mp4      # also the time to find and crop a real mouth

Without --bundle, every preset is measured with random weights, which take as long as trained ones. p50 and p95 are over
repeats after ten that do not count; the answer goes to stdout and to results/avsr_latency.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from linnet.ctc import greedy
from linnet.environment import provenance
from linnet.export.avsr import write_avsr
from linnet.features import log_mel
from linnet.lips import read_mouth
from linnet.runtime.avsr_config import CLOCK_HZ, AVSRConfig, Vocabulary, read_model

ROOT = Path(__file__).parents[1]
CLIP_S = 3.0


def milliseconds(what: Callable[[], object], repeats: int) -> dict[str, float]:
    """p50 and p95 of `repeats` calls."""
    for _ in range(min(10, repeats)):
        what()
    times_ms = []
    for _ in range(repeats):
        started = time.perf_counter()
        what()
        times_ms.append(1000 * (time.perf_counter() - started))
    return {
        "p50_ms": round(float(np.percentile(times_ms, 50)), 2),
        "p95_ms": round(float(np.percentile(times_ms, 95)), 2),
    }


def measure(graph: Path, shape: AVSRConfig, repeats: int, threads: int) -> dict[str, object]:
    """The network at batch 1 and 4, and the features and decoding of one clip."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(round(CLIP_S * 16_000))).astype(np.float32)
    mel = log_mel(samples, shape.features)
    pictures = rng.integers(0, 256, (round(CLIP_S * CLOCK_HZ), shape.video_px, shape.video_px)).astype(np.uint8)

    def inputs(batch: int) -> dict[str, np.ndarray]:
        return {
            "mel": np.stack([mel] * batch),
            "mel_frames": np.full(batch, mel.shape[1]),
            "video": np.stack([pictures] * batch),
            "video_frames": np.full(batch, len(pictures)),
        }

    found: dict[str, object] = {"size_mb": round(graph.stat().st_size / 1e6, 2)}
    for batch in (1, 4):
        feed = inputs(batch)
        found[f"network_batch_{batch}"] = milliseconds(lambda feed=feed: session.run(None, feed), repeats)
    log_probs = session.run(None, inputs(1))[0][0]
    found["log_mel"] = milliseconds(lambda: log_mel(samples, shape.features), repeats)
    found["greedy"] = milliseconds(lambda: greedy(log_probs, frame_s=1 / CLOCK_HZ), repeats)
    return found


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle of the family avsr; without one, the presets")
    parser.add_argument("--video", type=Path, help="a video of a face, to time decoding and cropping")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "avsr_latency.json")
    options = parser.parse_args()

    models: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.bundle:
            described = json.loads((options.bundle / "bundle.json").read_text())
            shape, _ = read_model(described["model"])
            graph = options.bundle / "avsr.onnx"
            models[described["name"]] = measure(graph, shape, options.repeats, options.threads)
        else:
            import torch

            from linnet.models.avsr.model import AVSR
            from linnet.models.presets import PRESETS

            for name in ("avsr-tiny", "avsr"):
                shape = PRESETS[name].shape  # type: ignore[attr-defined]
                torch.manual_seed(0)
                weights = {k: v.numpy() for k, v in AVSR(shape, Vocabulary()).state_dict().items()}
                for precision in ("fp32", "int8"):
                    graph = Path(folder) / "avsr.onnx"
                    write_avsr(weights, shape, graph, precision=precision)
                    models[f"{name} {precision}"] = {
                        "parameters": sum(w.size for w in weights.values()),
                        **measure(graph, shape, options.repeats, options.threads),
                    }
    report: dict[str, object] = {
        "clip_s": CLIP_S, "repeats": options.repeats, "threads": options.threads,
        "load_average": os.getloadavg()[0], "models": models,
    }  # fmt: skip
    if options.video:
        few = max(3, options.repeats // 20)
        mouth = read_mouth(options.video, size_px=32)
        report["decode_and_crop"] = {
            "video_s": len(mouth.frames) / mouth.rate_hz,
            "looks": mouth.looks,
            **milliseconds(lambda: read_mouth(options.video, size_px=32), few),
        }
    report["provenance"] = provenance()
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
