"""Rows of one matrix in a GGUF file, dequantised when asked for.

llama.cpp has no call that returns embedding rows, and the gguf package's reader takes seconds to build objects for 300
thousand vocabulary entries; here the header is only walked over. Format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.errors import BundleCorruptError, MissingExtraError
from linnet.runtime.decoder import FloatArray

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of the scalar value types
_U32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT = 32  # of tensor data, unless `general.alignment` says otherwise


class GgufTable:
    """Matrix `name` [V, H] of a GGUF file, mapped."""

    def __init__(self, path: Path, name: str) -> None:
        """Find the matrix; raises BundleCorruptError if the file is no GGUF or has no such matrix."""
        try:
            import gguf
        except ImportError as missing:
            raise MissingExtraError("The GGUF decoder", "gguf", "gguf") from missing
        self._dequantize = gguf.quants.dequantize
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            shape, kind, start = _Header(data).find(name)
            self._kind = gguf.GGMLQuantizationType(kind)
            block, block_bytes = gguf.GGML_QUANT_SIZES[self._kind]
            width_bytes = shape[1] // block * block_bytes
            stored = np.frombuffer(data, np.uint8, shape[0] * width_bytes, start)
        except (struct.error, ValueError, KeyError) as problem:
            raise BundleCorruptError(f"{path} is not a GGUF file with a matrix {name!r}. Export it again.") from problem
        self._rows: npt.NDArray[np.uint8] = stored.reshape(shape[0], width_bytes)

    @property
    def is_float32(self) -> bool:
        """Whether the matrix is stored unrounded."""
        return bool(self._kind.name == "F32")

    def rows(self, numbers: Sequence[int]) -> FloatArray:
        """float32 [len(numbers), H]."""
        stored = self._rows[np.asarray(numbers, np.int64)]
        values: FloatArray = self._dequantize(stored, self._kind).astype(np.float32)
        return values


class _Header:
    """Walks over a GGUF header; struct.error past the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def find(self, name: str) -> tuple[tuple[int, int], int, int]:
        """(shape [V, H], quantisation type, first byte) of a matrix; KeyError if there is none."""
        if self._read("4s") != b"GGUF" or self._read("I") not in (2, 3):
            raise ValueError("not GGUF version 2 or 3")
        tensors, entries = self._read("Q"), self._read("Q")
        alignment = _ALIGNMENT
        for _ in range(entries):
            key, kind = self._string(), self._read("I")
            if key == b"general.alignment" and kind == _U32:
                alignment = self._read("I")
            else:
                self._skip(kind)
        found: dict[bytes, tuple[list[int], int, int]] = {}
        for _ in range(tensors):
            key, axes = self._string(), self._read("I")
            sizes = [self._read("Q") for _ in range(axes)]
            found[key] = sizes, self._read("I"), self._read("Q")
        (width, rows), kind, offset = found[name.encode()]  # GGUF names the fastest axis first
        return (rows, width), kind, -(-self._at // alignment) * alignment + offset

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
