"""Stand-ins for the runtime's tests: a byte tokenizer, a decoder that says what it is told, a loudness detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from linnet.runtime.decoder import Prefilled
from linnet.runtime.prompt import SPECIAL_TOKENS, TEXT_MARKER

FloatArray = npt.NDArray[np.float32]


@lru_cache
def byte_tokenizer(special_tokens: tuple[str, ...] = SPECIAL_TOKENS) -> Tokenizer:
    """Byte-level BPE without merges: 256 bytes, then the special tokens. Of them `<asr_text>` is not `special`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(t, special=t != TEXT_MARKER, normalized=False) for t in special_tokens])
    return tokenizer


class FakeDecoder:
    """Decoder whose answers are given by `script(prompt [T, H]) → token ids`; after them it repeats the last for ever.

    Checks that it is fed its own tokens, and never holds more than `max_slots` sequences. Every token has
    probability e / (e + V − 1).
    """

    def __init__(
        self,
        script: Callable[[FloatArray], Sequence[int]],
        *,
        hidden_size: int = 64,
        vocab_size: int = 512,
        max_length: int = 4096,
        max_slots: int = 8,
    ) -> None:
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        self.max_length, self.max_slots = max_length, max_slots
        self.prompts: list[FloatArray] = []
        self.keep_prompts = True
        self.most_live = 0
        self.closed = False
        self.live: dict[int, tuple[list[int], int]] = {}
        self._script, self._next = script, 0

    @property
    def free_slots(self) -> int:
        return self.max_slots - len(self.live)

    def embed(self, tokens: Sequence[int]) -> FloatArray:
        return np.repeat(np.asarray(tokens, np.float32)[:, None], self.hidden_size, axis=1)

    def prefill(self, prompts: Sequence[FloatArray]) -> Prefilled:
        slots = []
        for prompt in prompts:
            if self.keep_prompts:
                self.prompts.append(prompt)
            self.live[self._next] = (list(self._script(prompt)), 0)
            slots.append(self._next)
            self._next += 1
        self.most_live = max(self.most_live, len(self.live))
        assert len(self.live) <= self.max_slots
        return Prefilled(slots, self._logits(slots))

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        for slot, token in zip(slots, tokens, strict=True):
            answer, position = self.live[slot]
            assert token == answer[min(position, len(answer) - 1)]
            self.live[slot] = (answer, position + 1)
        return self._logits(slots)

    def free(self, slot: int) -> None:
        del self.live[slot]

    def close(self) -> None:
        self.closed = True

    def _logits(self, slots: Sequence[int]) -> FloatArray:
        logits = np.zeros((len(slots), self.vocab_size), np.float32)
        for row, slot in enumerate(slots):
            answer, position = self.live[slot]
            logits[row, answer[min(position, len(answer) - 1)]] = 1.0
        return logits


def loudness_detector(frames: FloatArray) -> list[float]:
    """Speech is what is louder than −40 dBFS."""
    return [1.0 if loud else 0.0 for loud in np.abs(frames).mean(axis=1) > 0.01]
