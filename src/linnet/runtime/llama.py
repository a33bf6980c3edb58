"""The text decoder in llama.cpp, through the low-level API of llama-cpp-python: extra `[gguf]`.

The choice for GPUs, for small memory (16-bit cache, K-quants) and for people who already live with GGUF. Reads what
`linnet.export.gguf` writes, or any GGUF of architecture `qwen3` with the same vocabulary.

llama.cpp fixes a context's size when it is made, so a larger one is made when needed and the live sequences move over.
Shapes: B sequences in one call, T prompt positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from linnet.errors import BundleCorruptError, BundleNotFoundError, ConfigError, MissingExtraError
from linnet.runtime.decoder import FloatArray, Prefilled
from linnet.runtime.gguf_table import GgufFile
from linnet.runtime.providers import check_gpu_build
from linnet.runtime.slots import Slots, check_tokens

ARCHITECTURE = "qwen3"
PREFILL_POSITIONS = 512  # prompts pass in pieces of this many
CACHE_POSITIONS = 512  # the cache, shared by all sequences, grows in steps of at least this many
FLASH_FROM_SLOTS = 4  # flash attention pays from this many parallel sequences; one stream is faster without


class LlamaDecoder:
    """Decoder protocol on llama.cpp: CPU, or whatever GPU its build knows."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        gpu_layers: int = 0,
        max_slots: int = 8,
        max_length: int = 4096,
    ) -> None:
        """Load a GGUF file by mapping it.

        `threads` is the number of cores to use (None: all but one; its threads wait busily for each other, and with a
        core taken away by other work, steps take three times as long on all as on all but one); `gpu_layers` how many
        layers go to a GPU (−1: all). Raises MissingExtraError without `linnet[gguf]`, ConfigError for GPU layers in a
        build without a GPU, BundleNotFoundError, or BundleCorruptError if llama.cpp cannot load the file.
        """
        try:
            from llama_cpp import llama_cpp as api
        except ImportError as missing:
            raise MissingExtraError("The GGUF decoder", "gguf", "llama-cpp-python") from missing
        if not path.is_file():
            raise BundleNotFoundError(f"No {path.name} in {path.parent}. Export or pull the model again.")
        if gpu_layers:
            check_gpu_build(api)
        self._api: Any = api
        self._threads = threads or max(1, _usable_cores() - 1)
        self._context: Any = None
        file = GgufFile(path)
        if file.architecture != ARCHITECTURE:
            raise BundleCorruptError(
                f"{path} is a GGUF file of architecture {file.architecture!r}; accepted: {ARCHITECTURE!r}, the text "
                "decoder of Qwen3-ASR. Export or pull the model with linnet."
            )
        self._table = file.matrix("token_embd.weight")
        self._model = self._load_model(path, gpu_layers)
        self.hidden_size: int = api.llama_model_n_embd(self._model)
        self.vocab_size: int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self.max_slots, self.max_length = max_slots, max_length
        self._slots = Slots(hidden_size=self.hidden_size, max_slots=max_slots, max_length=max_length)
        self._positions = 0  # of the context, for all sequences together
        self._prompt_batch = api.llama_batch_init(PREFILL_POSITIONS, self.hidden_size, 1)
        self._token_batch = api.llama_batch_init(max_slots, 0, 1)

    @property
    def free_slots(self) -> int:
        """How many more sequences can be opened now."""
        return self.max_slots - len(self._slots)

    def embed(self, tokens: Sequence[int]) -> FloatArray:
        """Rows [T, H] of the embedding table, as llama.cpp itself dequantises them."""
        self._slots.check_open()
        check_tokens(tokens, self.vocab_size)
        return self._table.rows(tokens)

    def prefill(self, prompts: Sequence[FloatArray]) -> Prefilled:
        """Open a slot for each prompt [T_i, H]; raises ConfigError if slots or positions run out."""
        rows = self._slots.free_rows(prompts)
        self._reserve(self._slots.total() + sum(len(prompt) + 1 for prompt in prompts) + self.max_slots)
        slots, logits = [], np.empty((len(prompts), self.vocab_size), np.float32)
        for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            logits[index] = self._prefill_one(row, prompt)
            slots.append(self._slots.open(row, len(prompt)))
        return Prefilled(slots, logits)

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        """Append one token to each slot; logits [B, V] for the next one. Raises ConfigError if a slot is full."""
        self._slots.check_step(slots, tokens)
        check_tokens(tokens, self.vocab_size)
        rows = self._slots.rows(slots)
        if not slots:
            return np.empty((0, self.vocab_size), np.float32)
        self._reserve(self._slots.total() + len(slots))
        batch = self._token_batch
        batch.n_tokens = len(slots)
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            batch.token[index] = token
            self._place(batch, index, row, self._slots.length(row), wanted=True)
        self._decode(batch)
        self._slots.extend(rows)
        return np.stack([self._logits(index) for index in range(len(slots))])

    def fork(self, slot: int) -> int:
        """Open another slot that holds what `slot` holds, in the same memory; ConfigError if slots run out."""
        source, row = self._slots.fork_rows(slot)
        self._api.llama_memory_seq_cp(self._api.llama_get_memory(self._context), source, row, -1, -1)
        return self._slots.open(row, self._slots.length(source))

    def free(self, slot: int) -> None:
        """Give a slot back; its row is used by the next prompt."""
        row = self._slots.free(slot)
        self._api.llama_memory_seq_rm(self._api.llama_get_memory(self._context), row, -1, -1)

    def close(self) -> None:
        """Release the model's memory; further calls raise ConfigError."""
        if self._model is None:
            return
        self._slots.close()
        self._api.llama_batch_free(self._prompt_batch)
        self._api.llama_batch_free(self._token_batch)
        if self._context is not None:
            self._free_context(self._context)
        self._api.llama_model_free(self._model)
        self._context = self._model = None

    def _prefill_one(self, row: int, prompt: FloatArray) -> FloatArray:
        batch = self._prompt_batch
        buffer = np.ctypeslib.as_array(batch.embd, (PREFILL_POSITIONS, self.hidden_size))
        for start in range(0, len(prompt), PREFILL_POSITIONS):
            piece = prompt[start : start + PREFILL_POSITIONS]
            batch.n_tokens = len(piece)
            buffer[: len(piece)] = piece
            for index in range(len(piece)):
                self._place(batch, index, row, start + index, wanted=start + index == len(prompt) - 1)
            self._decode(batch)
        return self._logits(batch.n_tokens - 1)

    @staticmethod
    def _place(batch: Any, index: int, row: int, position: int, *, wanted: bool) -> None:
        """Say which sequence and position an entry of a batch belongs to, and whether its logits are wanted."""
        batch.pos[index], batch.n_seq_id[index], batch.logits[index] = position, 1, wanted
        batch.seq_id[index][0] = row

    def _decode(self, batch: Any) -> None:
        if code := self._api.llama_decode(self._context, batch):
            raise ConfigError(
                f"llama.cpp could not process {batch.n_tokens} positions (code {code}; 1 means its cache is full). "
                "Use fewer slots, shorter audio, or the ONNX decoder."
            )

    def _logits(self, index: int) -> FloatArray:
        pointer = self._api.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,)).copy()

    def _reserve(self, positions: int) -> None:
        """Make the context hold at least this many positions, all sequences together; live ones move over."""
        if positions <= self._positions:
            return
        positions = -(-max(positions, self._positions * 5 // 4) // CACHE_POSITIONS) * CACHE_POSITIONS
        old, new = self._context, self._new_context(positions)
        if old is not None:
            with _quiet():
                for row in self._slots.live_rows():
                    size = self._api.llama_state_seq_get_size(old, row)
                    state = (ctypes.c_uint8 * size)()
                    self._api.llama_state_seq_get_data(old, state, size, row)
                    self._api.llama_state_seq_set_data(new, state, size, row)
            self._free_context(old)
        self._context, self._positions = new, positions

    def _new_context(self, positions: int) -> Any:
        api = self._api
        params = api.llama_context_default_params()
        params.n_ctx = positions
        params.n_batch = params.n_ubatch = PREFILL_POSITIONS
        params.n_seq_max = params.n_outputs_max = self.max_slots  # logits of a whole prompt would be 300 MB
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = True  # any subset of sequences in one pass; apart, only neighbours share one
        flash = self.max_slots >= FLASH_FROM_SLOTS
        if self._table.is_float32:  # made to be compared: no rounding of queries, keys and values to 16 bits either
            params.type_k = params.type_v = api.GGML_TYPE_F32
            flash = False
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        with _quiet():
            context = api.llama_init_from_model(self._model, params)
        if not context:
            raise ConfigError(
                f"llama.cpp could not make a context of {positions} positions: not enough memory, most likely. "
                "Use fewer slots or shorter audio."
            )
        return context

    def _free_context(self, context: Any) -> None:
        with _quiet():
            self._api.llama_free(context)

    def _load_model(self, path: Path, gpu_layers: int) -> Any:
        params = self._api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        with _quiet():
            self._api.llama_backend_init()
            model = self._api.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise BundleCorruptError(f"llama.cpp cannot load {path}. Export or pull it again, or update linnet[gguf].")
        return model


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or taskset may leave fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence llama.cpp, which reports every tensor through llama-cpp-python's logger."""
    log = logging.getLogger("llama-cpp-python")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
