"""Convert a wav2vec 2.0 CTC checkpoint folder (Hugging Face's layout) into a bundle folder. Torch-free.

model.onnx   samples [1, N] (16 kHz) → log_probs [1, T, V]   the whole network, normalisation included
vocab.json   labels by number
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from linnet import __version__
from linnet.bundle import Bundle, write_bundle
from linnet.errors import CheckpointError, ExportError
from linnet.export.folder import check_target, written_whole
from linnet.export.wav2vec2_checkpoint import open_weights, read_config, read_vocabulary
from linnet.export.wav2vec2_graph import PRECISIONS, write_graph
from linnet.features import FeatureSpec

FAMILY = "wav2vec2"
_NOT_USED = FeatureSpec()  # a bundle has a feature specification; this family reads samples at its sample rate


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precision: str = "int8",
    name: str | None = None,
    languages: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write the checkpoint folder as bundle folder `out`; `precision` is one of PRECISIONS.

    Raises CheckpointError for an unusable checkpoint (a pretraining one has no head), ExportError for an unknown
    precision, a target in the way, or a full disk.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if precision not in PRECISIONS:
        raise ExportError(
            f"Precision {precision!r} is not offered for wav2vec 2.0; accepted: {', '.join(PRECISIONS)}. Fewer than 8 "
            "bits in an encoder break recognition."
        )
    check_target(out, overwrite=overwrite)
    config = read_config(checkpoint)
    if not config.vocab_size:
        raise CheckpointError(
            f"{checkpoint} holds wav2vec 2.0 without a CTC head, which cannot transcribe. Fine-tune it first: linnet "
            f"train wav2vec2-base-ctc --init-from {checkpoint}"
        )
    vocabulary = read_vocabulary(checkpoint, config)
    report = progress or (lambda part: None)
    with written_whole(out, source=checkpoint) as work:
        report("model")
        with open_weights(checkpoint, config, parts=("lm_head",)) as tensors:
            write_graph(tensors, config, work / "model.onnx", precision=precision, normalise=vocabulary.normalise)
        (work / "vocab.json").write_text(
            json.dumps(dataclasses.asdict(vocabulary), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        bundle = write_bundle(
            work,
            name=name or out.name,
            family=FAMILY,
            model=dataclasses.asdict(config),
            features=_NOT_USED,
            precision={"model": precision},
            languages=languages,
            provenance={"checkpoint": checkpoint.resolve().name, "linnet": __version__} | dict(provenance or {}),
            parity={},
        )
    return dataclasses.replace(bundle, path=out)
