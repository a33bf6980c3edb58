"""Weight quantisation: rounding errors are bounded by the format, and special blocks are exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.errors import ExportError
from linnet.export.quantize import (
    dequantize_blocks,
    dequantize_channels,
    quantize_blocks,
    quantize_channels,
    tensor_error,
)


def gaussian(rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 128]),
)
def test_no_weight_moves_more_than_half_a_step(rows: int, columns: int, bits: int, block: int) -> None:
    weight = gaussian(rows, columns, seed=rows * 1000 + columns)
    quantized = quantize_blocks(weight, bits=bits, block=block)
    assert quantized.packed.shape == (rows, -(-columns // block), block * bits // 8)
    restored = dequantize_blocks(quantized)
    assert (restored[:, columns:] == 0).all()
    steps = np.repeat(np.abs(quantized.scales), block, axis=1)[:, :columns]
    # 4 bits: the side away from the extreme ends at +7, so a weight up to 8 steps out may lose a whole one
    limit = steps * (1.0 if bits == 4 else 0.5) * (1 + 1e-5)
    assert (np.abs(restored[:, :columns] - weight) <= limit).all()


def test_channels_lose_at_most_half_a_step() -> None:
    weight = gaussian(30, 70) * np.logspace(-3, 3, 30, dtype=np.float32)[:, None]
    quantized = quantize_channels(weight)
    error = np.abs(dequantize_channels(quantized) - weight)
    assert (error <= quantized.scales[:, None] * 0.5 * (1 + 1e-5)).all()
    assert np.abs(quantized.values).max() == 127  # symmetric: −128 is never used


def test_codes_are_laid_out_as_matmulnbits_reads_them() -> None:
    weight = np.zeros((1, 16), np.float32)
    weight[0, :3] = [-8, 7, 1]
    quantized = quantize_blocks(weight, bits=4, block=16)
    assert quantized.scales.tolist() == [[1.0]]
    assert quantized.packed[0, 0, :2].tolist() == [0 | 15 << 4, 9 | 8 << 4]  # code = value + 8, low nibble first
    eight = quantize_blocks(np.full((1, 16), -127, np.float32), bits=8, block=16)
    assert eight.packed[0, 0].tolist() == [1] * 16


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zeros(bits: int) -> None:
    weight = gaussian(3, 64)
    weight[1] = 0
    weight[2, 32:] = 0
    restored = dequantize_blocks(quantize_blocks(weight, bits=bits, block=32))
    assert (restored[1] == 0).all() and (restored[2, 32:] == 0).all()
    assert (dequantize_channels(quantize_channels(weight))[1] == 0).all()


def test_error_report_matches_what_gaussian_theory_expects() -> None:
    weight = gaussian(64, 1024)
    errors = {}
    for bits in (4, 8):
        restored = dequantize_blocks(quantize_blocks(weight, bits=bits, block=32))
        errors[bits] = tensor_error("w", weight, restored)
    # uniform rounding noise is step/√12; the largest of 32 Gaussians is near 2.1 σ, so a step is 2.1/8 or 2.1/127
    assert errors[4].relative_rms == pytest.approx(2.1 / 8 / 12**0.5, rel=0.15)
    assert errors[8].relative_rms == pytest.approx(2.1 / 127 / 12**0.5, rel=0.15)
    assert errors[4].min_row_cosine < errors[8].min_row_cosine < 1
    exact = tensor_error("w", weight, weight)
    assert (exact.relative_rms, exact.max_abs) == (0.0, 0.0) and exact.min_row_cosine == pytest.approx(1.0)


def test_unusable_input_is_refused() -> None:
    weight = gaussian(2, 32)
    with pytest.raises(ExportError, match="bits=3"):
        quantize_blocks(weight, bits=3, block=32)
    with pytest.raises(ExportError, match="block=24"):
        quantize_blocks(weight, bits=4, block=24)
    with pytest.raises(ExportError, match="matrix"):
        quantize_channels(weight[0])
    weight[0, 0] = np.inf
    with pytest.raises(ExportError, match="NaN or infinite"):
        quantize_blocks(weight, bits=8, block=32)
