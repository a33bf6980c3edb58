"""Convert a Qwen3-ForcedAligner checkpoint into a bundle: the recogniser's encoder, and a decoder that answers at once.

The network is Qwen3-ASR's with another head: 5000 classes of 80 ms instead of words, read at the `<timestamp>` tokens
that stand twice behind every word (begin and end). Nothing is generated, so the graph holds embedding, audio and all:

    before, after  int64 [P], [R]      tokens before and after the audio
    audio          float32 [A, H]      the encoder's embeddings
    last           int64 [1, S, 1]     positions of the timestamp tokens in all T = P + A + R
    lengths, total int32 [1]           T − 1 and T
    cos, sin       float32 [≥ T, D/2]  rope tables
 →  logits         float32 [1, S, C]

Source: qwen-asr 0.0.6, `qwen3_forced_aligner.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from linnet import __version__
from linnet.bundle import Bundle, write_bundle
from linnet.errors import CheckpointError, ExportError
from linnet.export.folder import check_target, written_whole
from linnet.export.onnx_graph import GraphWriter
from linnet.export.quantize import BlockQuantized
from linnet.export.qwen3_asr import check_choices, listed_languages
from linnet.export.qwen3_asr_checkpoint import DOWNLOAD_AGAIN, expected_shapes, read_config, read_json
from linnet.export.qwen3_asr_decoder import TABLE, DecoderGraph
from linnet.export.qwen3_asr_encoder import write_encoder
from linnet.export.safetensors import Tensors, open_checkpoint
from linnet.export.tokenizer import write_tokenizer
from linnet.features import WHISPER_128
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FAMILY = "qwen3_aligner"


def is_aligner(checkpoint: str | Path) -> bool:
    """Whether config.json describes a forced aligner: a head of classes instead of words."""
    path = Path(checkpoint) / "config.json"
    if not path.is_file():
        return False
    thinker = read_json(path).get("thinker_config")
    return isinstance(thinker, dict) and "classify_num" in thinker


def convert_aligner(
    checkpoint: str | Path,
    out: str | Path,
    *,
    encoder: str = "int8",
    decoders: Mapping[str, str],
    name: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write the aligner in the checkpoint folder as bundle folder `out`; arguments and errors as of `convert`.

    `decoders` is {"onnx": precision}: there is no GGUF of an aligner.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    check_choices(encoder, decoders)
    if list(decoders) != ["onnx"]:
        raise ExportError(f"A forced aligner is written as ONNX only, got {', '.join(decoders)}. Leave the others out.")
    check_target(out, overwrite=overwrite)
    config, classes, numbers = _read_numbers(checkpoint)
    report = progress or (lambda part: None)
    expected = expected_shapes(config) | {"lm_head.weight": (classes, config.hidden_size)}
    with written_whole(out, source=checkpoint) as work:
        with open_checkpoint(checkpoint, expected=expected) as tensors:
            report("tokenizer")
            write_tokenizer(checkpoint, work / "tokenizer.json")
            report("encoder")
            write_encoder(tensors, config, work, precision=encoder)
            report("decoder.onnx")
            write_aligner(tensors, config, classes, work / "aligner.onnx", precision=decoders["onnx"])
        bundle = write_bundle(
            work,
            name=name or out.name,
            family=FAMILY,
            model=dataclasses.asdict(config) | numbers,
            features=dataclasses.replace(WHISPER_128, n_mels=config.n_mels),
            precision={"encoder": encoder, "decoder.onnx": decoders["onnx"]},
            languages=listed_languages(checkpoint),
            provenance={"checkpoint": checkpoint.resolve().name, "linnet": __version__} | dict(provenance or {}),
            parity={},
        )
    return dataclasses.replace(bundle, path=out)


def write_aligner(tensors: Tensors, config: Qwen3ASRConfig, classes: int, out: Path, *, precision: str) -> None:
    """Write the graph `out` and its weights `<out>.data`; `precision` is one of the decoder's."""
    half = config.head_dim // 2
    inputs = [
        helper.make_tensor_value_info("before", TensorProto.INT64, ["P"]),
        helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["A", config.hidden_size]),
        helper.make_tensor_value_info("after", TensorProto.INT64, ["R"]),
        helper.make_tensor_value_info("last", TensorProto.INT64, [1, "S", 1]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("cos", TensorProto.FLOAT, ["C", half]),
        helper.make_tensor_value_info("sin", TensorProto.FLOAT, ["C", half]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "S", classes])]
    with GraphWriter(out) as graph:
        _AlignerGraph(graph, tensors, config, precision).write()
        graph.save("qwen3_aligner", inputs, outputs)


class _AlignerGraph(DecoderGraph):
    """The decoder's layers between an embedding inside the graph and a head of its own."""

    cached = False

    def write(self) -> dict[str, int]:
        rows = self.table()
        parts = [rows("before"), "audio", rows("after")]
        whole = self.graph.node("Concat", parts, axis=0)
        self.graph.add("Unsqueeze", [whole, self.graph.integers(0)], ["embeddings"])
        return super().write()

    def table(self) -> Callable[[str], str]:
        """Function from a vector of ids to their rows [n, H]."""
        graph, hidden = self.graph, self.config.hidden_size
        if self.precision == "fp32":
            table = graph.constant(TABLE, self.tensors.get(TABLE))
            return lambda ids: graph.node("Gather", [table, ids])
        blocks: list[BlockQuantized] = []
        for _ in self.table_rows(blocks):
            pass
        packed = graph.constant(f"{TABLE}.packed", np.concatenate([block.packed for block in blocks]))
        scales = graph.constant(f"{TABLE}.scales", np.concatenate([block.scales for block in blocks]))
        middle = graph.constant("table_zero_point", np.array(128, np.float32))

        def rows(ids: str) -> str:
            codes = graph.node("Cast", [graph.node("Gather", [packed, ids])], to=TensorProto.FLOAT)
            scale = graph.node("Unsqueeze", [graph.node("Gather", [scales, ids]), graph.integers(-1)])
            values = graph.node("Mul", [graph.node("Sub", [codes, middle]), scale])
            flat = graph.node("Reshape", [values, graph.integers(0, -1)])  # the last block may be padded
            return graph.node("Slice", [flat, graph.integers(0), graph.integers(hidden), graph.integers(1)])

        return rows

    def head(self, x: str) -> dict[str, int]:
        self.graph.add("Identity", [self.linear("lm_head", x)], ["logits"])
        return {}


def _read_numbers(checkpoint: Path) -> tuple[Qwen3ASRConfig, int, dict[str, int]]:
    """The network's numbers, its classes, and what the bundle says of the head."""
    described = read_json(checkpoint / "config.json")
    config = read_config(checkpoint)
    try:
        classes = int(described["thinker_config"]["classify_num"])
        numbers = {
            "classes": classes,
            "class_ms": int(described["timestamp_segment_time"]),
            "timestamp_token_id": int(described["timestamp_token_id"]),
        }
    except (KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(
            f"config.json in {checkpoint} does not describe a forced aligner ({problem!r}); expected classify_num, "
            f"timestamp_segment_time and timestamp_token_id. {DOWNLOAD_AGAIN}"
        ) from problem
    if config.output_dim != config.hidden_size:
        raise CheckpointError(
            f"The aligner's encoder writes {config.output_dim} numbers, its decoder reads {config.hidden_size}. "
            f"{DOWNLOAD_AGAIN}"
        )
    return config, classes, numbers
