"""`linnet export`: run folder or checkpoint → bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from linnet.errors import ConfigError
from linnet.verbs.run_folder import export_run_adapter, export_run_folder


def export(
    source: Path,
    out: Path,
    /,
    encoder: str = "int8",
    decoder: tuple[str, ...] = ("int8",),
    adapter: Path | None = None,
    name: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
) -> int:
    """Convert a run folder or a Qwen3-ASR checkpoint folder (safetensors) into a bundle.

    Args:
        source: Run folder of `linnet train`, or checkpoint folder with config.json and safetensors.
        out: Bundle folder to write; it must not exist yet. FILE.safetensors writes the adapter of a run by itself.
        encoder: Precision of the encoder: fp32, int8, or int8-careful (in blocks). Four bits break recognition.
        decoder: Decoders to include: fp32, int8, int8-careful, int4, int4-asym (ONNX), f16, q8_0, q6_k, q5_k_m,
            q4_k_m, q4_0 (GGUF); one of each kind at most.
        adapter: Adapter file to build into a checkpoint's encoder; it must have been trained on this checkpoint.
        name: Name stored in the bundle; by default the folder's.
        checkpoint: Which checkpoint of a run folder.
    """
    from linnet.export import verb
    from linnet.info import kind_of
    from linnet.progress import task_bar

    if kind_of(source) == "run" and out.suffix == ".safetensors":
        sys.stdout.write(f"{export_run_adapter(source, out, checkpoint=checkpoint)}\n")
        return 0
    if kind_of(source) == "run" and adapter is not None:
        raise ConfigError("--adapter goes with a checkpoint folder; a run folder of an adapter brings its own.")
    with task_bar("export") as show:
        if kind_of(source) == "run":
            decoders = verb.decoders_by_kind(decoder)
            bundle = export_run_folder(
                source, out, encoder=encoder, decoders=decoders, name=name, checkpoint=checkpoint
            )
        else:
            bundle = verb.export(
                source, out, encoder=encoder, decoder=decoder, adapter=adapter, name=name, progress=show
            )
    sys.stdout.write(f"{bundle.path}\n")
    return 0
