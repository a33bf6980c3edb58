"""Run folder → bundle: write the trained weights as an official-layout checkpoint, then convert like any other.

The run of an adapter holds the adapter alone: its base is read again, compared with the fingerprint, and converted with
the adapter inside.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from linnet.bundle import Bundle
from linnet.errors import CheckpointError
from linnet.export.qwen3_asr import DEFAULT_DECODERS, convert
from linnet.export.qwen3_asr_adapter import AdapterConfig, AdapterFile, save_adapter
from linnet.models.qwen3_asr.checkpoint import as_checkpoint, write_run_checkpoint
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
    config = folder.config()
    with ExitStack() as stack:
        if "adapter" in config:
            adapter, state = read_run_adapter(folder, checkpoint)
            source = stack.enter_context(as_checkpoint(Path(config["base"])))
        else:
            adapter = None
            source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linnet-export-")))
            state = write_run_checkpoint(folder, source, checkpoint)
        recorded = {
            "checkpoint": f"{run.resolve().name}/checkpoints/{checkpoint}",  # not the folder it passes through
            "run": {"step": state["step"], "seed": config["seed"], **folder.meta()},
            "corpora": config.get("corpora", {}),
            **(provenance or {}),
        }
        return convert(
            source,
            out,
            encoder=encoder,
            decoders=decoders,
            adapter=adapter,
            name=name or run.resolve().name,
            provenance=recorded,
            overwrite=overwrite,
        )


def export_adapter(run: Path, out: Path, *, checkpoint: str = "best") -> Path:
    """Write the adapter of a run folder as one file for `linnet export BASE BUNDLE --adapter FILE`.

    Raises CheckpointError if the run trained no adapter.
    """
    save_adapter(out, read_run_adapter(RunFolder(run), checkpoint)[0])
    return out


def read_run_adapter(run: RunFolder, checkpoint: str) -> tuple[AdapterFile, dict[str, Any]]:
    """The adapter in checkpoints/<checkpoint> and the run's state there. Raises CheckpointError."""
    try:
        described = json.loads((run.path / "adapter.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{run.path} trained no adapter: it has no adapter.json.") from None
    config = AdapterConfig(**described["config"] | {"sites": tuple(described["config"]["sites"])})
    weights, state = run.load(checkpoint)
    tensors = {name.removeprefix("asr."): tensor.float().numpy() for name, tensor in weights.items()}
    return AdapterFile(config, described["base"], tensors), state
