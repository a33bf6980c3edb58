"""What does a wider adapter buy, and what does it cost? Errors and distance against the encoder's time.

python experiments/adapter_bottleneck.py --base runs/nano --data DATA --work runs/adapters
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from adapter_study import System, options, study, trained

from linnet.export.qwen3_asr_adapter import AdapterConfig
from linnet.models.qwen3_asr.checkpoint import as_checkpoint
from linnet.models.qwen3_asr.export import export_run
from linnet.runtime.encoder import Encoder
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

WIDTHS = (8, 32, 64, 128, 256)
FRAMES, REPEATS = 800, 15


def main() -> None:
    args = options(__doc__, "results/adapter_bottleneck.json")
    systems = [System(f"gate {width}", AdapterConfig(mode="gate", bottleneck=width)) for width in WIDTHS]
    result = study(args, systems, experiment="adapter_bottleneck")
    from linnet.export.qwen3_asr import convert

    with tempfile.TemporaryDirectory() as folder, as_checkpoint(args.base) as base:
        bundles = {"base": convert(base, Path(folder) / "base", encoder="fp32", decoders={"onnx": "fp32"})}
        for system in systems:
            run, _ = trained(args, system, args.seeds[0])
            bundles[system.name] = export_run(
                run.path, Path(folder) / system.name, encoder="fp32", decoders={"onnx": "fp32"}, checkpoint="last"
            )
        seconds = encoder_seconds({name: bundle.path for name, bundle in bundles.items()}, bundles["base"].model)
    result["encoder_cpu_s"] = seconds
    result["overhead"] = {name: round(spent / seconds["base"] - 1, 4) for name, spent in seconds.items()}
    args.results.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def encoder_seconds(folders: dict[str, Path], model: dict[str, object]) -> dict[str, float]:
    """Median processor time of the ONNX encoder for a clip of 8 s, taking turns so that all see the same machine."""
    config = Qwen3ASRConfig(**{**model, "eos_token_ids": tuple(model["eos_token_ids"])})  # type: ignore[arg-type]
    mel = np.random.default_rng(0).standard_normal((config.n_mels, FRAMES), np.float32)
    encoders = {name: Encoder(folder, config, threads=1) for name, folder in folders.items()}
    spent: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(REPEATS):
        for name, encoder in encoders.items():
            started = time.process_time()
            encoder(mel)
            spent[name].append(time.process_time() - started)
    return {name: float(np.median(times)) for name, times in spent.items()}


if __name__ == "__main__":
    main()
