"""Write wav2vec 2.0 with its CTC head as one ONNX graph, straight from the checkpoint: no torch, no tracing.

    samples [1, N], statistics [2]  →  log_probs [1, T, V]

`statistics` may be left out: clips then get zero mean and unit variance by their own. When a long recording is heard in
chunks, its mean and standard deviation are given, so that every chunk is scaled alike.

Convolutions run as im2col (strided slices side by side) and a matrix product in channels-last order, which is what
eight bits need: the activation is quantised once, sliced as bytes, and multiplied as integers (see
`qwen3_asr_encoder.py`). Base's group norm after the first convolution costs no pass over its output: the convolution
is linear, so mean and variance over time follow from the patches' mean and covariance (10 × 10), and the norm folds
into the weights.

Shapes: N samples, T frames, C channels, D hidden size, V labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from linnet.export.onnx_graph import MICROSOFT, GraphWriter
from linnet.export.quantize import quantize_blocks, quantize_channels
from linnet.export.safetensors import Tensors
from linnet.runtime.wav2vec2_config import Wav2Vec2Config

FloatArray = npt.NDArray[np.float32]
PRECISIONS = ("fp32", "int8", "int8-careful")
"""int8: one scale per output channel, activations one per tensor. int8-careful: matrices in blocks of 128 weights with
activations per frame and block; convolutions stay float."""
BLOCK = 128
NORM_EPSILON = 1e-5  # of the convolutions' norms, whatever config.json says of the others
SILENCE = 1e-7  # added to the variance, as Hugging Face's feature extractor does
_END = np.iinfo(np.int64).max


def write_graph(
    tensors: Tensors, config: Wav2Vec2Config, path: Path, *, precision: str, normalise: bool = True
) -> None:
    """Write `path` (and `.data` beside it if large). `normalise` puts zero mean and unit variance into the graph."""
    with GraphWriter(path) as graph:
        writer = _Writer(graph, tensors, config, precision)
        inputs = [helper.make_tensor_value_info("samples", TensorProto.FLOAT, [1, "samples"])]
        x = "samples"
        if normalise:
            graph.constant("statistics", np.zeros(2, np.float32))  # an initialiser that is an input is its default
            inputs.append(helper.make_tensor_value_info("statistics", TensorProto.FLOAT, [2]))
            x = _normalise(graph)
        x = graph.node("Unsqueeze", [x, graph.integers(2)])  # [1, N, 1]: channels last
        for index in range(len(config.conv_dim)):
            x = writer.convolution(x, index)
        x = writer.layer_norm(x, "wav2vec2.feature_projection.layer_norm")
        x = writer.linear(x, "wav2vec2.feature_projection.projection")
        x = _transformer(writer, x)
        graph.add("LogSoftmax", [writer.linear(x, "lm_head", exact=True)], ["log_probs"], axis=-1)
        outputs = [helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, [1, "frames", config.vocab_size])]
        graph.save("wav2vec2", inputs, outputs)


def _normalise(graph: GraphWriter) -> str:
    """Zero mean, unit variance: the clip's own, or the given ones if their deviation is above zero."""
    mean = graph.node("ReduceMean", ["samples", graph.integers(1)])
    centred = graph.node("Sub", ["samples", mean])
    variance = graph.node("ReduceMean", [graph.node("Mul", [centred, centred]), graph.integers(1)])
    floor = graph.constant("silence", np.array([SILENCE], np.float32))
    own = graph.node("Sqrt", [graph.node("Add", [variance, floor])])
    graph.add("Split", ["statistics"], ["given_mean", "given_scale"], num_outputs=2)
    given = graph.node("Greater", ["given_scale", graph.constant("zero", np.zeros(1, np.float32))])
    mean = graph.node("Where", [given, "given_mean", mean])
    scale = graph.node("Where", [given, "given_scale", own])
    return graph.node("Div", [graph.node("Sub", ["samples", mean]), scale])


class _Writer:
    """Layers by their checkpoint names, in the chosen precision."""

    def __init__(self, graph: GraphWriter, tensors: Tensors, config: Wav2Vec2Config, precision: str) -> None:
        self.graph, self.tensors, self.config, self.precision = graph, tensors, config, precision

    def vector(self, name: str) -> str:
        return self.graph.constant(name, self.tensors.get(name))

    def linear(self, x: str, name: str, *, exact: bool = False) -> str:
        """x · weightᵀ + bias; float in, float out."""
        return self.product(x, name, self.tensors.get(f"{name}.weight"), self.tensors.get(f"{name}.bias"), exact=exact)

    def product(self, x: str, name: str, weight: FloatArray, bias: FloatArray, *, exact: bool = False) -> str:
        """The same for a given matrix [outputs, inputs]."""
        graph = self.graph
        added = graph.constant(f"{name}.bias", bias)
        if self.precision == "fp32" or exact:
            return graph.node("Add", [graph.node("MatMul", [x, graph.constant(f"{name}.weight", weight.T)]), added])
        if self.precision == "int8-careful":
            blocks = quantize_blocks(weight, bits=8, block=BLOCK)
            packed, scales = (
                graph.constant(f"{name}.weight", blocks.packed),
                graph.constant(f"{name}.scales", blocks.scales),
            )
            sizes = {"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK}
            # accuracy_level 4: activations in eight bits
            return graph.node("MatMulNBits", [x, packed, scales, "", "", added], MICROSOFT, accuracy_level=4, **sizes)
        quantized = quantize_channels(weight)
        values = graph.constant(f"{name}.weight", quantized.values.T)
        scales = graph.constant(f"{name}.scales", quantized.scales)
        return graph.node("DynamicQuantizeMatMul", [x, values, scales, "", added], MICROSOFT)

    def layer_norm(self, x: str, name: str, *, epsilon: float | None = None) -> str:
        inputs = [x, self.vector(f"{name}.weight"), self.vector(f"{name}.bias")]
        return self.graph.node("LayerNormalization", inputs, axis=-1, epsilon=epsilon or self.config.layer_norm_eps)

    def add_and_norm(self, branch: str, residual: str, name: str) -> tuple[str, str]:
        """(normalised, sum) of residual + branch, in one pass."""
        graph = self.graph
        normed, total = f"{name}.normed", f"{name}.sum"
        inputs = [branch, residual, self.vector(f"{name}.weight"), self.vector(f"{name}.bias")]
        outputs = [normed, "", "", total]
        graph.add("SkipLayerNormalization", inputs, outputs, MICROSOFT, epsilon=self.config.layer_norm_eps)
        return normed, total

    def convolution(self, x: str, index: int) -> str:
        """Convolution `index`, its norm, GELU: [1, T, C] → [1, T', C']."""
        graph, config = self.graph, self.config
        layer = f"wav2vec2.feature_extractor.conv_layers.{index}"
        weight = self.tensors.get(f"{layer}.conv.weight")  # [C', C, taps]
        matrix = weight.transpose(0, 2, 1).reshape(len(weight), -1)  # columns in the order of the slices: tap, channel
        bias = self.tensors.get(f"{layer}.conv.bias") if config.conv_bias else np.zeros(len(weight), np.float32)
        # The first convolution has ten inputs, so eight bits would cost accuracy and save nothing.
        if self.precision == "int8" and index > 0:
            values, scale, zero = (f"{layer}.{part}" for part in ("input", "input_scale", "input_zero"))
            graph.add("DynamicQuantizeLinear", [x], [values, scale, zero])
            quantized = quantize_channels(matrix)
            inputs = [
                self.patches(values, index),
                graph.constant(f"{layer}.conv.weight", quantized.values.T),
                scale,
                graph.constant(f"{layer}.conv.scales", quantized.scales),
                zero,
                "",
                graph.constant(f"{layer}.conv.bias", bias),
            ]
            x = graph.node("MatMulIntegerToFloat", inputs, MICROSOFT)
        elif config.norm == "group" and index == 0:
            return graph.node("Gelu", [self._group_norm_convolution(self.patches(x, 0), matrix, layer)], MICROSOFT)
        else:
            x = self.product(self.patches(x, index), f"{layer}.conv", matrix, bias, exact=True)
        if config.norm == "layer":
            x = self.layer_norm(x, f"{layer}.layer_norm", epsilon=NORM_EPSILON)
        return graph.node("Gelu", [x], MICROSOFT)

    def patches(self, x: str, index: int) -> str:
        """What each output frame sees, side by side: [1, T, C] → [1, T', taps · C], tap by tap."""
        graph, taps, stride = self.graph, self.config.conv_kernel[index], self.config.conv_stride[index]
        slices = []
        for tap in range(taps):
            # The last window ends with the last tap, so earlier taps stop that much earlier.
            end = tap - taps + 1 if tap < taps - 1 else int(_END)
            slices.append(graph.node("Slice", [x, *(graph.integers(value) for value in (tap, end, 1, stride))]))
        return graph.node("Concat", slices, axis=2) if taps > 1 else slices[0]

    def _group_norm_convolution(self, patches: str, matrix: FloatArray, layer: str) -> str:
        """Convolution and norm over time in one product; a bias of the convolution would cancel out.

        y = W p, so its mean over time is W·mean(p), its variance diag(W cov(p) Wᵀ).
        """
        graph = self.graph
        weight = graph.constant(f"{layer}.conv.weight", matrix.T)  # [taps, C]
        mean = graph.node("ReduceMean", [patches, graph.integers(1)])
        centred = graph.node("Sub", [patches, mean])
        product = graph.node("MatMul", [graph.node("Transpose", [centred], perm=[0, 2, 1]), centred])
        frames = graph.node("Cast", [graph.node("Shape", [patches], start=1, end=2)], to=TensorProto.FLOAT)
        covariance = graph.node("Div", [product, frames])
        spread = graph.node("Mul", [graph.node("MatMul", [covariance, weight]), weight])
        variance = graph.node("ReduceSum", [spread, graph.integers(1)])  # [1, 1, C]
        epsilon = graph.constant("group_norm_epsilon", np.array([NORM_EPSILON], np.float32))
        deviation = graph.node("Sqrt", [graph.node("Add", [variance, epsilon])])
        folded = graph.node("Mul", [weight, graph.node("Div", [self.vector(f"{layer}.layer_norm.weight"), deviation])])
        product = graph.node("MatMul", [centred, folded])
        return graph.node("Add", [product, self.vector(f"{layer}.layer_norm.bias")])


def _transformer(writer: _Writer, x: str) -> str:
    config = writer.config
    residual, branch = x, _positions(writer, x)
    outer = "wav2vec2.encoder.layer_norm"
    if not config.pre_norm:
        x, _ = writer.add_and_norm(branch, residual, outer)
    for index in range(config.layers):
        layer = f"wav2vec2.encoder.layers.{index}"
        if config.pre_norm:
            x, residual = writer.add_and_norm(branch, residual, f"{layer}.layer_norm")
            branch = _attention(writer, x, f"{layer}.attention")
            x, residual = writer.add_and_norm(branch, residual, f"{layer}.final_layer_norm")
            branch = _feed_forward(writer, x, f"{layer}.feed_forward")
        else:
            x, _ = writer.add_and_norm(_attention(writer, x, f"{layer}.attention"), x, f"{layer}.layer_norm")
            x, _ = writer.add_and_norm(
                _feed_forward(writer, x, f"{layer}.feed_forward"), x, f"{layer}.final_layer_norm"
            )
    if config.pre_norm:
        x, _ = writer.add_and_norm(branch, residual, outer)
    return x


def _positions(writer: _Writer, x: str) -> str:
    """Grouped convolution over time, GELU. An even kernel pads one frame less on the right."""
    graph, config = writer.graph, writer.config
    name, taps = "wav2vec2.encoder.pos_conv_embed.conv", config.position_kernel
    direction = writer.tensors.get(f"{name}.weight_v")
    norm = np.sqrt(np.square(direction).sum(axis=(0, 1), keepdims=True))
    weight = graph.constant(f"{name}.weight", writer.tensors.get(f"{name}.weight_g") * direction / norm)
    y = graph.node(
        "Conv",
        [graph.node("Transpose", [x], perm=[0, 2, 1]), weight, writer.vector(f"{name}.bias")],
        kernel_shape=[taps],
        group=config.position_groups,
        pads=[taps // 2, taps // 2 - (taps % 2 == 0)],
    )
    return graph.node("Transpose", [graph.node("Gelu", [y], MICROSOFT)], perm=[0, 2, 1])


def _attention(writer: _Writer, x: str, name: str) -> str:
    # One product for q, k and v: the input is quantised once.
    weight = np.concatenate([writer.tensors.get(f"{name}.{part}_proj.weight") for part in "qkv"])
    bias = np.concatenate([writer.tensors.get(f"{name}.{part}_proj.bias") for part in "qkv"])
    parts = [f"{name}.{part}" for part in "qkv"]
    writer.graph.add("Split", [writer.product(x, f"{name}.qkv", weight, bias)], parts, axis=-1, num_outputs=3)
    attended = writer.graph.node("MultiHeadAttention", parts, MICROSOFT, num_heads=writer.config.heads)
    return writer.linear(attended, f"{name}.out_proj")


def _feed_forward(writer: _Writer, x: str, name: str) -> str:
    x = writer.graph.node("Gelu", [writer.linear(x, f"{name}.intermediate_dense")], MICROSOFT)
    return writer.linear(x, f"{name}.output_dense")
