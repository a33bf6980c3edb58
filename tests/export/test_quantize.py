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
    tensor_error_of_parts,
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
def test_weights_move_by_half_a_step_or_end_at_the_last_code(rows: int, columns: int, bits: int, block: int) -> None:
    weight = gaussian(rows, columns, seed=rows * 1000 + columns)
    quantized = quantize_blocks(weight, bits=bits, block=block)
    assert quantized.packed.shape == (rows, -(-columns // block), block * bits // 8)
    restored = dequantize_blocks(quantized)
    assert (restored[:, columns:] == 0).all()
    scales = np.repeat(quantized.scales, block, axis=1)[:, :columns]
    lowest, highest = (-8, 7) if bits == 4 else (-127, 127)
    nearest = np.clip(weight / scales, lowest, highest) * scales
    assert (np.abs(restored[:, :columns] - nearest) <= np.abs(scales) * 0.5 * (1 + 1e-5)).all()


@pytest.mark.parametrize(("block", "share"), [(32, 0.97), (128, 0.9)])  # larger blocks have more extreme extremes
def test_clipping_the_extreme_of_a_block_never_loses_more_than_keeping_it(block: int, share: float) -> None:
    weight = np.random.default_rng(0).standard_t(4, (50, 256)).astype(np.float32)
    groups = weight.reshape(-1, block)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], 1)
    kept = np.clip(np.rint(groups / (extreme / -8)), -8, 7) * (extreme / -8)
    found = dequantize_blocks(quantize_blocks(weight, bits=4, block=block)).reshape(-1, block)
    lost, lost_kept = ((x - groups).astype(np.float64) ** 2 for x in (found, kept))
    assert (lost.sum(1) <= lost_kept.sum(1) * (1 + 1e-5)).all()
    assert lost.sum() < share * lost_kept.sum()


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 20), columns=st.integers(1, 200), offset=st.floats(-3, 3), block=st.sampled_from([16, 64]))
def test_asymmetric_blocks_keep_zero_exact_and_reach_both_ends(
    rows: int, columns: int, offset: float, block: int
) -> None:
    weight = gaussian(rows, columns, seed=rows * 1000 + columns) + np.float32(offset)
    weight[0, 0] = 0
    quantized = quantize_blocks(weight, bits=4, block=block, symmetric=False)
    groups = -(-columns // block)
    assert quantized.zero_points is not None and quantized.zero_points.shape == (rows, -(-groups // 2))
    restored = dequantize_blocks(quantized)
    assert restored[0, 0] == 0 and (restored[:, columns:] == 0).all()
    # half a step from rounding the weight, and half from rounding the zero point
    steps = np.repeat(quantized.scales, block, axis=1)[:, :columns]
    assert (np.abs(restored[:, :columns] - weight) <= steps * (1 + 1e-4)).all()


def test_zero_points_pay_for_weights_that_are_not_centred() -> None:
    centred, shifted = gaussian(64, 1024), gaussian(64, 1024) + 2
    errors = {}
    for name, weight in (("centred", centred), ("shifted", shifted)):
        for symmetric in (True, False):
            restored = dequantize_blocks(quantize_blocks(weight, bits=4, block=64, symmetric=symmetric))
            errors[name, symmetric] = tensor_error(name, weight, restored).relative_rms
    assert errors["shifted", False] < 0.8 * errors["shifted", True]
    assert errors["centred", False] == pytest.approx(errors["centred", True], rel=0.1)


def test_errors_of_parts_are_those_of_the_whole() -> None:
    weight = gaussian(50, 96)
    restored = dequantize_blocks(quantize_blocks(weight, bits=4, block=32))
    whole = tensor_error("w", weight, restored)
    parts = tensor_error_of_parts("w", [(weight[:20], restored[:20]), (weight[20:], restored[20:])])
    assert parts.relative_rms == pytest.approx(whole.relative_rms, rel=1e-6)
    assert (parts.max_abs, parts.min_row_cosine) == (whole.max_abs, pytest.approx(whole.min_row_cosine, abs=1e-6))


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
    with pytest.raises(ExportError, match="Asymmetric blocks got bits=8"):
        quantize_blocks(weight, bits=8, block=32, symmetric=False)
    with pytest.raises(ExportError, match="block=24"):
        quantize_blocks(weight, bits=4, block=24)
    with pytest.raises(ExportError, match="matrix"):
        quantize_channels(weight[0])
    weight[0, 0] = np.inf
    with pytest.raises(ExportError, match="NaN or infinite"):
        quantize_blocks(weight, bits=8, block=32)
