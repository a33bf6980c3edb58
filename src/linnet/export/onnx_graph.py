"""Write an ONNX graph node by node, its matrices streamed to disk as they come: no tracing, one tensor in memory.

Matrices go to `<graph>.data`, page-aligned, so that ONNX Runtime maps them instead of copying; a graph whose matrices
are small in all gets them inside, as one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"
PAGE_BYTES = 4096
INLINE_BYTES = 64 << 20
"""Up to this much a graph stays one file."""


class GraphWriter:
    """Collects one graph; `save` finishes it. Leaving the `with` block without `save` removes what was written."""

    def __init__(self, out: Path, *, inline_bytes: int | None = None) -> None:
        """Start the graph `out`; matrices of more than `inline_bytes` (INLINE_BYTES) in all stay in `<out>.data`."""
        self._out, self._data_path = out, out.with_name(out.name + ".data")
        self._inline_bytes = INLINE_BYTES if inline_bytes is None else inline_bytes
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._data = open(self._data_path, "w+b")  # noqa: SIM115 (closed by __exit__)
        self._saved = False

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        if not self._saved:
            self._data_path.unlink(missing_ok=True)
            self._out.unlink(missing_ok=True)

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> None:
        """Append a node with named outputs; an empty name skips an optional one."""
        name = f"{op}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        output = f"{op}.{len(self._nodes)}"
        self.add(op, inputs, [output], domain, **attributes)
        return output

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Store an initialiser, once per name; returns its name."""
        if name in self._initializers:
            return name
        array = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray gives scalars an axis
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        if array.ndim < 2:  # shapes, gains and biases stay in the graph
            tensor.raw_data = array.tobytes()
        else:
            self._data.write(b"\0" * (-self._data.tell() % PAGE_BYTES))
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": self._data_path.name, "offset": self._data.tell(), "length": array.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self._data.write(array.data)
        self._initializers[name] = tensor
        return name

    def integers(self, *values: int) -> str:
        """An int64 vector: axes, sizes, starts."""
        return self.constant("ints_" + "_".join(str(value) for value in values), np.array(values, np.int64))

    def offset(self, name: str) -> int:
        """Byte offset of a matrix in the data file; meaningful if the file stays (`inline_bytes`)."""
        return next(int(entry.value) for entry in self._initializers[name].external_data if entry.key == "offset")

    def save(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the graph with `metadata`; afterwards the writer takes nothing more."""
        inline = self._data.tell() <= self._inline_bytes
        if inline:
            for tensor in self._initializers.values():
                self._take_in(tensor)
        graph = helper.make_graph(self._nodes, name, inputs, outputs, initializer=list(self._initializers.values()))
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="linnet")
        helper.set_model_props(model, dict(metadata or {}))
        onnx.save_model(model, self._out)
        self._data.flush()
        if inline:
            self._data_path.unlink()
        self._saved = True

    def _take_in(self, tensor: onnx.TensorProto) -> None:
        if tensor.data_location != TensorProto.EXTERNAL:
            return
        place = {entry.key: entry.value for entry in tensor.external_data}
        self._data.seek(int(place["offset"]))
        tensor.raw_data = self._data.read(int(place["length"]))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
