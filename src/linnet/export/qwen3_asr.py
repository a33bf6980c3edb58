"""Convert a Qwen3-ASR checkpoint folder into a bundle folder: encoder graphs, decoders, tokenizer. Torch-free.

An error or Ctrl-C leaves nothing behind (`folder.py`). Weights pass through memory one tensor at a time.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from linnet import __version__
from linnet.bundle import Bundle, write_bundle, write_parity
from linnet.errors import CheckpointError, ExportError
from linnet.export.folder import check_target, written_whole
from linnet.export.gguf import PRECISIONS as GGUF_PRECISIONS
from linnet.export.gguf import check_installed, quantization_errors, write_gguf
from linnet.export.quantize import TensorError
from linnet.export.qwen3_asr_adapter import AdapterFile, check_adapter, count_parameters, fingerprint
from linnet.export.qwen3_asr_checkpoint import read_config, read_json
from linnet.export.qwen3_asr_decoder import PRECISIONS as ONNX_PRECISIONS
from linnet.export.qwen3_asr_decoder import write_decoder
from linnet.export.qwen3_asr_encoder import PRECISIONS as ENCODER_PRECISIONS
from linnet.export.qwen3_asr_encoder import WHY_NO_4_BITS, write_encoder
from linnet.export.safetensors import Tensors, open_checkpoint
from linnet.export.tokenizer import write_tokenizer
from linnet.features import WHISPER_128
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig
from linnet.text import LANGUAGES, language_code

FAMILY = "qwen3_asr"
QUANTIZATION = "quantization.json"
DEFAULT_DECODERS: Mapping[str, str] = MappingProxyType({"onnx": "int8"})


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    encoder: str = "int8",
    decoders: Mapping[str, str] = DEFAULT_DECODERS,
    adapter: AdapterFile | None = None,
    name: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
    check: Callable[[Bundle], Mapping[str, Any]] | None = None,
) -> Bundle:
    """Write the checkpoint folder as bundle folder `out`.

    `encoder` is fp32, int8 or int8-careful; `decoders` gives a precision for "onnx" (fp32, int8, int8-careful, int4,
    int4-asym), "gguf" (f32, f16, q8_0, q4_0, K-quants) or both. `adapter` is built into the encoder. `overwrite`
    replaces `out` if it is a bundle. `progress` hears the name of each part before it is written. `check` sees the
    finished bundle before it gets its name, and returns figures for its parity; if it raises, there is no bundle.
    `quantization.json` in the bundle lists how far each quantised matrix is from the checkpoint's.

    Raises CheckpointError for an unusable checkpoint, ExportError for an unknown choice, a target in the way, or
    a full disk; MissingExtraError for "gguf" without `linnet[gguf]`.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    check_choices(encoder, decoders)
    check_target(out, overwrite=overwrite)
    config = read_config(checkpoint)
    languages = listed_languages(checkpoint)
    name = name or out.name
    with written_whole(out, source=checkpoint) as work:
        with open_checkpoint(checkpoint) as tensors:
            _check_tied(tensors)
            weights = fingerprint(tensors)
            if adapter is not None:
                check_adapter(adapter, config, weights)
            parts = (tensors, config, checkpoint, work, encoder, decoders, adapter, name, progress)
            notes, errors = _write_parts(*parts)
        quantization = _write_errors(errors, work / QUANTIZATION)
        bundle = write_bundle(
            work,
            name=name,
            family=FAMILY,
            model=dataclasses.asdict(config),
            features=dataclasses.replace(WHISPER_128, n_mels=config.n_mels),
            precision={"encoder": encoder} | {f"decoder.{kind}": choice for kind, choice in decoders.items()},
            languages=languages,
            provenance={"checkpoint": checkpoint.resolve().name, "weights": weights, "linnet": __version__, **notes}
            | dict(provenance or {}),
            parity={"weights": quantization} if quantization else {},
        )
        if check is not None:
            bundle = write_parity(bundle, bundle.parity | dict(check(bundle)))
    return dataclasses.replace(bundle, path=out)


def _write_parts(
    tensors: Tensors,
    config: Qwen3ASRConfig,
    checkpoint: Path,
    folder: Path,
    encoder: str,
    decoders: Mapping[str, str],
    adapter: AdapterFile | None,
    name: str,
    progress: Callable[[str], None] | None,
) -> tuple[dict[str, Any], dict[str, tuple[TensorError, ...]]]:
    """Write all files; returns what provenance should mention, and the errors of the quantised matrices by part."""
    report = progress or (lambda part: None)
    notes: dict[str, Any] = {}
    if adapter is not None:
        parameters = count_parameters(adapter.config, config)
        notes["adapter"] = {**dataclasses.asdict(adapter.config), "parameters": parameters, "base": adapter.base}
    errors: dict[str, tuple[TensorError, ...]] = {}
    report("tokenizer")
    write_tokenizer(checkpoint, folder / "tokenizer.json")
    report("encoder")
    errors["encoder"] = write_encoder(tensors, config, folder, precision=encoder, adapter=adapter)
    if "onnx" in decoders:
        report("decoder.onnx")
        precision = decoders["onnx"]
        errors["decoder.onnx"] = write_decoder(tensors, config, folder / "decoder.onnx", precision=precision)
    if "gguf" in decoders:
        report("decoder.gguf")
        kept = write_gguf(
            tensors,
            config,
            folder / "decoder.gguf",
            precision=decoders["gguf"],
            tokenizer=folder / "tokenizer.json",
            name=name,
        )
        if kept:
            notes["decoder.gguf kept in f16"] = list(kept)
        errors["decoder.gguf"] = quantization_errors(folder / "decoder.gguf", tensors, config)
    return notes, errors


def _write_errors(errors: Mapping[str, Sequence[TensorError]], out: Path) -> dict[str, Any]:
    """List the errors of all quantised matrices in `out`, none if there are none; returns a summary by part."""
    errors = {part: found for part, found in errors.items() if found}
    if errors:
        listed = {part: [dataclasses.asdict(error) for error in found] for part, found in errors.items()}
        out.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    summary = {}
    for part, found in errors.items():
        worst = max(found, key=lambda error: error.relative_rms)
        summary[part] = {
            "tensors": len(found),
            "median_relative_rms": round(statistics.median(error.relative_rms for error in found), 5),
            "worst": worst.name,
            "worst_relative_rms": round(worst.relative_rms, 5),
        }
    return summary


def check_choices(encoder: str, decoders: Mapping[str, str]) -> None:
    """Refuse unknown precisions (ExportError) and those that need an extra (MissingExtraError), before any work."""
    if encoder not in ENCODER_PRECISIONS:
        raise ExportError(
            f"Encoder precision {encoder!r} is not offered; accepted: {', '.join(ENCODER_PRECISIONS)}. {WHY_NO_4_BITS}"
        )
    offered = {"onnx": ONNX_PRECISIONS, "gguf": GGUF_PRECISIONS}
    if not decoders:
        raise ExportError("A bundle needs a decoder, got none; accepted: onnx, gguf or both.")
    for kind, precision in decoders.items():
        if kind not in offered:
            raise ExportError(f"Decoder {kind!r} is unknown; accepted: {', '.join(offered)}.")
        if precision not in offered[kind]:
            raise ExportError(
                f"Precision {precision!r} is not offered for the {kind} decoder; accepted: {', '.join(offered[kind])}."
            )
    if "gguf" in decoders:
        check_installed(decoders["gguf"])


def _check_tied(tensors: Tensors) -> None:
    """The bundle stores one table for embedding and head, as Qwen3-ASR has; weights that differ would be lost."""
    if "lm_head.weight" not in tensors.names():
        return
    pairs = zip(tensors.get_rows("lm_head.weight"), tensors.get_rows("model.embed_tokens.weight"), strict=True)
    if not all(np.array_equal(head, embedding) for head, embedding in pairs):
        raise CheckpointError(
            "lm_head.weight differs from model.embed_tokens.weight; accepted: tied weights, as Qwen3-ASR has them. "
            "Train with tied embeddings, or copy one over the other."
        )


def listed_languages(checkpoint: Path) -> list[str]:
    """Codes of the languages that config.json lists by name; all of Qwen3-ASR's if it lists none (the -hf layout)."""
    names = read_json(checkpoint / "config.json").get("support_languages")
    return [language_code(name) for name in names] if names else list(LANGUAGES)
