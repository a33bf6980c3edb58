"""What a text decoder does, whatever runs it: ONNX Runtime (`onnx_decoder.py`) or llama.cpp (`llama.py`).

Shapes: B sequences in one call, T prompt positions, H hidden size, V vocabulary. A slot is one live sequence with its
own KV cache; slots come and go independently, so that a finished cut makes room for the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prefilled:
    """Result of a prefill: one slot per prompt and the logits [B, V] after each prompt's last position."""

    slots: list[int]
    logits: FloatArray


class Decoder(Protocol):
    """Greedy search drives this: embed → prefill → step … step → free; beam search forks slots in between."""

    hidden_size: int
    vocab_size: int
    max_length: int
    """Most positions (prompt and answer together) that one slot can hold."""
    max_slots: int
    """Most sequences that can be live at once."""

    @property
    def free_slots(self) -> int:
        """How many more sequences can be opened now."""
        ...

    def embed(self, tokens: Sequence[int]) -> FloatArray:
        """Rows [T, H] of the embedding table."""
        ...

    def prefill(self, prompts: Sequence[FloatArray]) -> Prefilled:
        """Open a slot for each prompt [T_i, H]; raises ConfigError if slots or positions run out."""
        ...

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        """Append one token to each slot; logits [B, V] for the next one."""
        ...

    def fork(self, slot: int) -> int:
        """Open another slot that holds what `slot` holds; ConfigError if slots run out."""
        ...

    def free(self, slot: int) -> None:
        """Give a slot back."""
        ...

    def close(self) -> None:
        """Release the model's memory; further calls are errors."""
        ...
