"""Read a Qwen3-ASR checkpoint's safetensors files, one tensor at a time, without torch.

Format (github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the data. One file, or several with `model.safetensors.index.json`.
Files are mapped, not read: only the tensor being converted takes memory.

Two layouts are accepted and given the same names, those of the official one without its `thinker.` prefix:

    official (qwen-asr)                  -hf (transformers ≥ 5.13)                      here
    thinker.audio_tower.conv2d1.weight   model.audio_tower.conv2d1.weight               audio_tower.conv2d1.weight
    thinker.audio_tower.proj1.weight     model.multi_modal_projector.linear_1.weight    audio_tower.proj1.weight
    thinker.model.norm.weight            model.language_model.norm.weight               model.norm.weight
    thinker.lm_head.weight               lm_head.weight (absent when tied)              lm_head.weight
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from linnet.errors import CheckpointError
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
_DTYPES: dict[str, npt.DTypeLike] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_SHOWN = 5  # names listed in an error
_AGAIN = "Download the checkpoint again."


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
        values = self.get_raw(name).astype(np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(f"Tensor {name!r} holds NaN or infinity; expected finite weights. {_AGAIN}")
        entry = self._entry(name)
        if hasattr(mmap, "MADV_DONTNEED"):  # give the mapped pages back, so that memory stays at one tensor
            aligned = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
            entry.data.madvise(mmap.MADV_DONTNEED, aligned, entry.start + entry.size_bytes - aligned)
        return values

    def close(self) -> None:
        """Forget the tensors; the files are unmapped once no view of `get_raw` is left."""
        self._entries.clear()

    def __enter__(self) -> Tensors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(f"The checkpoint has no tensor {name!r} (of {len(self._entries)}). {_AGAIN}")
        return self._entries[name]


def open_checkpoint(folder: str | Path) -> Tensors:
    """Open the checkpoint in `folder` and compare its names and shapes with its config.json.

    Raises CheckpointError if a file is missing, truncated or no safetensors, or if tensors are missing, unknown or of
    another shape than the configuration says. Both layouts above are accepted; `lm_head.weight` may be absent (tied).
    """
    folder = Path(folder)
    config = Qwen3ASRConfig.from_checkpoint(read_json(folder / "config.json"))
    entries: dict[str, _Entry] = {}
    for path in _files(folder):
        for stored, entry in _read_header(path).items():
            name = canonical_name(stored)
            if name in entries:
                raise CheckpointError(f"{path} stores {stored!r}, a second tensor for {name!r}. {_AGAIN}")
            entries[name] = entry
    _check_names(folder, entries, expected_shapes(config))
    return Tensors(entries)


def read_json(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON object; raises CheckpointError if the file is missing or malformed."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"No {path.name} in {path.parent}. Give the folder of a Qwen3-ASR checkpoint: config.json, "
            "model.safetensors, and tokenizer.json or vocab.json with merges.txt."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise CheckpointError(f"{path} is not valid JSON ({problem}). {_AGAIN}") from problem
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected an object. {_AGAIN}")
    return data


def canonical_name(stored: str) -> str:
    """The official name without `thinker.`, from either layout; a foreign name comes back as it is."""
    name = stored.removeprefix("thinker.")
    for theirs, ours in (
        ("model.language_model.", "model."),
        ("model.audio_tower.", "audio_tower."),
        ("model.multi_modal_projector.linear_1.", "audio_tower.proj1."),
        ("model.multi_modal_projector.linear_2.", "audio_tower.proj2."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def expected_shapes(config: Qwen3ASRConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the network and its shape; `lm_head.weight` is tied and therefore optional in a checkpoint."""
    channels, width, ffn, hidden = config.conv_channels, config.d_model, config.encoder_ffn_dim, config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    for number, inputs in ((1, 1), (2, channels), (3, channels)):
        shapes[f"audio_tower.conv2d{number}.weight"] = (channels, inputs, 3, 3)
        shapes[f"audio_tower.conv2d{number}.bias"] = (channels,)
    linear("audio_tower.conv_out", width, config.conv_out_features, bias=False)
    for index in range(config.encoder_layers):
        layer = f"audio_tower.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{part}", width, width)
        norm(f"{layer}.self_attn_layer_norm", width)
        linear(f"{layer}.fc1", ffn, width)
        linear(f"{layer}.fc2", width, ffn)
        norm(f"{layer}.final_layer_norm", width)
    norm("audio_tower.ln_post", width)
    linear("audio_tower.proj1", width, width)
    linear("audio_tower.proj2", config.output_dim, width)

    queries, keys = config.decoder_heads * config.head_dim, config.decoder_kv_heads * config.head_dim
    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (config.vocab_size, hidden)
    shapes["model.norm.weight"] = (hidden,)
    for index in range(config.decoder_layers):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.self_attn.q_norm.weight"] = shapes[f"{layer}.self_attn.k_norm.weight"] = (config.head_dim,)
        linear(f"{layer}.self_attn.q_proj", queries, hidden, bias=False)
        linear(f"{layer}.self_attn.k_proj", keys, hidden, bias=False)
        linear(f"{layer}.self_attn.v_proj", keys, hidden, bias=False)
        linear(f"{layer}.self_attn.o_proj", hidden, queries, bias=False)
        linear(f"{layer}.mlp.gate_proj", config.intermediate_size, hidden, bias=False)
        linear(f"{layer}.mlp.up_proj", config.intermediate_size, hidden, bias=False)
        linear(f"{layer}.mlp.down_proj", hidden, config.intermediate_size, bias=False)
    return shapes


def _check_names(folder: Path, entries: Mapping[str, _Entry], expected: Mapping[str, tuple[int, ...]]) -> None:
    if missing := expected.keys() - entries.keys() - {"lm_head.weight"}:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors that its config.json asks for: {_some(missing)}. {_AGAIN}"
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
        raise CheckpointError(f"{index} has no weight_map of names to files. {_AGAIN}")
    paths = []
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or "\\" in shard:
            raise CheckpointError(f"{index} names the file {shard!r}, which is not in this folder; refused.")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder} lacks the file {shard} that {index.name} lists. {_AGAIN}")
        paths.append(folder / shard)
    return paths


def _read_header(path: Path) -> dict[str, _Entry]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is not a safetensors file or was truncated: {size} bytes, header length {length}. "
                f"A few hundred bytes are a Git LFS pointer, not the weights. {_AGAIN}"
            )
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as problem:
            raise CheckpointError(f"{path} is not a safetensors file: its header is not JSON. {_AGAIN}") from problem
        if not isinstance(header, dict):
            raise CheckpointError(f"{path} is not a safetensors file: its header is not a JSON object. {_AGAIN}")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, fields, data, 8 + length) for name, fields in header.items()}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].size_bytes)):
        if entry.start != end:
            raise CheckpointError(f"{path} is corrupt: {name!r} starts at byte {entry.start}, expected {end}. {_AGAIN}")
        end += entry.size_bytes
    if end != size:
        raise CheckpointError(f"{path} is truncated or damaged: {size} bytes, its header describes {end}. {_AGAIN}")
    return entries


def _entry(path: Path, name: str, fields: object, data: mmap.mmap, base: int) -> _Entry:
    match fields:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(stop)]}:
            pass
        case _:
            raise CheckpointError(f"{path} is corrupt: the header entry of {name!r} is {fields!r}. {_AGAIN}")
    if kind not in _DTYPES:
        raise CheckpointError(
            f"Tensor {name!r} in {path} has type {kind}; accepted: {', '.join(_DTYPES)}. "
            "Use the original checkpoint, not a quantised one."
        )
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise CheckpointError(f"{path} is corrupt: {name!r} has shape {shape!r}. {_AGAIN}")
    dtype = np.dtype(_DTYPES[kind])
    if begin < 0 or stop - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path} is corrupt: {name!r} of shape {shape} and type {kind} cannot lie at bytes {begin}…{stop}. {_AGAIN}"
        )
    return _Entry(tuple(shape), dtype, data, base + begin, stop - begin)
