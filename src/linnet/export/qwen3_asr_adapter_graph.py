"""Adapters in the encoder's ONNX graph: low-rank updates go into the weights, residual branches become nodes.

The branch stays in float32 whatever the encoder's precision: it is a hundredth of the work. Its transforms are constant
real matrices of a full window; a window of other length is filled up with zeros in the narrow inner space, or cut.

Shapes: W windows, T tokens, D width, b inner width, N tokens of a full window, S = W · ⌈T / N⌉ sections.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linnet.errors import ExportError
from linnet.export.onnx_graph import MICROSOFT, GraphWriter
from linnet.export.qwen3_asr_adapter import AdapterFile, Site, fourier, lora_targets, parse_sites, real_fourier
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
_EPSILON = 1e-5


class AdapterGraph:
    """What `write_encoder` asks of an adapter; without one (`None`) it changes nothing."""

    def __init__(self, adapter: AdapterFile | None, config: Qwen3ASRConfig) -> None:
        """Raises ExportError for sites in the decoder, which no decoder of a bundle can run."""
        self._adapter, self._window = adapter, config.window_tokens
        self._updates: dict[str, tuple[str, str]] = {}
        self._sites: dict[str, Site] = {}
        self._sizes: tuple[str, str, str] | None = None
        for site in parse_sites(adapter.config, config) if adapter else []:
            if site.part == "decoder":
                raise ExportError(
                    "Adapters in the decoder cannot be exported yet: bundles run the decoder in llama.cpp or in a "
                    "fixed graph. Train an adapter at encoder sites, or use this one in torch."
                )
            if adapter and adapter.config.mode == "lora":
                self._updates |= {name: (f"{name}.lora_up", f"{name}.lora_down") for name in lora_targets(site, config)}
            else:
                self._sites[site.key] = site

    def merged(self, name: str, weight: FloatArray) -> FloatArray:
        """A matrix of the checkpoint (`audio_tower.….weight`) with its low-rank update, if it has one."""
        update = self._updates.get(name.removesuffix(".weight"))
        if self._adapter is None or update is None:
            return weight
        up, down = (self._adapter.tensors[part] for part in update)
        return weight + up @ down

    def has(self, key: str) -> bool:
        """Whether nodes belong behind this layer ("3") or at the "output"."""
        return key in self._sites

    def branch(self, graph: GraphWriter, x: str, key: str) -> str:
        """Nodes for tokens `x` [W, T, D]; returns the adapted tokens' name."""
        assert self._adapter is not None
        name, post = self._sites[key].prefix, self._adapter.config.norm == "post"
        z = x if post else self._norm(graph, x, name)
        z = graph.node("MatMul", [z, graph.constant(f"{name}.down", self._get(f"{name}.down.weight").T)])
        z = self._mixed(graph, z, name)
        z = graph.node("MatMul", [z, graph.constant(f"{name}.up", self._get(f"{name}.up.weight").T)])
        total = graph.node("Add", [x, z])
        return self._norm(graph, total, name) if post else total

    def _get(self, name: str) -> FloatArray:
        assert self._adapter is not None
        return self._adapter.tensors[name]

    def _norm(self, graph: GraphWriter, x: str, name: str) -> str:
        parts = [graph.constant(f"{name}.norm.{part}", self._get(f"{name}.norm.{part}")) for part in ("weight", "bias")]
        return graph.node("LayerNormalization", [x, *parts], axis=-1, epsilon=_EPSILON)

    def _mixed(self, graph: GraphWriter, z: str, name: str) -> str:
        """[W, T, b] → [W, T, b]."""
        assert self._adapter is not None
        mode, inner = self._adapter.config.mode, len(self._get(f"{name}.down.weight"))
        if mode in ("identity", "linear"):  # the published chain of transforms returns its input
            return z
        if mode == "mlp":
            return graph.node("Gelu", [z], MICROSOFT)
        tokens, windows, pads = self._window_sizes(graph, z)
        z = graph.node("Pad", [z, pads])
        z = graph.node("Reshape", [z, graph.integers(-1, self._window, inner)])  # [S, N, b]
        z = self._gate(graph, z, name) if mode == "gate" else self._transform(graph, z, inner, mode)
        back = graph.node("Concat", [windows, graph.integers(-1, inner)], axis=0)
        z = graph.node("Reshape", [z, back])
        return graph.node("Slice", [z, graph.integers(0), tokens, graph.integers(1)])

    def _window_sizes(self, graph: GraphWriter, z: str) -> tuple[str, str, str]:
        """Names of T, W and the padding that fills T up to whole sections; the same at every site, so computed once."""
        if self._sizes is None:
            tokens, windows = graph.node("Shape", [z], start=1, end=2), graph.node("Shape", [z], start=0, end=1)
            size = graph.integers(self._window)
            missing = graph.node("Mod", [graph.node("Neg", [tokens]), size])  # Mod takes the sign of the divisor
            pads = graph.node("Concat", [graph.integers(0, 0, 0, 0), missing, graph.integers(0)], axis=0)
            self._sizes = tokens, windows, pads
        return self._sizes

    def _transform(self, graph: GraphWriter, z: str, inner: int, mode: str) -> str:
        """fnet and hartley on [S, N, b]: cos·z·cos − sin·z·sin, and for hartley + cos·z·sin + sin·z·cos."""
        time = [graph.constant(f"{part}_{self._window}", array)
                for part, array in zip(("cos", "sin"), fourier(self._window), strict=True)]  # fmt: skip
        width = [graph.constant(f"{part}_{inner}", array)
                 for part, array in zip(("cos", "sin"), fourier(inner), strict=True)]  # fmt: skip
        by_cos, by_sin = (graph.node("MatMul", [matrix, z]) for matrix in time)
        real = graph.node("Sub", [graph.node("MatMul", [by_cos, width[0]]), graph.node("MatMul", [by_sin, width[1]])])
        if mode == "fnet":
            return real
        crossed = graph.node(
            "Add", [graph.node("MatMul", [by_cos, width[1]]), graph.node("MatMul", [by_sin, width[0]])]
        )
        return graph.node("Add", [real, crossed])

    def _gate(self, graph: GraphWriter, z: str, name: str) -> str:
        """GELU of the filtered [S, N, b].

        (a + ib)(c + id) as one product with real factors: the spectrum is made twice, as (a, b) and as (−b, a), the
        first half multiplied by (c, c), the second by (d, d), and the synthesis adds the halves up. Four nodes instead
        of ten: at this size a node costs as much as its arithmetic.
        """
        analysis, synthesis = real_fourier(self._window)
        real, imaginary = np.split(analysis, 2)
        twice = np.concatenate([real, imaginary, -imaginary, real])
        spectrum = graph.node("MatMul", [graph.constant(f"analysis_{self._window}", twice), z])
        factors = np.repeat(self._get(f"{name}.filter"), 2, axis=0).reshape(len(twice), -1)  # c, c, d, d
        filtered = graph.node("Mul", [spectrum, graph.constant(f"{name}.filter", factors)])
        both = np.concatenate([synthesis, synthesis], axis=1)
        y = graph.node("MatMul", [graph.constant(f"synthesis_{self._window}", both), filtered])
        return graph.node("Gelu", [y], MICROSOFT)
