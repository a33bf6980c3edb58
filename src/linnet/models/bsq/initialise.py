"""Where training starts: a linear codec in closed form, in the shortcuts around encoder and decoder.

A bit is whether a principal component of the token's log-mel exceeds a threshold, and the decoder adds up half a step
per bit: every component gets a scalar quantiser (Lloyd 1982; Max 1960) whose level is spelled by counting ("thermometer
code"), which is linear on both sides. Bits go one by one to the component where they save most. The stacks' own outputs
start at zero, so that the network begins as this codec and learns what to change.

From random weights, a code of signs learns loudness first and then little else for hundreds of updates.

Shapes: N tokens, E numbers of log-mel per token, D bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from linnet.models.bsq.model import BSQ

FloatArray = npt.NDArray[np.float32]
_SAMPLES = 4000  # of a component; enough for quantisers of a few levels
_MOST_BITS = 16  # of a component
_ROUNDS = 15


@dataclass(frozen=True)
class LinearCodec:
    """bits = tokens · encodeᵀ + thresholds > 0; tokens ≈ ±1 · decodeᵀ + offset."""

    encode: FloatArray
    """[D, E]."""
    thresholds: FloatArray
    """[D], negative thresholds: they are added."""
    decode: FloatArray
    """[E, D]."""
    offset: FloatArray
    """[E]."""


def start_linear(bsq: BSQ, tokens: FloatArray) -> None:
    """Give the shortcuts the linear codec of `tokens` [N, E], and the stacks no say yet."""
    codec = linear_codec(tokens, bsq.config.bits)
    encoder, decoder = bsq.encoder, bsq.decoder
    with torch.no_grad():
        encoder.shortcut.weight.copy_(torch.from_numpy(codec.encode))
        encoder.shortcut.bias.copy_(torch.from_numpy(codec.thresholds))
        decoder.shortcut.weight.copy_(torch.from_numpy(codec.decode))
        decoder.shortcut.bias.copy_(torch.from_numpy(codec.offset))
        for layer in (encoder.project, decoder.project):
            layer.weight.zero_()
            layer.bias.zero_()


def linear_codec(tokens: FloatArray, bits: int) -> LinearCodec:
    """Spend `bits` on the principal components of `tokens` [N, E]."""
    mean = tokens.mean(0)
    centred = tokens - mean
    _, basis = np.linalg.eigh((centred.T @ centred / len(tokens)).astype(np.float64))
    basis = basis[:, ::-1][:, : min(bits, tokens.shape[1])].astype(np.float32)  # largest first
    components = (centred @ basis)[:: max(1, len(tokens) // _SAMPLES)]
    quantisers = [_quantisers(np.sort(component)) for component in components.T]
    spent = [0] * len(quantisers)
    for _ in range(bits):
        saved = [table[n].error - table[n + 1].error if n < _MOST_BITS else -1.0
                 for table, n in zip(quantisers, spent, strict=True)]  # fmt: skip
        spent[int(np.argmax(saved))] += 1
    rows: list[FloatArray] = []
    thresholds: list[float] = []
    columns: list[FloatArray] = []
    offset = mean.astype(np.float64)
    for axis, table, n in zip(basis.T, quantisers, spent, strict=True):
        levels = table[n].levels
        offset += axis * (levels[0] + levels[-1]) / 2
        for low, high in pairwise(levels):
            # Scaled by the component's deviation: all latents are then of one size on the sphere.
            scale = 1 / max(table[0].error, 1e-6) ** 0.5
            rows.append(axis * scale)
            thresholds.append(-scale * float((low + high) / 2 + mean @ axis))
            columns.append(axis * (high - low) / 2)
    return LinearCodec(
        np.stack(rows).astype(np.float32),
        np.array(thresholds, np.float32),
        np.stack(columns, axis=1).astype(np.float32),
        offset.astype(np.float32),
    )


@dataclass(frozen=True)
class _Quantiser:
    levels: npt.NDArray[np.float64]
    error: float
    """Mean squared error."""


def _quantisers(values: FloatArray) -> list[_Quantiser]:
    """Quantisers of 1, 2, … levels for sorted `values` [N]."""
    found = []
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    power = float(np.mean(values.astype(np.float64) ** 2))
    for count in range(1, _MOST_BITS + 2):
        levels = np.quantile(values, (np.arange(count) + 0.5) / count).astype(np.float64)
        for _ in range(_ROUNDS):
            edges = np.searchsorted(values, (levels[:-1] + levels[1:]) / 2)
            edges = np.concatenate([[0], edges, [len(values)]])
            sizes = np.diff(edges)
            levels = np.where(sizes > 0, np.diff(total[edges]) / np.maximum(sizes, 1), levels)
        found.append(_Quantiser(levels, power - float((sizes * levels**2).sum()) / len(values)))
    return found
