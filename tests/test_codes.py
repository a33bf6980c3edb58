"""`.bsq` files: round trips, exact bytes, and every kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.codes import Codes
from linnet.errors import CodesCorruptError, CodesError, CodesVersionError
from linnet.range_coder import compress, expand


def codes(bits: int = 18, tokens: int = 40, seed: int = 0) -> Codes:
    ids = np.random.default_rng(seed).integers(0, 1 << bits, tokens, dtype=np.int64)
    length = tokens * 320 - 7 * (tokens > 0)
    return Codes(ids, bits, samples=length, sample_rate_hz=16_000, token_samples=320, model="m")


@given(st.integers(1, 62), st.integers(0, 60), st.integers(0, 9), st.sampled_from(["packed", "arithmetic"]))
@settings(deadline=None, max_examples=60)
def test_any_number_of_bits_comes_back(bits: int, tokens: int, seed: int, coding: str) -> None:
    original = codes(bits, tokens, seed)
    assert Codes.from_bytes(original.to_bytes(coding)) == original  # type: ignore[arg-type]


def test_largest_and_smallest_ids_of_62_bits(tmp_path: Path) -> None:
    ids = np.array([0, (1 << 62) - 1, 1, 1 << 61], dtype=np.int64)
    original = Codes(ids, 62, samples=4 * 320, sample_rate_hz=16_000, token_samples=320)
    for coding in ("packed", "arithmetic"):
        original.save(tmp_path / "a.bsq", coding=coding)  # type: ignore[arg-type]
        assert Codes.load(tmp_path / "a.bsq").ids.tolist() == ids.tolist()


def test_the_bytes_are_these_on_every_machine() -> None:
    """Frozen: a file written today has to be readable for ever, and is the same wherever it is written."""
    ids = np.array([5, 5, 4, 1, 7, 7, 7, 2], dtype=np.int64)
    small = Codes(ids, 3, samples=2550, sample_rate_hz=16_000, token_samples=320, model="m", fingerprint="f")
    header = (
        b'{"bits":3,"coding":"packed","fingerprint":"f","model":"m","sample_rate_hz":16000,"samples":2550,'
        b'"token_samples":320,"tokens":8}'
    )
    content = small.to_bytes("packed")
    assert content[:14] == struct.pack("<4sHII", b"LBSQ", 1, len(header), 3)
    assert content[18:] == header + bytes([0b10110110, 0b00011111, 0b11111010])
    assert compress(small.to_bits()).hex() == ARITHMETIC


ARITHMETIC = "49a3f53ad1e0"


def test_a_constant_signal_costs_next_to_nothing_and_noise_no_more_than_its_bits() -> None:
    tokens = np.full(3000, 123_456, dtype=np.int64)
    still = Codes(tokens, 18, samples=3000 * 320, sample_rate_hz=16_000, token_samples=320)
    assert len(still.to_bytes("arithmetic")) < len(still.to_bytes("packed")) / 10
    noise = codes(18, 3000)
    # Contexts that turn out to be worthless cost a little: adapting to them is guessing.
    assert len(noise.to_bytes("arithmetic")) < len(noise.to_bytes("packed")) * 1.05


def test_a_skewed_source_costs_about_its_entropy() -> None:
    bits = np.random.default_rng(0).random((4000, 9)) < 0.1
    entropy = -(0.1 * np.log2(0.1) + 0.9 * np.log2(0.9)) * bits.size
    assert entropy * 0.97 < len(compress(bits)) * 8 < entropy * 1.08


def test_expand_survives_any_bytes() -> None:
    noise = np.random.default_rng(0).bytes(300)
    assert expand(noise, 40, 18).shape == (40, 18)
    assert expand(b"", 2, 3).shape == (2, 3)


def test_rates_are_reported() -> None:
    assert codes().nominal_bits_per_s == 900
    assert codes().duration_s == pytest.approx((40 * 320 - 7) / 16_000)


@pytest.mark.parametrize("coding", ["packed", "arithmetic"])
def test_every_flipped_bit_is_noticed(coding: str) -> None:
    content = codes(9, 6).to_bytes(coding)  # type: ignore[arg-type]
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        with pytest.raises((CodesCorruptError, CodesVersionError)):
            Codes.from_bytes(bytes(damaged))


def test_every_cut_is_noticed() -> None:
    content = codes(9, 6).to_bytes()
    for length in range(len(content)):
        with pytest.raises(CodesCorruptError):
            Codes.from_bytes(content[:length])
    with pytest.raises(CodesCorruptError, match="promises"):
        Codes.from_bytes(content + b"x")


def test_a_newer_file_says_what_to_upgrade(tmp_path: Path) -> None:
    content = bytearray(codes().to_bytes())
    content[4:6] = struct.pack("<H", 2)
    (tmp_path / "new.bsq").write_bytes(content)
    with pytest.raises(CodesVersionError, match="pip install --upgrade linnet"):
        Codes.load(tmp_path / "new.bsq")


@pytest.mark.parametrize("header", [b"no json", b"[1]", b'{"bits":3}', None])
def test_a_wrong_header_with_a_right_checksum_is_corrupt(header: bytes | None) -> None:
    import zlib

    if header is None:  # more tokens than the payload can hold
        header = (
            b'{"bits":62,"coding":"packed","fingerprint":"","model":"","sample_rate_hz":16000,"samples":320000000000,'
            b'"token_samples":320,"tokens":1000000000}'
        )
    content = struct.pack("<4sHIII", b"LBSQ", 1, len(header), 4, zlib.crc32(b"1234", zlib.crc32(header)))
    with pytest.raises(CodesCorruptError):
        Codes.from_bytes(content + header + b"1234")


def test_no_file_and_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(CodesError, match="Cannot read"):
        Codes.load(tmp_path / "none.bsq")
    with pytest.raises(CodesError, match="Cannot write"):
        codes().save(tmp_path / "none" / "a.bsq")
    with pytest.raises(CodesCorruptError, match="does not start as one"):
        Codes.from_bytes(b"RIFF" + bytes(40), name="a.wav")


@pytest.mark.parametrize(
    "change",
    [{"bits": 63}, {"bits": 0}, {"ids": np.zeros(40)}, {"ids": np.full(40, 1 << 18)}, {"ids": np.full(40, -1)},
     {"samples": 0}, {"samples": 99_999}, {"sample_rate_hz": 0}],
)  # fmt: skip
def test_impossible_codes_are_refused(change: dict[str, object]) -> None:
    right = codes()
    fields = {"ids": right.ids, "bits": 18, "samples": right.samples, "sample_rate_hz": 16_000, "token_samples": 320}
    with pytest.raises(CodesError):
        Codes(**(fields | change))  # type: ignore[arg-type]
