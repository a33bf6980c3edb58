"""`linnet export`: run folder or checkpoint → bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from linnet.verbs.run_folder import export_run_folder


def export(
    source: Path,
    out: Path,
    /,
    encoder: Literal["fp32", "int8", "int8-careful"] = "int8",
    decoder: tuple[str, ...] = ("int8",),
    name: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
) -> int:
    """Convert a run folder or a Qwen3-ASR checkpoint folder (safetensors) into a bundle.

    Args:
        source: Run folder of `linnet train`, or checkpoint folder with config.json and safetensors.
        out: Bundle folder to write; it must not exist yet.
        encoder: Precision of the encoder; int8-careful is the careful one. Four bits break recognition: not offered.
        decoder: Decoders to include: fp32, int8, int4 (ONNX), f16, q8_0, q4_k_m (GGUF); one of each kind at most.
        name: Name stored in the bundle; by default the folder's.
        checkpoint: Which checkpoint of a run folder.
    """
    from linnet.export import verb
    from linnet.info import kind_of
    from linnet.progress import task_bar

    with task_bar("export") as show:
        if kind_of(source) == "run":
            decoders = verb.decoders_by_kind(decoder)
            bundle = export_run_folder(
                source, out, encoder=encoder, decoders=decoders, name=name, checkpoint=checkpoint
            )
        else:
            bundle = verb.export(source, out, encoder=encoder, decoder=decoder, name=name, progress=show)
    sys.stdout.write(f"{bundle.path}\n")
    return 0
