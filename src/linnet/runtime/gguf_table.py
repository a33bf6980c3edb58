"""Matrices of a GGUF file, their rows dequantised when asked for.

llama.cpp has no call that returns embedding rows, and the gguf package's reader takes seconds to build objects for 300
thousand vocabulary entries; here the header is only walked over. Format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.errors import BundleCorruptError, MissingExtraError
from linnet.runtime.decoder import FloatArray

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of the scalar value types
_U32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT = 32  # of tensor data, unless `general.alignment` says otherwise


class GgufFile:
    """A mapped GGUF file: its architecture and its matrices."""

    def __init__(self, path: Path) -> None:
        """Walk over the header; raises BundleCorruptError if the file is no GGUF or cut short in the header."""
        try:
            import gguf
        except ImportError as missing:
            raise MissingExtraError("The GGUF decoder", "gguf", "gguf") from missing
        self._path, self._gguf = path, gguf
        try:
            with open(path, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            header = _Header(self._data)
            self._matrices = header.matrices()
            self.architecture = header.architecture
        except (struct.error, ValueError, KeyError) as problem:
            raise BundleCorruptError(
                f"{path} is not a GGUF file that can be read ({problem}). Export or pull the model again."
            ) from problem

    def matrix(self, name: str) -> GgufTable:
        """The matrix of this name; raises BundleCorruptError if there is none, or the file is too short for it."""
        try:
            (rows, width), number, start = self._matrices[name]
            kind = self._gguf.GGMLQuantizationType(number)
            block, block_bytes = self._gguf.GGML_QUANT_SIZES[kind]
            stored = np.frombuffer(self._data, np.uint8, rows * (width // block * block_bytes), start)
        except (KeyError, ValueError) as problem:
            raise BundleCorruptError(
                f"{self._path} has no whole matrix {name!r} ({problem}). Export or pull the model again."
            ) from problem
        return GgufTable(stored.reshape(rows, -1), kind, self._gguf.quants.dequantize)


@dataclass(frozen=True)
class GgufTable:
    """One matrix [V, H]."""

    _rows: npt.NDArray[np.uint8]
    _kind: Any
    _dequantize: Callable[..., npt.NDArray[Any]]

    @property
    def is_float32(self) -> bool:
        """Whether it is stored unrounded."""
        return bool(self._kind.name == "F32")

    @property
    def is_quantized(self) -> bool:
        """Whether it is stored in a block format."""
        return self._kind.name not in ("F32", "F16", "BF16")

    def rows(self, numbers: Sequence[int]) -> FloatArray:
        """float32 [len(numbers), H]."""
        stored = self._rows[np.asarray(numbers, np.int64)]
        values: FloatArray = self._dequantize(stored, self._kind).astype(np.float32)
        return values


class _Header:
    """Walks over a GGUF header; struct.error past the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0
        self.architecture = ""

    def matrices(self) -> dict[str, tuple[tuple[int, int], int, int]]:
        """name → (shape [V, H], quantisation type, first byte) of every matrix; sets `architecture`."""
        if self._read("4s") != b"GGUF" or self._read("I") not in (2, 3):
            raise ValueError("not GGUF version 2 or 3")
        tensors, entries = self._read("Q"), self._read("Q")
        alignment = _ALIGNMENT
        for _ in range(entries):
            key, kind = self._string(), self._read("I")
            if key == b"general.alignment" and kind == _U32:
                alignment = self._read("I")
            elif key == b"general.architecture" and kind == _STRING:
                self.architecture = self._string().decode("utf-8", "replace")
            else:
                self._skip(kind)
        found: dict[str, tuple[list[int], int, int]] = {}
        for _ in range(tensors):
            key, axes = self._string(), self._read("I")
            sizes = [self._read("Q") for _ in range(axes)]
            found[key.decode("utf-8", "replace")] = sizes, self._read("I"), self._read("Q")
        data_start = -(-self._at // alignment) * alignment
        return {  # GGUF names the fastest axis first
            name: ((sizes[1], sizes[0]), kind, data_start + offset)
            for name, (sizes, kind, offset) in found.items()
            if len(sizes) == 2
        }

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind != _ARRAY:
            self._at += _SIZES[kind]
        else:
            item, count = self._read("I"), self._read("Q")
            if item == _STRING:  # the vocabulary: 300 thousand times, so without a call
                length_at = struct.Struct("<Q").unpack_from
                for _ in range(count):
                    self._at += 8 + length_at(self._data, self._at)[0]
            else:
                self._at += _SIZES[item] * count

    def _string(self) -> bytes:
        length = self._read("Q")
        self._at += length
        return self._data[self._at - length : self._at]

    def _read(self, form: str) -> Any:
        (value,) = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return value
