"""`linnet export`: a checkpoint folder → a bundle folder. Run folders of `linnet train` go through their family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from linnet.bundle import DESCRIPTION, Bundle
from linnet.errors import ExportError
from linnet.export.gguf import PRECISIONS as GGUF_PRECISIONS
from linnet.export.qwen3_aligner import convert_aligner, is_aligner
from linnet.export.qwen3_asr import convert
from linnet.export.qwen3_asr_adapter import read_adapter
from linnet.export.qwen3_asr_decoder import PRECISIONS as ONNX_PRECISIONS
from linnet.export.wav2vec2 import convert as convert_wav2vec2
from linnet.export.wav2vec2_checkpoint import is_wav2vec2


def export(
    source: str | Path,
    out: str | Path,
    *,
    encoder: str = "int8",
    decoder: Sequence[str] = ("int8",),
    adapter: Path | None = None,
    name: str | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Bundle:
    """Convert a Qwen3-ASR or forced aligner checkpoint folder (config.json, *.safetensors, tokenizer) without torch.

    A wav2vec 2.0 CTC checkpoint in Hugging Face's layout has no decoder: `encoder` is its precision.
    `decoder` lists precisions, see `decoders_by_kind`; `progress` is called with the parts begun and in all.
    Raises CheckpointError, ExportError, or MissingExtraError for a GGUF decoder without `linnet[gguf]`.
    """
    source = Path(source)
    decoders = decoders_by_kind(decoder)
    if not source.is_dir():
        state = "is a file" if source.exists() else "does not exist"
        raise ExportError(
            f"Nothing to convert: {source} {state}. Give a run folder of `linnet train`, or a Qwen3-ASR checkpoint "
            "folder with config.json and safetensors."
        )
    if (source / DESCRIPTION).is_file():
        raise ExportError(f"{source} is a bundle already; transcribe with it: linnet transcribe --model {source} FILE")
    if is_wav2vec2(source):
        return convert_wav2vec2(source, out, precision=encoder, name=name)
    if is_aligner(source):
        if adapter is not None:
            raise ExportError("A forced aligner takes no adapter. Leave it out.")
        return convert_aligner(source, out, encoder=encoder, decoders=decoders, name=name)
    parts = iter(range(2 + len(decoders)))

    def begun(part: str) -> None:
        if progress is not None:
            progress(next(parts, 0), 2 + len(decoders))

    return convert(
        source,
        out,
        encoder=encoder,
        decoders=decoders,
        adapter=None if adapter is None else read_adapter(adapter),
        name=name,
        progress=begun,
    )


def decoders_by_kind(precisions: Sequence[str]) -> dict[str, str]:
    """{"onnx": "int8", "gguf": "q8_0"} for ("int8", "q8_0"): the precision says which kind of decoder it is.

    At most one of each kind; ExportError otherwise, and for names that neither knows.
    """
    decoders: dict[str, str] = {}
    for precision in precisions:
        kind = "onnx" if precision in ONNX_PRECISIONS else "gguf" if precision in GGUF_PRECISIONS else None
        if kind is None:
            raise ExportError(
                f"Unknown decoder precision {precision!r}; accepted: {', '.join(ONNX_PRECISIONS)} (ONNX), "
                f"{', '.join(GGUF_PRECISIONS)} (GGUF)."
            )
        if kind in decoders:
            raise ExportError(
                f"{decoders[kind]} and {precision} are both {kind} decoders; a bundle holds at most one {kind} and one "
                f"{'gguf' if kind == 'onnx' else 'onnx'} decoder. Write two bundles."
            )
        decoders[kind] = precision
    if not decoders:
        raise ExportError("A bundle needs a decoder, got none; give one precision at least, for example int8.")
    return decoders
