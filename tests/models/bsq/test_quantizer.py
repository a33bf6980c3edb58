"""The quantiser against official vectors and against the whole codebook, listed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linnet.errors import ConfigError
from linnet.models.bsq.quantizer import MAX_BITS, BinarySphericalQuantizer, bits_of_ids, ids_of_bits

CASES = ["b9_g9_group", "b18_g9_group", "b18_g9_analytical", "b18_g6_group", "b36_g9_group"]


@pytest.mark.parametrize("case", CASES)
def test_official_vectors(case: str, golden: Path) -> None:
    vectors = np.load(golden / "bsq" / "cases.npz")
    bits, group_size, entropy = case.split("_")
    quantizer = BinarySphericalQuantizer(int(bits[1:]), group_size=int(group_size[1:]), entropy=entropy)  # type: ignore[arg-type]
    latents = torch.tensor(vectors[f"{case}.v"], requires_grad=True)
    found = quantizer(latents)
    (found.loss + (found.codes * torch.tensor(vectors[f"{case}.downstream_weight"])).sum()).backward()
    # 1e-5: sums of some thousand float32 terms of order one, in another order than the reference.
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(found.codes.detach(), vectors[f"{case}.zq"], **close)
    for name in ("loss", "sample_entropy", "codebook_entropy"):
        np.testing.assert_allclose(getattr(found, name).detach(), vectors[f"{case}.{name}"], **close)
    np.testing.assert_array_equal(quantizer.group_ids(found.codes), vectors[f"{case}.group_indices"])
    np.testing.assert_allclose(latents.grad, vectors[f"{case}.grad_v"], **close)


def codebook(bits: int) -> Tensor:
    """All 2^bits corners, in the order of their ids."""
    rows = [[1.0 if number >> (bits - 1 - i) & 1 else -1.0 for i in range(bits)] for number in range(2**bits)]
    return torch.tensor(rows, dtype=torch.float64) / math.sqrt(bits)


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
def test_agrees_with_the_listed_codebook(bits: int) -> None:
    torch.manual_seed(bits)
    latents, corners = torch.randn(3, 50, bits), codebook(bits)
    quantizer = BinarySphericalQuantizer(bits, group_size=bits, inverse_temperature=3.0)
    found = quantizer(latents)
    unit = F.normalize(latents.double(), dim=-1)
    distances = torch.cdist(unit.reshape(-1, bits), corners) ** 2
    nearest = distances.argmin(-1).reshape(3, 50)
    assert torch.equal(quantizer.ids(found.codes), nearest)
    # float32 against float64
    torch.testing.assert_close(found.codes.double(), corners[nearest], rtol=0, atol=1e-6)
    soft = (-3.0 * distances).softmax(-1)
    mean = soft.mean(0)
    torch.testing.assert_close(found.sample_entropy.double(), -(soft * soft.log()).sum(-1).mean(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.codebook_entropy.double(), -(mean * mean.log()).sum(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_single_bits_give_the_same_sample_entropy_and_bound_the_codebooks(bits: int) -> None:
    latents = torch.randn(200, bits) + 0.5
    whole = BinarySphericalQuantizer(bits, group_size=bits)(latents)
    by_bit = BinarySphericalQuantizer(bits, group_size=1, entropy="analytical")(latents)
    torch.testing.assert_close(whole.sample_entropy, by_bit.sample_entropy, rtol=0, atol=1e-5)
    assert whole.codebook_entropy <= by_bit.codebook_entropy + 1e-5
    assert by_bit.codebook_entropy <= bits * math.log(2) + 1e-5


def test_no_codebook_of_many_bits_is_ever_listed() -> None:
    quantizer = BinarySphericalQuantizer(54)
    found = quantizer(torch.randn(2, 7, 54))
    assert found.codes.shape == (2, 7, 54)
    assert sum(buffer.numel() for buffer in quantizer.buffers()) == 512 * 9


def test_the_entropy_penalty_is_never_positive() -> None:
    """Codebook entropy is at least sample entropy (Jensen): a negative loss is information, not a mistake."""
    for seed in range(5):
        torch.manual_seed(seed)
        found = BinarySphericalQuantizer(18, beta=0.0)(torch.randn(40, 18) * 3)
        assert found.loss <= 1e-6
    same = BinarySphericalQuantizer(18, beta=0.0)(torch.randn(1, 18).expand(40, 18))
    assert abs(float(same.loss)) < 1e-6  # tokens that do not differ carry no information


@given(st.integers(1, MAX_BITS), st.data())
@settings(deadline=None, max_examples=60)
def test_ids_are_exact_up_to_62_bits(bits: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=8))
    ids = torch.tensor(numbers, dtype=torch.int64)
    spelled = bits_of_ids(ids, bits)
    assert ["".join(str(int(bit)) for bit in row) for row in spelled] == [f"{n:0{bits}b}" for n in numbers]
    assert torch.equal(ids_of_bits(spelled), ids)


def test_36_bit_ids_in_float32_would_be_wrong_and_ours_are_not() -> None:
    torch.manual_seed(0)
    quantizer = BinarySphericalQuantizer(36)
    codes = quantizer(torch.randn(1000, 36)).codes
    powers = 2.0 ** torch.arange(35, -1, -1)
    published = ((codes > 0).float() * powers).sum(-1).long()
    ids = quantizer.ids(codes)
    assert (published != ids).float().mean() > 0.9  # the defect: float32 holds 24 bits
    assert torch.equal(torch.sign(quantizer.codes(ids)), torch.sign(codes))


def test_padding_counts_in_no_figure() -> None:
    latents = torch.randn(3, 9, 18)
    mask = torch.arange(9) < torch.tensor([[9], [5], [2]])
    quantizer = BinarySphericalQuantizer(18)
    masked, alone = quantizer(latents, mask), quantizer(latents[mask])
    for name in ("loss", "sample_entropy", "codebook_entropy"):
        torch.testing.assert_close(getattr(masked, name), getattr(alone, name))


@pytest.mark.parametrize(
    ("bits", "options"),
    [(0, {}), (63, {"group_size": 1, "entropy": "analytical"}), (10, {}), (34, {"group_size": 17}),
     (18, {"entropy": "full"})],
)  # fmt: skip
def test_impossible_codes_are_refused(bits: int, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BinarySphericalQuantizer(bits, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [torch.tensor([4]), torch.tensor([-1]), torch.tensor([1.0])])
def test_ids_that_do_not_fit_are_refused(ids: Tensor) -> None:
    with pytest.raises(ConfigError, match="Ids must be int64"):
        bits_of_ids(ids, 2)
