"""Run folder → bundle: write the trained weights as an official-layout checkpoint, then convert like any other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from linnet.bundle import Bundle
from linnet.export.qwen3_asr import DEFAULT_DECODERS, convert
from linnet.models.qwen3_asr.checkpoint import read_shape, save_checkpoint
from linnet.train.run_folder import RunFolder


def export_run(
    run: Path,
    out: Path,
    *,
    encoder: str = "int8",
    decoders: Mapping[str, str] = DEFAULT_DECODERS,
    name: str | None = None,
    checkpoint: str = "best",
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Convert checkpoints/<checkpoint> of a run folder. Raises CheckpointError or ExportError.

    The bundle's provenance carries the run's commit, hardware, data and step; `provenance` is added to it (licences).
    """
    folder = RunFolder(run)
    weights, state = folder.load(checkpoint)
    config = folder.config()
    recorded = {
        "run": {"step": state["step"], "seed": config["seed"], **folder.meta()},
        "corpora": config.get("corpora", {}),
        **(provenance or {}),
    }
    with tempfile.TemporaryDirectory(prefix="linnet-export-") as work:
        asr = {key.removeprefix("asr."): value for key, value in weights.items() if key.startswith("asr.")}
        shape = read_shape(run)
        languages = json.loads((run / "shape.json").read_text()).get("support_languages", [])
        tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
        save_checkpoint(Path(work), asr, shape, tokenizer, languages=languages)
        return convert(
            work,
            out,
            encoder=encoder,
            decoders=decoders,
            name=name or run.resolve().name,
            provenance=recorded,
            overwrite=overwrite,
        )
