"""Write Qwen3-ASR's text decoder as ONNX, straight from the checkpoint: no torch, no tracing, one tensor in memory.

The network is Qwen3: pre-norm, RMS norm per head on queries and keys before a rotate-half rope, grouped-query
attention, SwiGLU, head tied to the embedding. Plain rope is exact: the three position streams of the original
(interleaved MRoPE) are equal for audio and text.

Shapes: B sequences, T new positions, H hidden, V vocabulary, K key/value heads, C cache positions, D head size.

    embeddings    float32 [B, T, H]
    last          int64 [B, 1]        index in T of the position whose logits are wanted
    lengths       int32 [B]           positions before the last new one: past + new − 1
    total         int32 [1]           max(lengths) + 1
    cos, sin      float32 [≥ total, D/2]   rope tables: a millisecond of NumPy, but megabytes as constants
    past_key.N, past_value.N          [B, K, C, D], float16 beside 4-bit weights, else float32
 →  logits        float32 [B, V]
    present_key.N, present_value.N    the same buffers as past, written in place

T > 1 with a past is possible for B = 1 only, a limit of GroupQueryAttention. The embedding lookup is not in the graph:
the runtime reads rows from the data file, where the head's matrix lies as [V, H], so that the table exists once. The
model's metadata says where.

Precisions of the layers' matrices:
    fp32         exact
    int8         a scale per output channel of the weight and per token of the activation, integer products: the fastest
                 prefill and the fastest batches. One scale per tensor, the usual dynamic quantisation, is no faster,
                 less exact, and makes a sequence's result depend on its neighbours in the batch
    int8-careful a scale per 32 weights and per 32 activations, as GGUF's Q8_0 computes: half the error, half the speed
                 of prefill
    int4         a scale per 128 weights of 4 bits, the largest of which may be clipped, and per 128 activations: half
                 the memory, the fastest single stream
    int4-asym    the same with a zero point per block: for weights that are not centred
The tied table is in 8-bit blocks in all but fp32: its rows are the model's input as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from linnet.errors import ExportError
from linnet.export.onnx_graph import MICROSOFT, GraphWriter
from linnet.export.quantize import (
    BlockQuantized,
    FloatArray,
    TensorError,
    dequantize_blocks,
    dequantize_channels,
    quantize_blocks,
    quantize_channels,
    tensor_error,
    tensor_error_of_parts,
)
from linnet.export.safetensors import Tensors
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

PRECISIONS = ("fp32", "int8", "int8-careful", "int4", "int4-asym")
TABLE = "model.embed_tokens.weight"
TABLE_BLOCK = 128
WEIGHT_BLOCK = {8: 32, 4: 128}
"""At 4 bits a compromise: smaller blocks round less, larger ones are multiplied faster, a prompt at 128 by 1.34 times
faster than at 64 (docs/log.md)."""
INT8_CODES = 127  # a token's largest activation becomes ±127 around the zero point 128


def write_decoder(tensors: Tensors, config: Qwen3ASRConfig, out: Path, *, precision: str) -> tuple[TensorError, ...]:
    """Write the graph `out` and, next to it, its weights `<out>.data`; `precision` is one of PRECISIONS.

    Returns how far each quantised matrix is from the checkpoint's, nothing for fp32. Raises ExportError for an unknown
    precision, CheckpointError (from `tensors`) for a missing tensor.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"Decoder precision {precision!r} is not offered; accepted: {', '.join(PRECISIONS)}.")
    with GraphWriter(out, inline_bytes=-1) as graph:  # the runtime maps the table from the data file, however small
        decoder = DecoderGraph(graph, tensors, config, precision)
        table, kind = decoder.write(), cache_type(precision)
        layout = {
            "layers": config.decoder_layers,
            "kv_heads": config.decoder_kv_heads,
            "head_dim": config.head_dim,
            "hidden_size": config.hidden_size,
            "vocab_size": config.vocab_size,
            "rope_theta": config.rope_theta,
            "cache": "float16" if kind == TensorProto.FLOAT16 else "float32",
            "embedding": table,
        }
        metadata = {"linnet.decoder": json.dumps(layout)}
        graph.save("qwen3_asr_decoder", _inputs(config, kind), _outputs(config, kind), metadata=metadata)
    return tuple(decoder.errors)


def cache_type(precision: str) -> int:
    """ONNX type of keys and values: 16 bits where memory is what the precision is chosen for.

    At 4 bits the cache of a long recording is larger than the decoder's weights. Half of it costs no speed that could
    be measured (docs/log.md); the error is that of llama.cpp's usual cache.
    """
    return int(TensorProto.FLOAT16 if precision.startswith("int4") else TensorProto.FLOAT)


class DecoderGraph:
    """Adds the network's nodes to a graph, layer by layer."""

    cached = True
    """Whether attention continues a cache; a network that answers in one pass needs none."""

    def __init__(self, graph: GraphWriter, tensors: Tensors, config: Qwen3ASRConfig, precision: str) -> None:
        self.graph, self.tensors, self.config, self.precision = graph, tensors, config, precision
        self.errors: list[TensorError] = []
        self._short_tables: list[str] = []

    def write(self) -> dict[str, int]:
        """All nodes from embeddings to logits; returns where the embedding table lies in the data file."""
        config = self.config
        x = "embeddings"
        normed = self.rms_norm("model.layers.0.input_layernorm", x)
        for layer in range(config.decoder_layers):
            prefix, is_last = f"model.layers.{layer}", layer == config.decoder_layers - 1
            attended = self.attention(prefix, normed, layer)
            if is_last:  # only one position per sequence is asked for: what follows need not see the others
                attended = self.graph.node("GatherND", [attended, "last"], batch_dims=1)
                x = self.graph.node("GatherND", [x, "last"], batch_dims=1)
            branch = self.linear(f"{prefix}.self_attn.o_proj", attended)
            normed, x = self.add_and_norm(f"{prefix}.post_attention_layernorm", x, branch)
            branch = self.feed_forward(prefix, normed)
            following = "model.norm" if is_last else f"model.layers.{layer + 1}.input_layernorm"
            normed, x = self.add_and_norm(following, x, branch)
        return self.head(normed)

    def attention(self, prefix: str, x: str, layer: int) -> str:
        """Attention over the cache, before the output projection."""
        config, graph = self.config, self.graph
        heads, kv_heads, size = config.decoder_heads, config.decoder_kv_heads, config.head_dim
        # One product for q, k and v: the thread pool is woken once, and decoding one token is bound by such overhead.
        names = [f"{prefix}.self_attn.{part}_proj" for part in "qkv"]
        queries, keys, values = self.linears(names, x, [heads * size, kv_heads * size, kv_heads * size])
        queries = self.head_norm(f"{prefix}.self_attn.q_norm", queries, heads)
        keys = self.head_norm(f"{prefix}.self_attn.k_norm", keys, kv_heads)
        attended = f"{prefix}.self_attn.attended"
        past = [f"past_key.{layer}", f"past_value.{layer}"] if self.cached else ["", ""]
        short = self.cached and cache_type(self.precision) == TensorProto.FLOAT16  # the operator wants one type for all
        inputs, tables = [queries, keys, values], ["cos", "sin"]
        if short:
            inputs, tables = [self.cast(name, TensorProto.FLOAT16) for name in inputs], self.short_tables()
        graph.add(
            "GroupQueryAttention",
            [*inputs, *past, "lengths", "total", *tables],
            [attended, f"present_key.{layer}", f"present_value.{layer}"],
            domain=MICROSOFT,
            num_heads=heads,
            kv_num_heads=kv_heads,
            do_rotary=1,
        )
        return self.cast(attended, TensorProto.FLOAT) if short else attended

    def short_tables(self) -> list[str]:
        """The rope tables in 16 bits, once for all layers."""
        if not self._short_tables:
            self._short_tables = [self.cast(name, TensorProto.FLOAT16) for name in ("cos", "sin")]
        return self._short_tables

    def cast(self, name: str, kind: int) -> str:
        """`name` in another float type."""
        return self.graph.node("Cast", [name], to=kind)

    def feed_forward(self, prefix: str, x: str) -> str:
        """down(SiLU(gate(x)) · up(x))."""
        names = [f"{prefix}.mlp.{part}_proj" for part in ("gate", "up")]
        gate, up = self.linears(names, x, [self.config.intermediate_size] * 2)
        gate = self.graph.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0)  # x · sigmoid(1 · x) is SiLU
        return self.linear(f"{prefix}.mlp.down_proj", self.graph.node("Mul", [gate, up]))

    def rms_norm(self, name: str, x: str) -> str:
        """RMS norm over the last axis."""
        gain = self.graph.constant(f"{name}.weight", self.tensors.get(f"{name}.weight"))
        epsilon = self.config.rms_norm_eps
        return self.graph.node("SimplifiedLayerNormalization", [x, gain], axis=-1, epsilon=epsilon, stash_type=1)

    def head_norm(self, name: str, x: str, heads: int) -> str:
        """RMS norm of each head of [B, T, heads·D]."""
        size = self.config.head_dim
        by_head = self.graph.node("Reshape", [x, self.graph.integers(0, 0, heads, size)])
        return self.graph.node("Reshape", [self.rms_norm(name, by_head), self.graph.integers(0, 0, heads * size)])

    def add_and_norm(self, name: str, x: str, branch: str) -> tuple[str, str]:
        """RMS norm of x + branch, and x + branch itself."""
        gain = self.graph.constant(f"{name}.weight", self.tensors.get(f"{name}.weight"))
        normed, total = f"{name}.normed", f"{name}.sum"
        self.graph.add(
            "SkipSimplifiedLayerNormalization",
            [x, branch, gain],
            [normed, "", "", total],
            domain=MICROSOFT,
            epsilon=self.config.rms_norm_eps,
        )
        return normed, total

    def linears(self, names: Sequence[str], x: str, sizes: Sequence[int]) -> list[str]:
        """Several projections of the same input as one product."""
        weight = np.concatenate([self.tensors.get(f"{name}.weight") for name in names])
        outputs = list(names)
        self.graph.add("Split", [self.product(names[0], x, weight), self.graph.integers(*sizes)], outputs, axis=-1)
        return outputs

    def linear(self, name: str, x: str) -> str:
        return self.product(name, x, self.tensors.get(f"{name}.weight"))

    def product(self, name: str, x: str, weight: FloatArray) -> str:
        """x · weightᵀ for a checkpoint matrix [outputs, inputs]."""
        if self.precision == "fp32":
            return self.graph.node("MatMul", [x, self.graph.constant(f"{name}.weight", weight.T)])
        if self.precision == "int8":
            return self.int8_product(name, x, weight)
        output, bits = f"{name}.product", 4 if self.precision.startswith("int4") else 8
        symmetric = self.precision != "int4-asym"
        quantized = quantize_blocks(weight, bits=bits, block=WEIGHT_BLOCK[bits], symmetric=symmetric)
        self.errors.append(tensor_error(name, weight, dequantize_blocks(quantized)[:, : weight.shape[1]]))
        self.blocks(name, x, quantized, weight.shape[1], output)
        return output

    def int8_product(self, name: str, x: str, weight: FloatArray) -> str:
        """(x / s → int8) · int8 weight · s, with s the largest magnitude in each token's x.

        A token of zeros divides 0 by 0; whatever integers come of that, the final factor 0 makes them zeros again.
        """
        graph = self.graph
        quantized = quantize_channels(weight)
        self.errors.append(tensor_error(name, weight, dequantize_channels(quantized)))
        step = graph.constant("activation_step", np.array(1 / INT8_CODES, np.float32))
        zero_point = graph.constant("activation_zero_point", np.array(128, np.uint8))
        largest = graph.node("ReduceMax", [graph.node("Abs", [x]), graph.integers(-1)], keepdims=1)
        codes = graph.node("QuantizeLinear", [graph.node("Div", [x, largest]), step, zero_point])
        values = graph.constant(f"{name}.values", quantized.values.T)
        scales = graph.constant(f"{name}.scales", quantized.scales)
        inputs = [codes, values, step, scales, zero_point]
        return graph.node("Mul", [graph.node("MatMulIntegerToFloat", inputs, domain=MICROSOFT), largest])

    def blocks(self, name: str, x: str, quantized: BlockQuantized, columns: int, output: str) -> None:
        """x · weightᵀ for a matrix in blocks; activations are quantised per token and block by the kernel."""
        packed = self.graph.constant(f"{name}.packed", quantized.packed)
        inputs = [x, packed, self.graph.constant(f"{name}.scales", quantized.scales)]
        if quantized.zero_points is not None:
            inputs.append(self.graph.constant(f"{name}.zero_points", quantized.zero_points))
        self.graph.add(
            "MatMulNBits",
            inputs,
            [output],
            domain=MICROSOFT,
            N=len(quantized.packed),
            K=columns,
            bits=quantized.bits,
            block_size=quantized.block,
            accuracy_level=4,
        )

    def head(self, x: str) -> dict[str, int]:
        """Logits from the tied table; returns its place in the data file: bits, block and byte offsets."""
        if self.precision == "fp32":
            values = self.graph.constant(TABLE, self.tensors.get(TABLE))
            self.graph.add("Gemm", [x, values], ["logits"], transB=1)
            return {"bits": 32, "values": self.graph.offset(values)}
        parts: list[BlockQuantized] = []
        self.errors.append(tensor_error_of_parts(TABLE, self.table_rows(parts)))
        packed, scales = (
            np.concatenate([part.packed for part in parts]),
            np.concatenate([part.scales for part in parts]),
        )
        self.blocks(TABLE, x, BlockQuantized(packed, scales, 8, TABLE_BLOCK), self.config.hidden_size, "logits")
        return {
            "bits": 8,
            "block": TABLE_BLOCK,
            "values": self.graph.offset(f"{TABLE}.packed"),
            "scales": self.graph.offset(f"{TABLE}.scales"),
        }

    def table_rows(self, parts: list[BlockQuantized]) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Quantise the table block by block into `parts`; gives each block before and after."""
        for rows in self.tensors.get_rows(TABLE):
            parts.append(quantize_blocks(rows, bits=8, block=TABLE_BLOCK))
            yield rows, dequantize_blocks(parts[-1])[:, : rows.shape[1]]


def _inputs(config: Qwen3ASRConfig, kind: int) -> list[onnx.ValueInfoProto]:
    half = config.head_dim // 2
    return [
        helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", "T", config.hidden_size]),
        helper.make_tensor_value_info("last", TensorProto.INT64, ["B", 1]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]),
        helper.make_tensor_value_info("total", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("cos", TensorProto.FLOAT, ["P", half]),
        helper.make_tensor_value_info("sin", TensorProto.FLOAT, ["P", half]),
        *_caches(config, "past", kind),
    ]


def _outputs(config: Qwen3ASRConfig, kind: int) -> list[onnx.ValueInfoProto]:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", config.vocab_size])
    return [logits, *_caches(config, "present", kind)]


def _caches(config: Qwen3ASRConfig, time: str, kind: int) -> list[onnx.ValueInfoProto]:
    shape: list[str | int | None] = ["B", config.decoder_kv_heads, "C", config.head_dim]
    return [
        helper.make_tensor_value_info(f"{time}_{part}.{layer}", kind, shape)
        for layer in range(config.decoder_layers)
        for part in ("key", "value")
    ]
