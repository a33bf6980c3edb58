"""Which sequences a decoder holds, in which cache row and how long they are: the same rules for every decoder.

A slot is what the caller sees; it is never reused, so a stale one is an error and not somebody else's sequence. A row
is the place in the decoder's cache; a freed one is taken by the next prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from linnet.errors import ConfigError
from linnet.runtime.decoder import FloatArray


class Slots:
    """Bookkeeping and argument checks of a decoder. All errors are ConfigError and change nothing."""

    def __init__(self, *, hidden_size: int, max_slots: int, max_length: int) -> None:
        if max_slots < 1 or max_length < 1:
            raise ConfigError(f"Got max_slots {max_slots} and max_length {max_length}; accepted: 1 or more of each.")
        self._hidden_size, self._max_slots, self._max_length = hidden_size, max_slots, max_length
        self._rows: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0
        self._closed = False

    def __len__(self) -> int:
        """Number of live sequences."""
        return len(self._rows)

    def rows(self, slots: Sequence[int]) -> list[int]:
        """Cache rows of live slots."""
        self.check_open()
        for slot in slots:
            if slot not in self._rows:
                raise ConfigError(f"Slot {slot} is not live; live slots: {sorted(self._rows)}. Prefill a prompt first.")
        return [self._rows[slot] for slot in slots]

    def length(self, row: int) -> int:
        """Positions held by a row; 0 for a free one."""
        return self._lengths.get(row, 0)

    def longest(self) -> int:
        """Positions of the longest live sequence; 0 if there is none."""
        return max(self._lengths.values(), default=0)

    def total(self) -> int:
        """Positions of all live sequences together."""
        return sum(self._lengths.values())

    def live_rows(self) -> list[int]:
        """Rows that hold a sequence."""
        return sorted(self._lengths)

    def free_rows(self, prompts: Sequence[FloatArray]) -> list[int]:
        """The lowest free row for each prompt [T, H], once all prompts are known to fit."""
        self.check_open()
        self._check_room(len(prompts))
        for prompt in prompts:
            if prompt.ndim != 2 or prompt.shape[1] != self._hidden_size or not 1 <= len(prompt) <= self._max_length:
                raise ConfigError(
                    f"A prompt has shape {prompt.shape}; accepted: [1 to {self._max_length}, {self._hidden_size}]. "
                    "Cut the audio into shorter pieces, or load the decoder with a larger max_length."
                )
        return self._free_rows()[: len(prompts)]

    def fork_rows(self, slot: int) -> tuple[int, int]:
        """The row of a live slot, and the lowest free one."""
        (source,) = self.rows([slot])
        self._check_room(1)
        return source, self._free_rows()[0]

    def _free_rows(self) -> list[int]:
        return [row for row in range(self._max_slots) if row not in self._lengths]

    def _check_room(self, wanted: int) -> None:
        if len(self._rows) + wanted > self._max_slots:
            raise ConfigError(
                f"{wanted} sequences do not fit: {len(self._rows)} of {self._max_slots} slots are in use. "
                "Free some first, or load the decoder with a larger max_slots."
            )

    def open(self, row: int, length: int) -> int:
        """A new slot for a free row that now holds `length` positions."""
        slot, self._next = self._next, self._next + 1
        self._rows[slot], self._lengths[row] = row, length
        return slot

    def check_step(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """One token for each of several different live slots, none of which is full."""
        rows = self.rows(slots)
        if len(slots) != len(tokens) or len(set(slots)) != len(slots):
            raise ConfigError(f"step got slots {list(slots)} and {len(tokens)} tokens; accepted: one token per slot.")
        for slot, row in zip(slots, rows, strict=True):
            if self._lengths[row] >= self._max_length:
                raise ConfigError(
                    f"Slot {slot} is full: it holds {self._max_length} positions. Stop earlier, or load the decoder "
                    "with a larger max_length."
                )

    def extend(self, rows: Sequence[int]) -> None:
        """Each of these rows holds one position more."""
        for row in rows:
            self._lengths[row] += 1

    def move(self, source: int, target: int) -> None:
        """The sequence in row `source` now lies in the free row `target`."""
        slot = next(slot for slot, row in self._rows.items() if row == source)
        self._rows[slot], self._lengths[target] = target, self._lengths.pop(source)

    def free(self, slot: int) -> int:
        """Forget a slot; returns the row that it held."""
        self.rows([slot])
        row = self._rows.pop(slot)
        del self._lengths[row]
        return row

    def close(self) -> None:
        """Forget all; every later question is an error."""
        self._rows.clear()
        self._lengths.clear()
        self._closed = True

    def check_open(self) -> None:
        """Raise if the decoder was closed."""
        if self._closed:
            raise ConfigError("The decoder is closed. Load it again to use it.")


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raise ConfigError for an id outside the vocabulary."""
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise ConfigError(f"Token id {token} is outside the vocabulary; accepted: 0 to {vocab_size - 1}.")
