"""Write Qwen3-ASR's audio encoder as two ONNX graphs, straight from the checkpoint: no torch, no tracing.

    encoder_conv.onnx   mel [N, M, F ≤ 100]  → hidden [N, T, D]   three convolutions, conv_out, positions of the chunk
    encoder.onnx        hidden [W, T, D]     → audio  [W, T, O]   transformer over whole windows, no mask, then proj1/2

Shapes: N chunks of up to 1 s, M mel bands, F frames, T tokens, D d_model, W windows, O output_dim, C conv channels.
Source: qwen-asr 0.0.6, `Qwen3ASRAudioEncoder`.

int8: weights are signed and symmetric, one scale per output channel; activations are quantised on the fly, one scale
per tensor. A convolution becomes im2col on the quantised (1 byte) activation, nine strided slices side by side, and one
integer matrix product; ConvInteger is four times slower. conv2d1 has one input channel and stays float.

int8-careful: for weights or audio whose activations have outliers. The matrices have one scale per
128 weights and activations one per token and block, so that a loud frame costs its neighbours nothing; convolutions as
in int8. About 1.6 times the time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from linnet.errors import ExportError
from linnet.export.onnx_graph import MICROSOFT, GraphWriter
from linnet.export.quantize import (
    ChannelQuantized,
    TensorError,
    dequantize_blocks,
    dequantize_channels,
    quantize_blocks,
    quantize_channels,
    tensor_error,
)
from linnet.export.qwen3_asr_adapter import AdapterFile
from linnet.export.qwen3_asr_adapter_graph import AdapterGraph
from linnet.export.safetensors import Tensors
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
PRECISIONS = ("fp32", "int8", "int8-careful")
WHY_NO_4_BITS = (
    "An encoder of fewer than 8 bits breaks recognition (cosine .95 to .97 per frame: loops and empty answers) and is "
    "not even faster; 4 bits belong in the decoder, as in --decoder int4."
)
BLOCK = 128
LAYER_NORM_EPSILON = 1e-5
_TIMESCALE = 10_000.0


def write_encoder(
    tensors: Tensors, config: Qwen3ASRConfig, folder: Path, *, precision: str, adapter: AdapterFile | None = None
) -> tuple[TensorError, ...]:
    """Write `encoder_conv.onnx` and `encoder.onnx` (and `.data` files if large) into `folder`, with an adapter inside.

    Returns how far each quantised matrix is from the checkpoint's, nothing for fp32. Raises ExportError for a precision
    that is not in PRECISIONS, or an adapter with sites in the decoder.
    """
    adapters = AdapterGraph(adapter, config)
    if precision not in PRECISIONS:
        raise ExportError(
            f"Encoder precision {precision!r} is not offered; accepted: {', '.join(PRECISIONS)}. {WHY_NO_4_BITS}"
        )
    with GraphWriter(folder / "encoder_conv.onnx") as graph:
        conv = _Encoder(graph, tensors, config, precision, adapters)
        _write_conv(conv)
    with GraphWriter(folder / "encoder.onnx") as graph:
        transformer = _Encoder(graph, tensors, config, precision, adapters)
        _write_transformer(transformer)
    return (*conv.errors, *transformer.errors)


def positions(length: int, channels: int) -> FloatArray:
    """Sinusoidal positions [length, channels], sines then cosines (Whisper's `sinusoids`)."""
    half = channels // 2
    rates = np.exp(-np.log(_TIMESCALE) / (half - 1) * np.arange(half, dtype=np.float32)).astype(np.float32)
    angles = np.arange(length, dtype=np.float32)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


class _Encoder:
    """What the two graphs share: tensors by name, and a linear layer in the chosen precision."""

    def __init__(
        self, graph: GraphWriter, tensors: Tensors, config: Qwen3ASRConfig, precision: str, adapters: AdapterGraph
    ) -> None:
        self.graph, self.tensors, self.config, self.adapters = graph, tensors, config, adapters
        self.precision, self.int8 = precision, precision != "fp32"
        self.errors: list[TensorError] = []

    def get(self, name: str) -> FloatArray:
        return self.adapters.merged(f"audio_tower.{name}", self.tensors.get(f"audio_tower.{name}"))

    def vector(self, name: str) -> str:
        return self.graph.constant(name, self.get(name))

    def linear(self, x: str, name: str, weight: FloatArray, bias: FloatArray | None) -> str:
        """x · weightᵀ + bias for a checkpoint matrix [outputs, inputs]; float in, float out."""
        graph = self.graph
        added = [] if bias is None else [graph.constant(f"{name}.bias", bias)]
        if not self.int8:
            product = graph.node("MatMul", [x, graph.constant(f"{name}.weight", weight.T)])
            return graph.node("Add", [product, *added]) if added else product
        if self.precision == "int8-careful":
            blocks = quantize_blocks(weight, bits=8, block=BLOCK)
            restored = dequantize_blocks(blocks)[:, : weight.shape[1]]
            self.errors.append(tensor_error(f"audio_tower.{name}", weight, restored))
            packed = graph.constant(f"{name}.weight", blocks.packed)
            inputs = [x, packed, graph.constant(f"{name}.scales", blocks.scales), "", "", *added]
            sizes = {"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK}
            return graph.node("MatMulNBits", inputs, MICROSOFT, accuracy_level=4, **sizes)  # 4: int8 activations
        quantized = self.channels(name, weight)
        values = graph.constant(f"{name}.weight", quantized.values.T)
        scales = graph.constant(f"{name}.scales", quantized.scales)
        return graph.node("DynamicQuantizeMatMul", [x, values, scales, "", *added], MICROSOFT)

    def channels(self, name: str, weight: FloatArray) -> ChannelQuantized:
        quantized = quantize_channels(weight)
        self.errors.append(tensor_error(f"audio_tower.{name}", weight, dequantize_channels(quantized)))
        return quantized

    def layer_norm(self, x: str, name: str) -> str:
        inputs = [x, self.vector(f"{name}.weight"), self.vector(f"{name}.bias")]
        return self.graph.node("LayerNormalization", inputs, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def add_and_norm(self, branch: str, residual: str, name: str) -> tuple[str, str]:
        """(normalised, sum) of residual + branch, in one pass."""
        normed, total = f"{name}.normed", f"{name}.sum"
        inputs = [branch, residual, self.vector(f"{name}.weight"), self.vector(f"{name}.bias")]
        outputs = [normed, "", "", total]
        self.graph.add("SkipLayerNormalization", inputs, outputs, MICROSOFT, epsilon=LAYER_NORM_EPSILON)
        return normed, total


def _write_conv(encoder: _Encoder) -> None:
    graph, config = encoder.graph, encoder.config
    x = graph.node("Unsqueeze", ["mel", graph.integers(1)])
    x = _conv(encoder, x, "conv2d1")
    if encoder.int8:
        x = graph.node("Transpose", [x], perm=[0, 2, 3, 1])  # [N, bands, T, C]: channels last for im2col
        x = _conv_int8(encoder, x, "conv2d2")
        x = _conv_int8(encoder, x, "conv2d3")
        x = graph.node("Transpose", [x], perm=[0, 2, 1, 3])
        by_channel = encoder.get("conv_out.weight").reshape(config.d_model, config.conv_channels, -1)
        weight = by_channel.transpose(0, 2, 1).reshape(config.d_model, -1)  # features are (band, channel) here
    else:
        x = _conv(encoder, x, "conv2d2")
        x = _conv(encoder, x, "conv2d3")
        x = graph.node("Transpose", [x], perm=[0, 3, 1, 2])  # [N, T, C, bands]
        weight = encoder.get("conv_out.weight")
    flat = graph.node("Reshape", [x, graph.integers(0, 0, config.conv_out_features)])
    x = encoder.linear(flat, "conv_out", weight, None)
    table = graph.constant("positions", positions(config.chunk_tokens(config.chunk_frames), config.d_model))
    tokens = graph.node("Shape", [x], start=1, end=2)
    here = graph.node("Slice", [table, graph.integers(0), tokens, graph.integers(0)])
    graph.add("Add", [x, here], ["hidden"])
    inputs = [helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["chunks", config.n_mels, "frames"])]
    outputs = [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["chunks", "tokens", config.d_model])]
    graph.save("qwen3_asr_encoder_conv", inputs, outputs)


def _conv(encoder: _Encoder, x: str, name: str) -> str:
    weight = encoder.graph.constant(f"{name}.weight", encoder.get(f"{name}.weight"))
    x = encoder.graph.node(
        "Conv", [x, weight, encoder.vector(f"{name}.bias")], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    )
    return encoder.graph.node("Gelu", [x], MICROSOFT)


def _conv_int8(encoder: _Encoder, x: str, name: str) -> str:
    """3×3, stride 2, padding 1 on x [N, bands, T, C], then GELU: quantise once, nine slices, one integer product."""
    graph = encoder.graph
    values, scale, zero = (f"{name}.{part}" for part in ("input", "input_scale", "input_zero"))
    graph.add("DynamicQuantizeLinear", [x], [values, scale, zero])
    padded = graph.node("Pad", [values, graph.integers(0, 1, 1, 0, 0, 1, 1, 0), zero])  # the zero point is 0.0
    # A slice takes every second row and column, from offset 0, 1 or 2; the last window's end bounds all of them.
    ends = {0: -2, 1: -1, 2: np.iinfo(np.int64).max}
    patches = []
    for row in range(3):
        for column in range(3):
            start, end = graph.integers(row, column), graph.integers(ends[row], ends[column])
            patches.append(graph.node("Slice", [padded, start, end, graph.integers(1, 2), graph.integers(2, 2)]))
    columns = graph.node("Concat", patches, axis=-1)  # [N, bands/2, T/2, 9C]
    weight = encoder.get(f"{name}.weight")  # [C out, C in, row, column]
    quantized = encoder.channels(name, weight.transpose(0, 2, 3, 1).reshape(len(weight), -1))
    inputs = [
        columns,
        graph.constant(f"{name}.weight", quantized.values.T),
        scale,
        graph.constant(f"{name}.scales", quantized.scales),
        zero,
        "",
        encoder.vector(f"{name}.bias"),
    ]
    return graph.node("Gelu", [graph.node("MatMulIntegerToFloat", inputs, MICROSOFT)], MICROSOFT)


def _write_transformer(encoder: _Encoder) -> None:
    graph, config = encoder.graph, encoder.config
    residual, branch = "hidden", ""
    for index in range(config.encoder_layers):
        layer = f"layers.{index}"
        if branch:
            x, residual = encoder.add_and_norm(branch, residual, f"{layer}.self_attn_layer_norm")
        else:
            x = encoder.layer_norm(residual, f"{layer}.self_attn_layer_norm")
        branch = _attention(encoder, x, f"{layer}.self_attn")
        x, residual = encoder.add_and_norm(branch, residual, f"{layer}.final_layer_norm")
        x = _linear(encoder, x, f"{layer}.fc1")
        x = graph.node("Gelu", [x], MICROSOFT)
        branch = _linear(encoder, x, f"{layer}.fc2")
        if encoder.adapters.has(str(index)):
            residual, branch = encoder.adapters.branch(graph, graph.node("Add", [residual, branch]), str(index)), ""
    if branch:
        x, _ = encoder.add_and_norm(branch, residual, "ln_post")
    else:
        x = encoder.layer_norm(residual, "ln_post")
    x = graph.node("Gelu", [_linear(encoder, x, "proj1")], MICROSOFT)
    x = _linear(encoder, x, "proj2")
    if encoder.adapters.has("output"):
        x = encoder.adapters.branch(graph, x, "output")
    graph.add("Identity", [x], ["audio"])
    inputs = [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["windows", "tokens", config.d_model])]
    outputs = [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["windows", "tokens", config.output_dim])]
    graph.save("qwen3_asr_encoder", inputs, outputs)


def _linear(encoder: _Encoder, x: str, name: str) -> str:
    return encoder.linear(x, name, encoder.get(f"{name}.weight"), encoder.get(f"{name}.bias"))


def _attention(encoder: _Encoder, x: str, name: str) -> str:
    # One product for q, k and v: the input is quantised once.
    weight = np.concatenate([encoder.get(f"{name}.{part}_proj.weight") for part in "qkv"])
    bias = np.concatenate([encoder.get(f"{name}.{part}_proj.bias") for part in "qkv"])
    qkv = encoder.linear(x, f"{name}.qkv", weight, bias)
    parts = [f"{name}.{part}" for part in "qkv"]
    encoder.graph.add("Split", [qkv], parts, axis=-1, num_outputs=3)
    heads = encoder.config.encoder_heads
    attended = encoder.graph.node("MultiHeadAttention", parts, MICROSOFT, num_heads=heads)  # scale: head size^-1/2
    return _linear(encoder, attended, f"{name}.out_proj")
