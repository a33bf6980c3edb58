"""The text decoder in ONNX Runtime: the default on CPU. Runs what `linnet.export.qwen3_asr_decoder` writes.

Every live sequence owns one row of a key/value cache that the graph updates in place, so a step touches no other memory
than the new positions. A step runs over a contiguous block of rows: sequences in that block that are not asked for
compute a dummy token whose key and value the next real token overwrites, and freed rows are closed up by moving the
last sequence into the gap, which costs a copy per finished sequence instead of one per step.

Shapes: B sequences in one call, T prompt positions, H hidden size, V vocabulary, R cache rows, C cache positions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from linnet.errors import BundleCorruptError, BundleNotFoundError
from linnet.runtime.decoder import FloatArray, Prefilled
from linnet.runtime.providers import session_options
from linnet.runtime.slots import Slots, check_tokens

if TYPE_CHECKING:
    import onnxruntime as ort

PREFILL_POSITIONS = 256  # prompts pass in pieces: at 512, 30 s of audio take 92 MB more and are no faster
CACHE_POSITIONS = 256  # the cache grows in steps of this many positions …
KEPT_POSITIONS = 1024  # … and is dropped when idle if one long prompt made it larger than this


class OnnxDecoder:
    """Decoder protocol on the CPU. Prompts are prefilled one after another: padding would cost more than it saves."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        spinning: bool = False,
        prepack: bool = True,
        max_slots: int = 8,
        max_length: int = 4096,
    ) -> None:
        """Load `path` and, by mapping, its `.data` file.

        `threads` is the number of cores to use (None: all physical ones); `spinning` lets idle threads wait busily:
        a little faster on a quiet machine, but with other work on it a step took 1.5 times as long. `prepack=False`
        leaves float weights in the mapped file instead of laying a copy out for speed: for models larger than memory.
        Raises BundleNotFoundError or BundleCorruptError.
        """
        self._session = _open_session(path, threads, spinning, prepack)
        layout = _read_layout(path, self._session)
        self.hidden_size: int = layout["hidden_size"]
        self.vocab_size: int = layout["vocab_size"]
        self.max_slots, self.max_length = max_slots, max_length
        self._table = _EmbeddingTable(path, layout)
        self._cache = _Cache(layout)
        self._slots = Slots(hidden_size=self.hidden_size, max_slots=max_slots, max_length=max_length)
        self._calls: dict[tuple[int, int], _Call] = {}  # the last step's call, by first row and number of rows

    @property
    def free_slots(self) -> int:
        """How many more sequences can be opened now."""
        return self.max_slots - len(self._slots)

    def embed(self, tokens: Sequence[int]) -> FloatArray:
        """Rows [T, H] of the embedding table: the head's own (dequantised) rows."""
        self._slots.check_open()
        return self._table.rows(tokens)

    def prefill(self, prompts: Sequence[FloatArray]) -> Prefilled:
        """Open a slot for each prompt [T_i, H]; raises ConfigError if slots or positions run out."""
        rows = self._slots.free_rows(prompts)
        slots, logits = [], np.empty((len(prompts), self.vocab_size), np.float32)
        if prompts:
            self._reserve(max(rows) + 1, max(len(prompt) for prompt in prompts) + 1)
        for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            for start in range(0, len(prompt), PREFILL_POSITIONS):
                piece = prompt[start : start + PREFILL_POSITIONS]
                call = self._bind(row, 1, len(piece))
                call.embeddings[0] = piece
                logits[index] = self._run(call, [start + len(piece) - 1])
            slots.append(self._slots.open(row, len(prompt)))
        return Prefilled(slots, logits)

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        """Append one token to each slot; logits [B, V] for the next one. Raises ConfigError if a slot is full."""
        self._slots.check_step(slots, tokens)
        embeddings = self.embed(tokens)
        if not slots:
            return np.empty((0, self.vocab_size), np.float32)
        self._reserve(0, self._slots.longest() + 1)
        self._close_gaps(slots)
        rows = self._slots.rows(slots)
        first, count = min(rows), max(rows) - min(rows) + 1
        if (first, count) not in self._calls:
            self._calls = {(first, count): self._bind(first, count, 1)}
        call = self._calls[first, count]
        wanted = [row - first for row in rows]
        call.embeddings[wanted, 0] = embeddings
        logits = self._run(call, [self._slots.length(row) for row in range(first, first + count)])[wanted]
        self._slots.extend(rows)
        return logits

    def fork(self, slot: int) -> int:
        """Open another slot that holds what `slot` holds; ConfigError if slots run out."""
        source, row = self._slots.fork_rows(slot)
        self._reserve(row + 1, 0)
        length = self._slots.length(source)
        self._cache.copy(source, row, length)
        return self._slots.open(row, length)

    def free(self, slot: int) -> None:
        """Give a slot back; its row is used by the next prompt."""
        self._slots.free(slot)
        if not self._slots and self._cache.positions > KEPT_POSITIONS:
            self._calls.clear()
            self._cache.drop()

    def close(self) -> None:
        """Release the model's memory; further calls raise ConfigError."""
        self._slots.close()
        self._session = None
        self._calls.clear()
        self._cache.drop()

    def _run(self, call: _Call, lengths: Sequence[int]) -> FloatArray:
        """Logits [B, V], valid until the call runs again; `lengths` are the positions before the last new one."""
        call.lengths[:] = lengths
        call.total[0] = max(lengths) + 1
        assert self._session is not None
        self._session.run_with_iobinding(call.binding)
        return call.logits

    def _bind(self, first: int, count: int, positions: int) -> _Call:
        """A call over `count` cache rows from `first` with `positions` new tokens each, all memory fixed in advance."""
        assert self._session is not None
        cache = self._cache
        call = _Call(
            binding=self._session.io_binding(),
            embeddings=np.zeros((count, positions, self.hidden_size), np.float32),
            last=np.full((count, 1), positions - 1, np.int64),
            lengths=np.zeros(count, np.int32),
            total=np.zeros(1, np.int32),
            logits=np.empty((count, self.vocab_size), np.float32),
        )
        inputs: dict[str, npt.NDArray[Any]] = {
            "embeddings": call.embeddings,
            "last": call.last,
            "lengths": call.lengths,
            "total": call.total,
            "cos": cache.cos,
            "sin": cache.sin,
        }
        outputs = {"logits": call.logits}
        for index, array in enumerate(cache.arrays):
            name, rows = f"{'value' if index % 2 else 'key'}.{index // 2}", array[first : first + count]
            inputs[f"past_{name}"] = outputs[f"present_{name}"] = rows
        for name, array in inputs.items():
            call.binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            call.binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return call

    def _reserve(self, rows: int, positions: int) -> None:
        """Make the cache at least this large; bound calls point into the old one, so they go."""
        rows = max(min(_power_of_two(rows), self.max_slots), self._cache.rows)
        if rows > self._cache.rows or positions > self._cache.positions:
            self._calls.clear()
            self._cache.grow(rows, positions, [self._slots.length(row) for row in range(self._cache.rows)])

    def _close_gaps(self, slots: Sequence[int]) -> None:
        """Move sequences of `slots` from the end into free rows between them, so that steps do not compute gaps."""
        rows = set(self._slots.rows(slots))
        for gap in range(min(rows), max(rows)):
            last = max(rows)
            if gap < last and self._slots.length(gap) == 0:
                self._cache.copy(last, gap, self._slots.length(last))
                self._slots.move(last, gap)
                rows = rows - {last} | {gap}


@dataclass(frozen=True)
class _Call:
    """One bound run of the graph over some cache rows: fill the arrays, run `binding`, read `logits`."""

    binding: ort.IOBinding
    embeddings: FloatArray
    last: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    total: npt.NDArray[np.int32]
    logits: FloatArray


class _Cache:
    """Keys and values of all rows: per layer two arrays [R, kv heads, C, D] of the layout's type, and the rope tables
    [C, D/2]."""

    def __init__(self, layout: dict[str, Any]) -> None:
        self._layers, self._kv_heads, self._head_dim = layout["layers"], layout["kv_heads"], layout["head_dim"]
        self._rope_theta, self._dtype = layout["rope_theta"], np.dtype(layout.get("cache", "float32"))
        self.drop()

    def drop(self) -> None:
        """Give all memory back."""
        self.rows = self.positions = 0
        self.arrays = [self._empty() for _ in range(2 * self._layers)]
        self.cos, self.sin = self._rope_tables()

    def grow(self, rows: int, positions: int, lengths: Sequence[int]) -> None:
        """Make room for `rows` × at least `positions`; of each old row, its length says how much is kept."""
        self.rows = rows
        self.positions = max(self.positions, -(-positions // CACHE_POSITIONS) * CACHE_POSITIONS)
        self.cos, self.sin = self._rope_tables()
        for index, old in enumerate(self.arrays):
            new = self._empty()
            for row, length in enumerate(lengths):
                new[row, :, :length] = old[row, :, :length]
            self.arrays[index] = new

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        for array in self.arrays:
            array[target, :, :length] = array[source, :, :length]

    def _empty(self) -> npt.NDArray[Any]:
        # Not zeroed: memory that no position has been written to is never really taken.
        return np.empty((self.rows, self._kv_heads, self.positions, self._head_dim), self._dtype)

    def _rope_tables(self) -> tuple[FloatArray, FloatArray]:
        rates = self._rope_theta ** (-np.arange(0, self._head_dim, 2) / self._head_dim)
        angles = np.outer(np.arange(self.positions), rates)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class _EmbeddingTable:
    """Rows of the embedding, read from the mapped weight file: the head's matrix, not a second copy."""

    def __init__(self, path: Path, layout: dict[str, Any]) -> None:
        place, shape = layout["embedding"], (layout["vocab_size"], layout["hidden_size"])
        data = path.with_name(path.name + ".data")
        self._hidden_size = shape[1]
        self._scales: FloatArray | None = None
        self._values: npt.NDArray[Any]
        if place["bits"] == 32:
            self._values = np.memmap(data, np.float32, "r", place["values"], shape)
        else:
            groups = -(-shape[1] // place["block"])
            self._values = np.memmap(data, np.uint8, "r", place["values"], (shape[0], groups, place["block"]))
            self._scales = np.memmap(data, np.float32, "r", place["scales"], (shape[0], groups, 1))

    def rows(self, tokens: Sequence[int]) -> FloatArray:
        check_tokens(tokens, len(self._values))
        ids = np.asarray(tokens, np.int64)
        values = self._values[ids].astype(np.float32)
        if self._scales is None:
            return values
        return ((values - np.float32(128)) * self._scales[ids]).reshape(len(ids), -1)[:, : self._hidden_size]


def _open_session(path: Path, threads: int | None, spinning: bool, prepack: bool) -> ort.InferenceSession | None:
    import onnxruntime as ort

    for file in (path, path.with_name(path.name + ".data")):
        if not file.is_file():
            raise BundleNotFoundError(f"No {file.name} in {file.parent}. Export or pull the model again.")
    options = session_options(threads)
    options.enable_cpu_mem_arena = False  # it keeps what every new shape took; without it nothing is slower
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's own exceptions share no public base class
        raise BundleCorruptError(f"ONNX Runtime cannot load {path}: {problem}. Export or pull it again.") from problem


def _read_layout(path: Path, session: ort.InferenceSession | None) -> dict[str, Any]:
    assert session is not None
    text = session.get_modelmeta().custom_metadata_map.get("linnet.decoder")
    if text is None:
        raise BundleCorruptError(f"{path} is an ONNX graph, but not one of Linnet's decoders. Export it with linnet.")
    layout: dict[str, Any] = json.loads(text)
    return layout


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length() if number else 0
