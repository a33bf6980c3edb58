"""Weight quantisation in NumPy: int8 per output channel, and int8/int4 blocks for com.microsoft MatMulNBits.

Symmetric: weight ≈ value · scale, without zero points to store; 4-bit blocks may be asymmetric, with a zero point each.
Shapes: N outputs, K inputs, G blocks of `block` inputs (K is zero-padded to G·block). Weights are [N, K], the
checkpoint's layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.errors import ExportError

FloatArray = npt.NDArray[np.float32]
_REACHES = (8.0, 8.8, 9.8, 11.0)
"""Where the largest weight of a 4-bit block may lie, in steps of the scale."""
ROWS_AT_ONCE = 4096  # bounds the float32 intermediates: the 152k-row head would need three more copies of itself


@dataclass(frozen=True)
class ChannelQuantized:
    """int8 `values` [N, K] in ±127 and one float32 scale per output channel [N]."""

    values: npt.NDArray[np.int8]
    scales: FloatArray


@dataclass(frozen=True)
class BlockQuantized:
    """`packed` uint8 [N, G, block·bits/8] and float32 `scales` [N, G], as MatMulNBits reads them.

    A stored code is value + zero point, 2^(bits-1) if none is given; two 4-bit codes share a byte, the earlier input in
    the low half.
    """

    packed: npt.NDArray[np.uint8]
    scales: FloatArray
    bits: int
    block: int
    zero_points: npt.NDArray[np.uint8] | None = None
    """uint8 [N, ceil(G/2)], two 4-bit zero points per byte; None: symmetric."""


@dataclass(frozen=True)
class TensorError:
    """How far a quantised tensor is from its original."""

    name: str
    relative_rms: float
    """‖W − Q‖ / ‖W‖: about 0.005 at 8 bits, 0.1 at 4 bits for Gaussian weights."""
    max_abs: float
    min_row_cosine: float
    """Cosine of the worst output channel; 1.0 for rows that are all zero."""


def quantize_channels(weight: FloatArray) -> ChannelQuantized:
    """int8 per output channel of `weight` [N, K]."""
    _check(weight)
    scales = np.abs(weight).max(axis=1) / np.float32(127)
    values = np.rint(weight / _nonzero(scales)[:, None]).astype(np.int8)
    return ChannelQuantized(values, scales)


def dequantize_channels(quantized: ChannelQuantized) -> FloatArray:
    """The float32 weights [N, K] that a kernel works with."""
    return quantized.values.astype(np.float32) * quantized.scales[:, None]


def quantize_blocks(weight: FloatArray, *, bits: int, block: int, symmetric: bool = True) -> BlockQuantized:
    """int8 or int4 in blocks along K of `weight` [N, K], `block` a power of two from 16 up; asymmetric: int4 only."""
    _check(weight)
    if not symmetric and bits != 4:
        raise ExportError(f"Asymmetric blocks got bits={bits}; accepted: 4. At 8 bits a zero point gains nothing.")
    if bits not in (4, 8):
        raise ExportError(f"Block quantisation got bits={bits}; accepted: 4 or 8.")
    if block < 16 or block & (block - 1):
        raise ExportError(f"Block quantisation got block={block}; accepted: a power of two, at least 16.")
    rows, columns = weight.shape
    groups = -(-columns // block)
    packed = np.empty((rows, groups, block * bits // 8), np.uint8)
    scales = np.empty((rows, groups), np.float32)
    zeros = None if symmetric else np.empty((rows, -(-groups // 2)), np.uint8)
    for first in range(0, rows, ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        padded = np.zeros((len(weight[part]), groups * block), np.float32)
        padded[:, :columns] = weight[part]
        if zeros is None:
            packed[part], scales[part] = _quantize_groups(padded.reshape(-1, groups, block), bits)
        else:
            packed[part], scales[part], zeros[part] = _quantize_ranges(padded.reshape(-1, groups, block))
    return BlockQuantized(packed, scales, bits, block, zeros)


def dequantize_blocks(quantized: BlockQuantized) -> FloatArray:
    """The float32 weights [N, G·block] that MatMulNBits works with; columns beyond K are zero."""
    packed, bits = quantized.packed, quantized.bits
    codes = _nibbles(packed).reshape(*packed.shape[:2], -1) if bits == 4 else packed
    zeros = np.array(1 << (bits - 1), np.float32)
    if quantized.zero_points is not None:
        zeros = _nibbles(quantized.zero_points)[:, : packed.shape[1], None].astype(np.float32)
    values = codes.astype(np.float32) - zeros
    return (values * quantized.scales[..., None]).reshape(len(packed), -1)


def tensor_error(name: str, weight: FloatArray, dequantized: FloatArray) -> TensorError:
    """Compare `dequantized` with the original `weight` (both [N, K])."""
    return tensor_error_of_parts(name, [(weight, dequantized)])


def tensor_error_of_parts(name: str, parts: Iterable[tuple[FloatArray, FloatArray]]) -> TensorError:
    """The same for a matrix that comes in blocks of rows, as (weight, dequantized) pairs."""
    lost = total = max_abs = 0.0
    worst = 1.0
    for weight, dequantized in parts:
        difference = weight - dequantized
        lost += float(np.einsum("nk,nk->", difference, difference, dtype=np.float64))
        total += float(np.einsum("nk,nk->", weight, weight, dtype=np.float64))
        max_abs = max(max_abs, float(np.abs(difference).max(initial=0.0)))
        product = np.einsum("nk,nk->n", weight, dequantized)
        norms = np.linalg.norm(weight, axis=1) * np.linalg.norm(dequantized, axis=1)
        cosine = np.where(norms > 0, product / _nonzero(norms), 1.0)
        worst = min(worst, float(cosine.min(initial=1.0)))
    relative = math.sqrt(lost / total) if total else 0.0
    return TensorError(name=name, relative_rms=relative, max_abs=max_abs, min_row_cosine=worst)


def _quantize_ranges(
    groups: FloatArray,
) -> tuple[npt.NDArray[np.uint8], FloatArray, npt.NDArray[np.uint8]]:
    """4-bit codes (packed), scales and zero points (packed) of [N, G, block]: 16 codes from smallest to largest.

    The range always holds 0, so that a zero, and the padding, stays exact.
    """
    low = np.minimum(groups.min(axis=-1), np.float32(0))
    high = np.maximum(groups.max(axis=-1), np.float32(0))
    scales = (high - low) / np.float32(15)
    zeros = np.rint(-low / _nonzero(scales)).astype(np.uint8)
    codes = np.rint(groups / _nonzero(scales)[..., None]) + zeros[..., None]
    nibbles = np.clip(codes, 0, 15).astype(np.uint8)
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return nibbles[..., 0::2] | nibbles[..., 1::2] << 4, scales, even[:, 0::2] | even[:, 1::2] << 4


def _nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The last axis unpacked to twice its length, low halves first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _quantize_groups(groups: FloatArray, bits: int) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Codes (packed) and scales of [N, G, block]."""
    if bits == 8:
        scales = np.abs(groups).max(axis=-1) / np.float32(127)
        whole = np.rint(groups / _nonzero(scales)[..., None]) + np.float32(128)
        return whole.astype(np.uint8), scales
    # 4 bits reach from −8 to +7: the entry of largest magnitude, whatever its sign, is put on −8 (as GGUF's Q4_0 does),
    # which uses all 16 codes where ±7 would use 15. Beyond −8 it is clipped and all others are rounded less: what loses
    # least is found block by block.
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=-1, keepdims=True), axis=-1)[..., 0]
    scales, least = np.zeros_like(extreme), np.full_like(extreme, np.inf)
    for reach in _REACHES:
        tried = extreme / np.float32(-reach)
        lost = _codes(groups, tried)
        lost -= 8
        lost *= tried[..., None]
        lost -= groups
        errors = np.einsum("ngb,ngb->ng", lost, lost)
        better = errors < least
        scales, least = np.where(better, tried, scales), np.where(better, errors, least)
    packed: npt.NDArray[np.uint8] = _codes(groups, scales).astype(np.uint8)
    return packed[..., 0::2] | packed[..., 1::2] << np.uint8(4), scales


def _codes(groups: FloatArray, scales: FloatArray) -> FloatArray:
    """4-bit codes 0…15 of [N, G, block], as floats."""
    codes = groups / _nonzero(scales)[..., None]
    codes += 8
    np.rint(codes, out=codes)
    return np.clip(codes, 0, 15, out=codes)


def _nonzero(scales: FloatArray) -> FloatArray:
    """`scales` with 1 in place of 0, so that a block of zeros divides to zeros."""
    return np.where(scales == 0, np.float32(1), scales)


def _check(weight: FloatArray) -> None:
    if weight.ndim != 2:
        raise ExportError(f"Quantisation got a tensor of shape {weight.shape}; accepted: a matrix [outputs, inputs].")
    if not np.isfinite(weight).all():
        raise ExportError("Quantisation got NaN or infinite weights; accepted: finite ones. Check the checkpoint.")
