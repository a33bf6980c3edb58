"""Write the audio-visual recogniser as one ONNX graph, straight from its weights: no torch, no tracing.

    mel [B, M, F] float, mel_frames [B] int64, video [B, T, S, S] uint8, video_frames [B] int64
    → log_probs [B, L, V], lengths [B] int64, L = max(⌈F/4⌉, T)

B, F and T are free; a stream that is absent has length 0 and one empty frame. The mathematics is that of
`models/avsr/model.py` and its README. int8 and int8-careful hold the linear layers in eight bits (see
`qwen3_asr_encoder.py`); the convolutions are small and stay float.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from linnet.errors import ExportError
from linnet.export.onnx_graph import MICROSOFT, GraphWriter
from linnet.export.quantize import quantize_blocks, quantize_channels
from linnet.runtime.avsr_config import AVSRConfig, attention_slopes

FloatArray = npt.NDArray[np.float32]
PRECISIONS = ("fp32", "int8", "int8-careful")
BLOCK = 128
EPSILON, CONTRAST, RELIABILITY_STEPS = 1e-5, 8.0, 13  # as in models/avsr


def write_avsr(weights: Mapping[str, FloatArray], config: AVSRConfig, out: Path, *, precision: str = "fp32") -> None:
    """Write `out`; `weights` are the module's, by name. Raises ExportError for a precision that is not offered."""
    if precision not in PRECISIONS:
        raise ExportError(f"Precision {precision!r} is not offered; accepted: {', '.join(PRECISIONS)}.")
    with GraphWriter(out) as graph:
        writer = _Writer(graph, weights, config, precision)
        audio, audio_lengths = writer.audio()
        video = writer.video()
        writer.joint(audio, audio_lengths, video)
        mels, side, symbols = config.n_mels, config.video_px, len(weights["head.bias"])
        inputs = [
            helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["clips", mels, "mel_frames"]),
            helper.make_tensor_value_info("mel_frames", TensorProto.INT64, ["clips"]),
            helper.make_tensor_value_info("video", TensorProto.UINT8, ["clips", "pictures", side, side]),
            helper.make_tensor_value_info("video_frames", TensorProto.INT64, ["clips"]),
        ]
        outputs = [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["clips", "steps", symbols]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["clips"]),
        ]
        graph.save("avsr", inputs, outputs)


class _Writer:
    """The parts of the graph; every method returns names of values."""

    def __init__(
        self, graph: GraphWriter, weights: Mapping[str, FloatArray], config: AVSRConfig, precision: str
    ) -> None:
        self.graph, self.weights, self.config, self.precision = (graph, weights, config, precision)

    def audio(self) -> tuple[str, str]:
        """Features [B, ⌈F/4⌉, D] and valid steps [B]."""
        g, frames = self.graph, "mel_frames"
        mask = g.node("Transpose", [self.mask(frames, self.size("mel", 2))], perm=[0, 2, 1])
        x = g.node("Unsqueeze", [g.node("Mul", ["mel", mask]), g.integers(1)])
        for name, stride in (("conv1", [2, 2]), ("conv2", [2, 2]), ("conv3", [2, 1])):
            if stride[1] == 2:
                frames = g.node("Div", [g.node("Add", [frames, g.integers(1)]), g.integers(2)])
            x = self.conv(x, f"audio.{name}", 3, stride)
            mask = g.node("Transpose", [self.mask(frames, self.size(x, 3))], perm=[0, 2, 1])  # [B, 1, F']
            x = g.node("Mul", [x, g.node("Unsqueeze", [mask, g.integers(1)])])
        x = g.node("Transpose", [x], perm=[0, 3, 1, 2])
        x = g.node("Reshape", [x, g.integers(0, 0, self.weights["audio.project.weight"].shape[1])])
        x = self.norm(self.linear(x, "audio.project"), "audio.norm")
        return g.node("Mul", [x, self.mask(frames, self.size(x, 1))]), frames

    def video(self) -> str:
        """Features [B, T, D]."""
        g, side = self.graph, self.config.video_px
        x = g.node("Cast", [g.node("Reshape", ["video", g.integers(-1, 1, side, side)])], to=TensorProto.FLOAT)
        x = g.node("Sub", [x, g.node("ReduceMean", [x, g.integers(2, 3)])])
        power = g.node("ReduceMean", [g.node("Mul", [x, x]), g.integers(2, 3)])
        spread = g.node("Add", [g.node("Sqrt", [power]), self.number("contrast", CONTRAST)])
        x = g.node("Div", [x, spread])
        for name, kernel in (("conv1", 5), ("conv2", 3), ("conv3", 3)):
            x = self.conv(x, f"video.{name}", kernel, [2, 2])
        pool = side // 16
        x = g.node("AveragePool", [x], kernel_shape=[pool, pool], strides=[pool, pool])
        x = g.node("Reshape", [x, g.integers(-1, self.weights["video.project.weight"].shape[1])])
        x = self.norm(self.linear(x, "video.project"), "video.norm")
        shape = g.node("Concat", [g.node("Shape", ["video"], start=0, end=2), g.integers(self.config.width)], axis=0)
        x = g.node("Reshape", [x, shape])
        return g.node("Mul", [x, self.mask("video_frames", self.size("video", 1))])

    def joint(self, audio: str, audio_lengths: str, video: str) -> None:
        """Temporal blocks, fusion and head; writes the graph's outputs."""
        g = self.graph
        steps = g.node("Max", [self.size(audio, 1), self.size(video, 1)])
        g.add("Max", [audio_lengths, "video_frames"], ["lengths"])
        audio, video = self.stretch(audio, steps), self.stretch(video, steps)
        has_audio, has_video = (self.mask(audio_lengths, steps), self.mask("video_frames", steps))
        for number in range(self.config.stream_blocks):
            audio = self.block(audio, has_audio, f"audio_blocks.{number}")
            video = self.block(video, has_video, f"video_blocks.{number}")
        mask = self.mask("lengths", steps)
        heard, seen = (
            self.or_absent(audio, has_audio, "no_audio", mask),
            self.or_absent(video, has_video, "no_video", mask),
        )
        match self.config.fusion:
            case "simple":
                x = self.linear(g.node("Concat", [heard, seen], axis=-1), "fusion.mix")
            case "weighted":
                x = self.weighted(heard, seen, has_audio, has_video)
            case "attention":
                to_video = self.attend(heard, seen, has_video, steps, "fusion.to_video")
                to_audio = self.attend(seen, heard, has_audio, steps, "fusion.to_audio")
                x = g.node("Sum", [heard, to_video, seen, to_audio])
            case "adaptive":
                sure = [
                    self.reliability(self.log_probs(audio, "audio_head"), has_audio),
                    self.reliability(self.log_probs(video, "video_head"), has_video),
                ]
                x = self.adaptive(heard, seen, has_audio, has_video, sure)
        x = g.node("Mul", [x, mask])
        for number in range(self.config.joint_blocks):
            x = self.block(x, mask, f"joint_blocks.{number}")
        g.add("Identity", [self.log_probs(self.norm(x, "norm"), "head")], ["log_probs"])

    def block(self, x: str, mask: str, name: str) -> str:
        g, half = self.graph, self.config.kernel // 2
        mixed = g.node(
            "Conv",
            [g.node("Transpose", [x], perm=[0, 2, 1]), self.get(f"{name}.conv.weight"), self.get(f"{name}.conv.bias")],
            kernel_shape=[self.config.kernel],
            pads=[half, half],
            group=self.config.width,
        )
        mixed = self.norm(g.node("Transpose", [mixed], perm=[0, 2, 1]), f"{name}.norm")
        wide = g.node("Gelu", [self.linear(mixed, f"{name}.up")], MICROSOFT)
        return g.node("Mul", [g.node("Add", [x, self.linear(wide, f"{name}.down")]), mask])

    def weighted(self, heard: str, seen: str, has_audio: str, has_video: str) -> str:
        raw = self.weights["fusion.weights"]
        share = np.exp(raw - raw.max(0)) / np.exp(raw - raw.max(0)).sum(0)
        shares = [
            self.graph.node("Mul", [has, self.graph.constant(f"share{row}", share[row])])
            for row, has in enumerate((has_audio, has_video))
        ]
        return self.linear(self.blend(heard, seen, shares), "fusion.mix")

    def adaptive(self, heard: str, seen: str, has_audio: str, has_video: str, sure: list[str]) -> str:
        g = self.graph
        known = g.node("Concat", [heard, seen, *sure, has_audio, has_video], axis=-1)
        hidden = g.node("Relu", [self.linear(known, "fusion.hidden")])
        gate = g.node("Sigmoid", [self.linear(hidden, "fusion.gate")])
        gate = g.node("Mul", [gate, self.number("gate_range", 0.98)])
        gate = g.node("Add", [gate, self.number("gate_least", 0.01)])
        other = g.node("Sub", [self.number("one", 1), gate])
        shares = [g.node("Mul", [gate, has_audio]), g.node("Mul", [other, has_video])]
        return self.linear(self.blend(heard, seen, shares), "fusion.mix")

    def blend(self, heard: str, seen: str, shares: list[str]) -> str:
        g = self.graph
        total = g.node("Add", [g.node("Add", shares), self.number("tiny", 1e-6)])
        return g.node(
            "Div", [g.node("Add", [g.node("Mul", [heard, shares[0]]), g.node("Mul", [seen, shares[1]])]), total]
        )

    def reliability(self, log_probs: str, has: str) -> str:
        g = self.graph
        probabilities = g.node("Exp", [log_probs])
        surprise = g.node("ReduceSum", [g.node("Mul", [probabilities, log_probs]), g.integers(-1)])
        scale = self.number("entropy_scale", -1 / math.log(len(self.weights["head.bias"])))
        raw = g.node(
            "Concat", [g.node("Mul", [surprise, scale]), g.node("ReduceMax", [probabilities, g.integers(-1)])], axis=-1
        )
        both = g.node("Concat", [g.node("Mul", [raw, has]), has], axis=-1)
        half = RELIABILITY_STEPS // 2
        pooled = g.node(
            "AveragePool",
            [g.node("Transpose", [both], perm=[0, 2, 1])],
            kernel_shape=[RELIABILITY_STEPS],
            strides=[1],
            pads=[half, half],
            count_include_pad=1,
        )
        pooled = g.node("Transpose", [pooled], perm=[0, 2, 1])
        means, there = f"{pooled}.means", f"{pooled}.there"
        g.add("Split", [pooled, g.integers(2, 1)], [means, there], axis=-1)
        quotient = g.node("Div", [means, g.node("Add", [there, self.number("tiny", 1e-6)])])
        return g.node("Mul", [quotient, has])

    def attend(self, x: str, other: str, has_other: str, steps: str, name: str) -> str:
        g, heads = self.graph, self.config.attention_heads
        size = self.config.width // heads
        split = g.integers(0, 0, heads, size)
        parts = [
            g.node("Transpose", [g.node("Reshape", [self.linear(of, f"{name}.{part}"), split])], perm=perm)
            for part, of, perm in (
                ("query", x, [0, 2, 1, 3]),
                ("key", other, [0, 2, 3, 1]),
                ("value", other, [0, 2, 1, 3]),
            )
        ]
        scale = self.number(f"scale{size}", 1 / math.sqrt(size))
        scores = g.node("Mul", [g.node("MatMul", parts[:2]), scale])
        places = g.node("Cast", [self.range(steps)], to=TensorProto.FLOAT)
        apart = g.node(
            "Sub", [g.node("Unsqueeze", [places, g.integers(1)]), g.node("Unsqueeze", [places, g.integers(0)])]
        )
        slopes = g.constant("slopes", attention_slopes(heads)[:, None, None])
        scores = g.node("Sub", [scores, g.node("Mul", [slopes, g.node("Abs", [apart])])])
        there = g.node("Transpose", [has_other], perm=[0, 2, 1])  # [B, 1, L]
        there = g.node("Greater", [g.node("Unsqueeze", [there, g.integers(1)]), self.number("zero", 0)])
        scores = g.node("Where", [there, scores, self.number("never", -1e9)])
        nothing = g.constant(f"{name}.nothing", self.weights[f"{name}.nothing"][None, :, None, None])
        first = g.node("Slice", [scores, g.integers(0), g.integers(1), g.integers(3)])
        column = g.node("Add", [g.node("Mul", [first, self.number("zero", 0)]), nothing])  # in its shape
        weights = g.node("Softmax", [g.node("Concat", [scores, column], axis=-1)], axis=-1)
        weights = g.node("Slice", [weights, g.integers(0), g.integers(-1), g.integers(3)])
        seen = g.node("Transpose", [g.node("MatMul", [weights, parts[2]])], perm=[0, 2, 1, 3])
        return self.linear(g.node("Reshape", [seen, g.integers(0, 0, self.config.width)]), f"{name}.out")

    def or_absent(self, x: str, has: str, name: str, mask: str) -> str:
        g = self.graph
        there = g.node("Greater", [has, self.number("zero", 0)])
        return g.node("Mul", [g.node("Where", [there, x, self.get(name)]), mask])

    def log_probs(self, x: str, name: str) -> str:
        return self.graph.node("LogSoftmax", [self.linear(x, name, exact=True)], axis=-1)

    def conv(self, x: str, name: str, kernel: int, strides: list[int]) -> str:
        inputs = [x, self.get(f"{name}.weight"), self.get(f"{name}.bias")]
        pads = [kernel // 2] * 4
        return self.graph.node(
            "Relu", [self.graph.node("Conv", inputs, kernel_shape=[kernel, kernel], strides=strides, pads=pads)]
        )

    def norm(self, x: str, name: str) -> str:
        inputs = [x, self.get(f"{name}.weight"), self.get(f"{name}.bias")]
        return self.graph.node("LayerNormalization", inputs, axis=-1, epsilon=EPSILON)

    def linear(self, x: str, name: str, *, exact: bool = False) -> str:
        """x · weightᵀ + bias in the chosen precision; `exact` stays float."""
        g, weight, bias = (self.graph, self.weights[f"{name}.weight"], self.get(f"{name}.bias"))
        if exact or self.precision == "fp32":
            return g.node("Add", [g.node("MatMul", [x, g.constant(f"{name}.weight", weight.T)]), bias])
        if self.precision == "int8-careful":
            blocks = quantize_blocks(weight, bits=8, block=BLOCK)
            packed, scales = (g.constant(f"{name}.weight", blocks.packed), g.constant(f"{name}.scales", blocks.scales))
            sizes = {"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK}
            return g.node("MatMulNBits", [x, packed, scales, "", "", bias], MICROSOFT, accuracy_level=4, **sizes)
        quantized = quantize_channels(weight)
        values, scales = (
            g.constant(f"{name}.weight", quantized.values.T),
            g.constant(f"{name}.scales", quantized.scales),
        )
        return g.node("DynamicQuantizeMatMul", [x, values, scales, "", bias], MICROSOFT)

    def mask(self, lengths: str, steps: str) -> str:
        """1.0 on the first `lengths` [B] of `steps` [1], else 0.0: [B, steps, 1]."""
        g = self.graph
        inside = g.node("Less", [self.range(steps), g.node("Unsqueeze", [lengths, g.integers(1)])])
        return g.node("Unsqueeze", [g.node("Cast", [inside], to=TensorProto.FLOAT), g.integers(2)])

    def range(self, steps: str) -> str:
        """0 … steps − 1, int64."""
        g = self.graph
        limit = g.node("Squeeze", [steps, g.integers(0)])
        return g.node(
            "Range", [g.constant("from", np.array(0, np.int64)), limit, g.constant("by", np.array(1, np.int64))]
        )

    def stretch(self, x: str, steps: str) -> str:
        """x [B, L', D] with zeros up to `steps` [1]."""
        g = self.graph
        missing = g.node("Sub", [steps, self.size(x, 1)])
        return g.node("Pad", [x, g.node("Concat", [g.integers(0, 0, 0, 0), missing, g.integers(0)], axis=0)])

    def size(self, x: str, axis: int) -> str:
        """Length of an axis, int64 [1]."""
        return self.graph.node("Shape", [x], start=axis, end=axis + 1)

    def number(self, name: str, value: float) -> str:
        """A float scalar."""
        return self.graph.constant(name, np.array(value, np.float32))

    def get(self, name: str) -> str:
        return self.graph.constant(name, self.weights[name])
