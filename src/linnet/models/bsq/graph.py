"""Write a tokenizer as two ONNX graphs that work block by block, straight from its weights: no tracing.

    encoder.onnx   log_mel [F, M], bias [P + T], caches → latents [T, D] (their signs are the bits), caches
    decoder.onnx   codes ±1 [T, D], bias [P + T], caches → log_mel [F, M], real and imaginary [F, K], caches

T is one block of tokens or less. The caches of layer N of both: keys.N and values.N [1, heads, P, C/heads], not yet
rotated, and the last inputs of the depthwise convolutions, conv.N [kernel − 1, C]; the decoder's waveform head adds
wave.N [kernel − 1, S]. What comes out as next_NAME goes in as NAME with the next block. `bias` is 0, or −1e9 where the
cache holds nothing yet. Normalisation of log-mel is inside.

Shapes: P = left_tokens, C = d_model, D bits, M mel bands, R frames per token, F = T·R frames, S channels of
the waveform head, K = n_fft / 2 + 1 bins.

int8: signed symmetric weights with a scale per output channel, activations quantised per call. int8_blocks: a scale
per 256 weights, and activations quantised per token and block. What touches mel, bits or spectra stays float.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from linnet.errors import ExportError
from linnet.export.onnx_graph import MICROSOFT, GraphWriter
from linnet.export.quantize import quantize_blocks, quantize_channels
from linnet.runtime.bsq_config import BSQConfig

FloatArray = npt.NDArray[np.float32]
Weights = Mapping[str, FloatArray]
Value = tuple[str, list[str | int]]  # name and shape of a graph's input or output
PRECISIONS = ("fp32", "int8", "int8_blocks")
BLOCK = 256
EPSILON = 1e-5
ROPE_THETA = 10_000.0
MAX_LOG_MAGNITUDE = 6.0


def write_graphs(weights: Weights, config: BSQConfig, folder: Path, *, precision: str) -> None:
    """Write encoder.onnx and decoder.onnx into `folder`; `weights` has the names of `BSQ`'s parameters.

    Raises ExportError for an unknown precision and for a model that needs the whole recording at once.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"Precision {precision!r} is not offered; accepted: {', '.join(PRECISIONS)}.")
    if config.block_tokens is None:
        raise ExportError(
            "A model with block_tokens=None looks at the whole recording and cannot work block by block; accepted: "
            "models trained with block_tokens ≥ 1."
        )
    with GraphWriter(folder / "encoder.onnx") as graph:
        _write_encoder(_Writer(graph, weights, config, precision))
    with GraphWriter(folder / "decoder.onnx") as graph:
        _write_decoder(_Writer(graph, weights, config, precision))


class _Writer:
    """Weights by name, and the layers that both graphs are made of."""

    def __init__(self, graph: GraphWriter, weights: Weights, config: BSQConfig, precision: str) -> None:
        self.graph, self.weights, self.config, self.precision = graph, weights, config, precision
        self.cached: list[tuple[str, str]] = []  # name and kind

    def vector(self, name: str) -> str:
        return self.graph.constant(name, self.weights[name])

    def linear(self, x: str, name: str, *, exact: bool = False) -> str:
        """x · weightᵀ + bias; `exact` stays float in every precision."""
        graph, weight = self.graph, self.weights[f"{name}.weight"]
        bias = self.vector(f"{name}.bias")
        if exact or self.precision == "fp32":
            product = graph.node("MatMul", [x, graph.constant(f"{name}.weight", weight.T)])
            return graph.node("Add", [product, bias])
        if self.precision == "int8_blocks":
            blocks = quantize_blocks(weight, bits=8, block=BLOCK)
            packed = graph.constant(f"{name}.weight", blocks.packed)
            inputs = [x, packed, graph.constant(f"{name}.scales", blocks.scales), "", "", bias]
            sizes = {"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK}
            return graph.node("MatMulNBits", inputs, MICROSOFT, accuracy_level=4, **sizes)  # 4: int8 activations
        quantized = quantize_channels(weight)
        values = graph.constant(f"{name}.weight", quantized.values.T)
        scales = graph.constant(f"{name}.scales", quantized.scales)
        return graph.node("DynamicQuantizeMatMul", [x, values, scales, "", bias], MICROSOFT)

    def norm(self, x: str, name: str) -> str:
        inputs = [x, self.vector(f"{name}.weight"), self.vector(f"{name}.bias")]
        return self.graph.node("LayerNormalization", inputs, axis=-1, epsilon=EPSILON)

    def layers(self, x: str, part: str, tokens: str) -> str:
        """The stack of `part` on x [T, C]."""
        for index in range(self.config.layers):
            name = f"{part}.layers.blocks.{index}"
            attended = self._attention(self.norm(x, f"{name}.attention_norm"), name, index, tokens)
            x = self.graph.node("Add", [x, attended])
            if self.config.convolution:
                x = self.graph.node("Add", [x, self._convolution(x, f"{name}.convolution", index, tokens)])
            hidden = self.linear(self.norm(x, f"{name}.ffn_norm"), f"{name}.fc1")
            hidden = self.linear(self.graph.node("Gelu", [hidden]), f"{name}.fc2")
            x = self.graph.node("Add", [x, hidden])
        return x

    def remember(self, kind: str, index: int, new: str, tokens: str, *, axis: int = 0) -> str:
        """Cache `kind` of layer `index` before `new` (P and T along `axis`); the last P become the next cache."""
        joined = self.graph.node("Concat", [f"{kind}.{index}", new], axis=axis)
        end = self.graph.integers(np.iinfo(np.int64).max)
        self.graph.add("Slice", [joined, tokens, end, self.graph.integers(axis)], [f"next_{kind}.{index}"])
        self.cached.append((f"{kind}.{index}", kind))
        return joined

    def depthwise(self, joined: str, name: str) -> str:
        """Convolution along time of [kernel − 1 + T, C] → [T, C]."""
        graph, weight = self.graph, self.weights[f"{name}.weight"]
        # As a picture one pixel high with its channels last: for these ONNX Runtime has fast depthwise kernels.
        picture = graph.node("Unsqueeze", [joined, graph.integers(0, 1)])
        inputs = [graph.node("Transpose", [picture], perm=[0, 3, 1, 2]),
                  graph.constant(f"{name}.weight", weight[:, :, None]), self.vector(f"{name}.bias")]  # fmt: skip
        out = graph.node("Conv", inputs, group=len(weight), kernel_shape=[1, weight.shape[2]])
        return graph.node("Squeeze", [graph.node("Transpose", [out], perm=[0, 2, 3, 1]), graph.integers(0, 1)])

    def finish(self, name: str, inputs: list[Value], outputs: list[Value]) -> None:
        """Add the caches and save."""
        sizes = cache_sizes(self.config)
        caches: list[Value] = [(key, list(sizes[kind])) for key, kind in self.cached]
        inputs, outputs = [*inputs, *caches], [*outputs, *((f"next_{key}", shape) for key, shape in caches)]
        floats = [[helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in side]
                  for side in (inputs, outputs)]  # fmt: skip
        self.graph.save(name, floats[0], floats[1])

    def _attention(self, x: str, name: str, index: int, tokens: str) -> str:
        graph, config = self.graph, self.config
        queries, keys, values = (f"{name}.{part}" for part in ("queries", "keys", "values"))
        graph.add("Split", [self.linear(x, f"{name}.qkv")], [queries, keys, values], axis=-1, num_outputs=3)
        keys, values = (self.remember(kind, index, self._heads(new), tokens, axis=2)
                        for kind, new in (("keys", keys), ("values", values)))  # fmt: skip
        queries = self._rotate(self._heads(queries), config.left_tokens)
        keys = self._rotate(keys, 0)
        scale = graph.constant("scale", np.array((config.d_model // config.heads) ** -0.5, np.float32))
        across = graph.node("Transpose", [keys], perm=[0, 1, 3, 2])
        scores = graph.node("MatMul", [graph.node("Mul", [queries, scale]), across])
        weights = graph.node("Softmax", [graph.node("Add", [scores, "bias"])], axis=-1)
        attended = graph.node("Transpose", [graph.node("MatMul", [weights, values])], perm=[0, 2, 1, 3])
        return self.linear(graph.node("Reshape", [attended, graph.integers(-1, config.d_model)]), f"{name}.out")

    def _heads(self, x: str) -> str:
        """[T, C] → [1, H, T, head]."""
        heads = self.config.heads
        split = self.graph.node("Reshape", [x, self.graph.integers(1, -1, heads, self.config.d_model // heads)])
        return self.graph.node("Transpose", [split], perm=[0, 2, 1, 3])

    def _rotate(self, x: str, first: int) -> str:
        """Rotary positions first, first + 1, … on x [1, H, T, head]: only their differences matter."""
        graph, config = self.graph, self.config
        head = config.d_model // config.heads
        assert config.block_tokens is not None
        rates = ROPE_THETA ** (-np.arange(0, head, 2, dtype=np.float32) / head)
        angles = np.arange(config.left_tokens + config.block_tokens, dtype=np.float32)[:, None] * rates
        tables = [
            graph.constant(key, table.astype(np.float32))
            for key, table in (("cos", np.cos(angles)), ("sin", np.sin(angles)))
        ]
        return graph.node("RotaryEmbedding", [x, graph.integers(first), *tables], MICROSOFT)

    def _convolution(self, x: str, name: str, index: int, tokens: str) -> str:
        graph = self.graph
        value, gate = f"{name}.value", f"{name}.gated"
        both = self.linear(self.norm(x, f"{name}.norm"), f"{name}.gate")
        graph.add("Split", [both], [value, gate], axis=-1, num_outputs=2)
        gated = graph.node("Mul", [value, graph.node("Sigmoid", [gate])])
        x = self.depthwise(self.remember("conv", index, gated, tokens), f"{name}.depthwise")
        x = self.norm(x, f"{name}.inner_norm")
        return self.linear(graph.node("Mul", [x, graph.node("Sigmoid", [x])]), f"{name}.out")


def cache_sizes(config: BSQConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every kind of cache, one of which each layer has."""
    heads = (1, config.heads, config.left_tokens, config.d_model // config.heads)
    return {
        "keys": heads,
        "values": heads,
        "conv": (config.kernel_size - 1, config.d_model),
        "wave": (config.waveform_kernel - 1, config.waveform_channels),
    }


def _statistics(writer: _Writer) -> tuple[str, str]:
    bands = writer.config.features.n_mels
    mean = np.array(writer.config.mel_mean or [0.0] * bands, np.float32)
    std = np.array(writer.config.mel_std or [1.0] * bands, np.float32)
    return writer.graph.constant("mel_mean", mean), writer.graph.constant("mel_std", std)


def _write_encoder(writer: _Writer) -> None:
    graph, config = writer.graph, writer.config
    mean, std = _statistics(writer)
    normal = graph.node("Div", [graph.node("Sub", ["log_mel", mean]), std])
    x = graph.node("Reshape", [normal, graph.integers(-1, config.token_features)])
    tokens, linear = graph.node("Shape", [x], start=0, end=1), writer.linear(x, "encoder.shortcut", exact=True)
    x = writer.layers(writer.linear(x, "encoder.embed", exact=True), "encoder", tokens)
    latents = writer.linear(writer.norm(x, "encoder.norm"), "encoder.project", exact=True)
    graph.add("Add", [latents, linear], ["latents"])
    inputs: list[Value] = [("log_mel", ["frames", config.features.n_mels]), ("bias", ["seen"])]
    writer.finish("bsq_encoder", inputs, [("latents", ["tokens", config.bits])])


def _write_decoder(writer: _Writer) -> None:
    graph, config = writer.graph, writer.config
    tokens = graph.node("Shape", ["codes"], start=0, end=1)
    x = writer.layers(writer.linear("codes", "decoder.embed", exact=True), "decoder", tokens)
    hidden = writer.norm(x, "decoder.norm")
    mean, std = _statistics(writer)
    linear = writer.linear("codes", "decoder.shortcut", exact=True)
    picture = graph.node("Add", [writer.linear(hidden, "decoder.project", exact=True), linear])
    picture = graph.node("Reshape", [picture, graph.integers(-1, config.features.n_mels)])
    graph.add("Add", [graph.node("Mul", [picture, std]), mean], ["log_mel"])
    outputs: list[Value] = [("log_mel", ["frames", config.features.n_mels])]
    if config.waveform_channels:
        _write_waveform(writer, hidden)
        bins = config.features.n_fft // 2 + 1
        outputs += [("real", ["frames", bins]), ("imaginary", ["frames", bins])]
    inputs: list[Value] = [("codes", ["tokens", config.bits]), ("bias", ["seen"])]
    writer.finish("bsq_decoder", inputs, outputs)


def _write_waveform(writer: _Writer, hidden: str) -> None:
    graph, config = writer.graph, writer.config
    x = graph.node("Reshape", [writer.linear(hidden, "waveform.embed"), graph.integers(-1, config.waveform_channels)])
    frames = graph.node("Shape", [x], start=0, end=1)
    for index in range(config.waveform_layers):
        name = f"waveform.blocks.{index}"
        branch = writer.depthwise(writer.remember("wave", index, x, frames), f"{name}.depthwise")
        branch = writer.linear(writer.norm(branch, f"{name}.norm"), f"{name}.fc1")
        branch = writer.linear(graph.node("Gelu", [branch]), f"{name}.fc2")
        x = graph.node("Add", [x, graph.node("Mul", [branch, writer.vector(f"{name}.scale")])])
    spectrum = writer.linear(writer.norm(x, "waveform.norm"), "waveform.project", exact=True)
    graph.add("Split", [spectrum], ["log_magnitude", "phase"], axis=-1, num_outputs=2)
    limit = graph.constant("max_log_magnitude", np.array(MAX_LOG_MAGNITUDE, np.float32))
    magnitude = graph.node("Exp", [graph.node("Min", ["log_magnitude", limit])])
    graph.add("Mul", [magnitude, graph.node("Cos", ["phase"])], ["real"])
    graph.add("Mul", [magnitude, graph.node("Sin", ["phase"])], ["imaginary"])
