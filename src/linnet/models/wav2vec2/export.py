"""Run folder → bundle: write the trained weights in Hugging Face's layout, then convert like any checkpoint."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from linnet.bundle import Bundle
from linnet.errors import ExportError
from linnet.export.qwen3_asr_checkpoint import read_json
from linnet.export.wav2vec2 import convert
from linnet.export.wav2vec2_checkpoint import expected_shapes, read_vocabulary
from linnet.models.wav2vec2.checkpoint import FROZEN, save_checkpoint
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.train.run_folder import RunFolder


def export_run(
    run: Path,
    out: Path,
    *,
    precision: str = "int8",
    name: str | None = None,
    checkpoint: str = "best",
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Convert checkpoints/<checkpoint> of a fine-tuning run; `precision` is fp32, int8 or int8-careful.

    Raises ExportError for a run of pretraining, which cannot transcribe, and CheckpointError.
    """
    folder = RunFolder(run)
    config = folder.config()
    if config.get("objective") != "ctc":
        raise ExportError(
            f"{run} is a run of pretraining: it hears, but cannot spell. Fine-tune it first: linnet train "
            f"wav2vec2-tiny-ctc --init-from {run}"
        )
    weights, state = folder.load(checkpoint)
    shape = Wav2Vec2Config.from_checkpoint(read_json(run / "shape.json"))
    vocabulary = read_vocabulary(run, shape)
    if (run / FROZEN).is_file():
        weights |= load_file(run / FROZEN)
    wanted = expected_shapes(shape, parts=("lm_head",))
    recorded = {
        "checkpoint": f"{run.resolve().name}/checkpoints/{checkpoint}",  # not the folder it passes through
        "run": {"step": state["step"], "seed": config["seed"], **folder.meta()},
        **(provenance or {}),
    }
    with tempfile.TemporaryDirectory(prefix="linnet-export-") as work:
        kept = {key: value for key, value in weights.items() if key in wanted}
        save_checkpoint(Path(work), kept, shape, vocabulary)
        return convert(
            work,
            out,
            precision=precision,
            name=name or run.resolve().name,
            languages=json.loads((run / "shape.json").read_text()).get("languages", []),
            provenance=recorded,
            overwrite=overwrite,
        )
