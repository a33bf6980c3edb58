"""Adaptive binary arithmetic coding of code bits, with integers only: the same bytes on every machine.

A carry-less range coder (Martin 1979; the layout is LZMA's) codes one bit at a time. The probability of a bit is
counted while coding, per context: which bit of the token it is, and that bit in the two tokens before. Two estimates
that adapt at different speeds are averaged, so that short and long recordings both gain.

Shapes: T tokens, D bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BitArray = npt.NDArray[np.bool_]
_SCALE = 16  # probabilities are 16-bit integers
_FAST, _SLOW = 4, 7  # an estimate moves by 1/16 and 1/128 of its error
_TOP = 1 << 24
_MASK = (1 << 32) - 1


class _Model:
    """Probability that the next bit of a context is 1, in 1…2^16 − 1."""

    def __init__(self, bits: int) -> None:
        half = 1 << (_SCALE - 1)
        self.fast, self.slow = [half] * (4 * bits), [half] * (4 * bits)

    def probability(self, context: int) -> int:
        return min(max((self.fast[context] + self.slow[context]) >> 1, 64), (1 << _SCALE) - 64)

    def update(self, context: int, bit: int) -> None:
        target = bit << _SCALE
        self.fast[context] += (target - self.fast[context]) >> _FAST
        self.slow[context] += (target - self.slow[context]) >> _SLOW


def compress(bits: BitArray) -> bytes:
    """Bytes of bits [T, D]."""
    model, low, width, pending, cache = _Model(bits.shape[1]), 0, _MASK, 1, 0
    out = bytearray()
    earlier, before = [0] * bits.shape[1], [0] * bits.shape[1]
    for row in bits.astype(int).tolist():
        for i, bit in enumerate(row):
            context = 4 * i + 2 * before[i] + earlier[i]
            bound = (width >> _SCALE) * model.probability(context)
            if bit:
                width = bound
            else:
                low += bound
                width -= bound
            model.update(context, bit)
            while width < _TOP:
                width = width << 8 & _MASK
                low, pending, cache = _shift(low, pending, cache, out)
        earlier, before = before, row
    for _ in range(5):
        low, pending, cache = _shift(low, pending, cache, out)
    return bytes(out[1:])  # the first byte is always 0


def _shift(low: int, pending: int, cache: int, out: bytearray) -> tuple[int, int, int]:
    """Write the top byte of `low`; bytes of 255 wait, since a carry may still turn them into zeros."""
    if low < 0xFF000000 or low > _MASK:
        carry = low >> 32
        out.append(cache + carry & 0xFF)
        out.extend([0xFF + carry & 0xFF] * (pending - 1))
        return (low & 0x00FFFFFF) << 8, 1, low >> 24 & 0xFF
    return (low & 0x00FFFFFF) << 8, pending + 1, cache


def expand(data: bytes, tokens: int, bits: int) -> BitArray:
    """The bits [tokens, bits] that `compress` was given. Any bytes give some bits: damage shows in a checksum only."""
    model, width = _Model(bits), _MASK
    code, place = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), 4
    rows = np.zeros((tokens, bits), dtype=bool)
    earlier, before = [0] * bits, [0] * bits
    for token in range(tokens):
        row = [0] * bits
        for i in range(bits):
            context = 4 * i + 2 * before[i] + earlier[i]
            bound = (width >> _SCALE) * model.probability(context)
            if code < bound:
                width, row[i] = bound, 1
            else:
                code -= bound
                width -= bound
            model.update(context, row[i])
            while width < _TOP:
                width = width << 8 & _MASK
                code = (code << 8 | (data[place] if place < len(data) else 0)) & _MASK
                place += 1
        rows[token] = row
        earlier, before = before, row
    return rows
