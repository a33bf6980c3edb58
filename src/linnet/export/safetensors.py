"""Read a Qwen3-ASR checkpoint's safetensors files, one tensor at a time, without torch.

Format (github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the data. One file, or several with `model.safetensors.index.json`.
Files are mapped, not read: only the tensor being converted takes memory.

Names come out canonical, whichever of the two layouts is stored (`qwen3_asr_checkpoint.py`).
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from linnet.errors import CheckpointError
from linnet.export.qwen3_asr_checkpoint import DOWNLOAD_AGAIN, canonical_name, expected_shapes, read_config, read_json

FloatArray = npt.NDArray[np.float32]
_DTYPES: dict[str, npt.DTypeLike] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_SHOWN = 5  # names listed in an error


@dataclass(frozen=True)
class _Entry:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: mmap.mmap
    start: int  # byte offset in the file
    size_bytes: int


class Tensors:
    """Named tensors of one checkpoint, read on demand; close it, or use it in a `with`."""

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """Canonical names, sorted."""
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it; raises CheckpointError if there is none of this name."""
        return self._entry(name).shape

    def get_raw(self, name: str) -> npt.NDArray[Any]:
        """Read-only view of a tensor in its stored type (bfloat16 of ml_dtypes, float16 or float32); no copy."""
        entry = self._entry(name)
        flat = np.frombuffer(entry.data, entry.dtype, count=math.prod(entry.shape), offset=entry.start)
        return flat.reshape(entry.shape)

    def get(self, name: str) -> FloatArray:
        """Float32 copy of a tensor; raises CheckpointError if it is absent or holds NaN or infinity."""
        values = self._finite(name, self.get_raw(name))
        self._release(name, 0, self._entry(name).size_bytes)
        return values

    def get_rows(self, name: str, *, at_once: int = 8192) -> Iterator[FloatArray]:
        """Float32 blocks of at most `at_once` rows, for a table whose whole copy would set the peak of memory."""
        raw = self.get_raw(name)
        for first in range(0, len(raw), at_once):
            block = raw[first : first + at_once]
            yield self._finite(name, block)
            self._release(name, first * block[:1].nbytes, block.nbytes)

    def close(self) -> None:
        """Forget the tensors; the files are unmapped once no view of `get_raw` is left."""
        self._entries.clear()

    def __enter__(self) -> Tensors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _finite(name: str, raw: npt.NDArray[Any]) -> FloatArray:
        values = raw.astype(np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(f"Tensor {name!r} holds NaN or infinity; expected finite weights. {DOWNLOAD_AGAIN}")
        return values

    def _release(self, name: str, start: int, size_bytes: int) -> None:
        """Give mapped pages of a tensor back, so that memory stays at what is being converted."""
        if hasattr(mmap, "MADV_DONTNEED"):
            entry = self._entry(name)
            aligned = (entry.start + start) // mmap.PAGESIZE * mmap.PAGESIZE
            entry.data.madvise(mmap.MADV_DONTNEED, aligned, entry.start + start + size_bytes - aligned)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(f"The checkpoint has no tensor {name!r} (of {len(self._entries)}). {DOWNLOAD_AGAIN}")
        return self._entries[name]


def open_checkpoint(folder: str | Path, *, expected: Mapping[str, tuple[int, ...]] | None = None) -> Tensors:
    """Open the checkpoint in `folder` and compare its names and shapes with its config.json, or with `expected`.

    Raises CheckpointError if a file is missing, truncated or no safetensors, or if tensors are missing, unknown or of
    another shape than the configuration says. Both layouts are accepted; `lm_head.weight` may be absent (tied).
    """
    folder = Path(folder)
    expected = expected_shapes(read_config(folder)) if expected is None else expected
    entries = _read_entries(folder, canonical_name)
    _check_names(folder, entries, expected)
    return Tensors(entries)


def open_tensors(folder: str | Path, *, canonical: Callable[[str], str] = str) -> Tensors:
    """Open the safetensors files in `folder` under the names that `canonical` gives; the caller checks what is in them.

    Raises CheckpointError if a file is missing, truncated or no safetensors, or if two tensors get the same name.
    """
    return Tensors(_read_entries(Path(folder), canonical))


def _read_entries(folder: Path, canonical: Callable[[str], str]) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for path in _files(folder):
        for stored, entry in _read_header(path).items():
            name = canonical(stored)
            if name in entries:
                raise CheckpointError(f"{path} stores {stored!r}, a second tensor for {name!r}. {DOWNLOAD_AGAIN}")
            entries[name] = entry
    return entries


def _check_names(folder: Path, entries: Mapping[str, _Entry], expected: Mapping[str, tuple[int, ...]]) -> None:
    if missing := expected.keys() - entries.keys() - {"lm_head.weight"}:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors that its config.json asks for: {_some(missing)}. {DOWNLOAD_AGAIN}"
        )
    if unknown := entries.keys() - expected.keys():
        raise CheckpointError(
            f"{folder} has {len(unknown)} tensors that Qwen3-ASR does not know: {_some(unknown)}. "
            "Accepted: the official layout (thinker.*) and the -hf layout; merge adapters into the weights first."
        )
    for name, entry in entries.items():
        if entry.shape != expected[name]:
            raise CheckpointError(
                f"Tensor {name!r} has shape {list(entry.shape)}, config.json says {list(expected[name])}. "
                "Use the config.json that belongs to these weights."
            )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:_SHOWN]) + (" …" if len(ordered) > _SHOWN else "")


def _files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise CheckpointError(
            f"No weights in {folder}: neither {single.name} nor {index.name}. Download the checkpoint completely; "
            "pickled weights (.bin, .pt) are not read."
        )
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise CheckpointError(f"{index} has no weight_map of names to files. {DOWNLOAD_AGAIN}")
    paths = []
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or "\\" in shard:
            raise CheckpointError(f"{index} names the file {shard!r}, which is not in this folder; refused.")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder} lacks the file {shard} that {index.name} lists. {DOWNLOAD_AGAIN}")
        paths.append(folder / shard)
    return paths


def _read_header(path: Path) -> dict[str, _Entry]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is not a safetensors file or was truncated: {size} bytes, header length {length}. "
                f"A few hundred bytes are a Git LFS pointer, not the weights. {DOWNLOAD_AGAIN}"
            )
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as problem:
            raise CheckpointError(
                f"{path} is not a safetensors file: its header is not JSON. {DOWNLOAD_AGAIN}"
            ) from problem
        if not isinstance(header, dict):
            raise CheckpointError(
                f"{path} is not a safetensors file: its header is not a JSON object. {DOWNLOAD_AGAIN}"
            )
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, fields, data, 8 + length) for name, fields in header.items()}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].size_bytes)):
        if entry.start != end:
            raise CheckpointError(
                f"{path} is corrupt: {name!r} starts at byte {entry.start}, expected {end}. {DOWNLOAD_AGAIN}"
            )
        end += entry.size_bytes
    if end != size:
        raise CheckpointError(
            f"{path} is truncated or damaged: {size} bytes, its header describes {end}. {DOWNLOAD_AGAIN}"
        )
    return entries


def _entry(path: Path, name: str, fields: object, data: mmap.mmap, base: int) -> _Entry:
    match fields:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(stop)]}:
            pass
        case _:
            raise CheckpointError(f"{path} is corrupt: the header entry of {name!r} is {fields!r}. {DOWNLOAD_AGAIN}")
    if kind not in _DTYPES:
        raise CheckpointError(
            f"Tensor {name!r} in {path} has type {kind}; accepted: {', '.join(_DTYPES)}. "
            "Use the original checkpoint, not a quantised one."
        )
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise CheckpointError(f"{path} is corrupt: {name!r} has shape {shape!r}. {DOWNLOAD_AGAIN}")
    dtype = np.dtype(_DTYPES[kind])
    if begin < 0 or stop - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path} is corrupt: {name!r} of shape {shape} and type {kind} cannot lie at bytes {begin}…{stop}. "
            f"{DOWNLOAD_AGAIN}"
        )
    return _Entry(tuple(shape), dtype, data, base + begin, stop - begin)
