"""Audio as bits: `Codes`, and the `.bsq` file that holds them.

    offset  size  content (integers are little-endian)
    0       4     magic: b"LBSQ"
    4       2     format version: 1
    6       4     length H of the header
    10      4     length P of the payload
    14      4     CRC-32 of header and payload
    18      H     header, JSON in UTF-8: bits, tokens, samples, sample_rate_hz, token_samples, model, fingerprint,
                  coding
    18 + H  P     the tokens one after another, each `bits` bits, most significant first: as they are ("packed",
                  eight to a byte) or by `linnet.range_coder` ("arithmetic")

Nothing follows. The bytes depend on the codes alone, not on the machine.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linnet.errors import CodesCorruptError, CodesError, CodesVersionError
from linnet.range_coder import compress, expand

MAGIC = b"LBSQ"
FORMAT_VERSION = 1
MAX_BITS = 62
Coding = Literal["packed", "arithmetic"]
_START = struct.Struct("<4sHIII")
_FIELDS = {"bits": int, "tokens": int, "samples": int, "sample_rate_hz": int, "token_samples": int, "model": str,
           "fingerprint": str, "coding": str}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Codes:
    """A recording as tokens. Equal if all fields are."""

    ids: npt.NDArray[np.int64]
    """One integer of `bits` bits per token [T]."""
    bits: int
    samples: int
    """Length of the recording; the last token may reach beyond it."""
    sample_rate_hz: int
    token_samples: int
    """Samples per token."""
    model: str = ""
    """Name of the tokenizer."""
    fingerprint: str = ""
    """Of the tokenizer's decoder: another one would make other sounds of these tokens."""

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise CodesError(f"A token has 1 to {MAX_BITS} bits, got {self.bits}.")
        if self.ids.ndim != 1 or self.ids.dtype != np.int64:
            raise CodesError(f"Token ids must be int64 [tokens], got {self.ids.dtype} {self.ids.shape}.")
        if self.ids.size and not 0 <= int(self.ids.min()) <= int(self.ids.max()) < 1 << self.bits:
            raise CodesError(f"Token ids must lie in 0…2^{self.bits} − 1, got {self.ids.min()}…{self.ids.max()}.")
        if min(self.sample_rate_hz, self.token_samples) < 1 or self.samples < 0:
            raise CodesError(f"Sample rate and token length must be positive, samples ≥ 0; got {self.sample_rate_hz}, "
                             f"{self.token_samples}, {self.samples}.")  # fmt: skip
        if len(self.ids) != -(-self.samples // self.token_samples):
            raise CodesError(
                f"{self.samples} samples are {-(-self.samples // self.token_samples)} tokens of {self.token_samples}, "
                f"got {len(self.ids)}."
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codes):
            return NotImplemented
        return self._header("packed") == other._header("packed") and np.array_equal(self.ids, other.ids)

    __hash__ = None  # type: ignore[assignment]

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return self.samples / self.sample_rate_hz

    @property
    def nominal_bits_per_s(self) -> float:
        """Bits per token times tokens per second."""
        return self.bits * self.sample_rate_hz / self.token_samples

    def to_bits(self) -> npt.NDArray[np.bool_]:
        """The bits [T, D], most significant first."""
        shifts = np.arange(self.bits - 1, -1, -1, dtype=np.int64)
        return (self.ids[:, None] >> shifts & 1).astype(bool)

    def to_bytes(self, coding: Coding = "arithmetic") -> bytes:
        """The content of a `.bsq` file."""
        bits = self.to_bits()
        if coding not in ("packed", "arithmetic"):
            raise CodesError(f"Unknown coding {coding!r}; accepted: 'packed', 'arithmetic'.")
        payload = np.packbits(bits.reshape(-1)).tobytes() if coding == "packed" else compress(bits)
        header = json.dumps(self._header(coding), sort_keys=True, separators=(",", ":")).encode()
        checksum = zlib.crc32(payload, zlib.crc32(header))
        return _START.pack(MAGIC, FORMAT_VERSION, len(header), len(payload), checksum) + header + payload

    def save(self, path: str | Path, *, coding: Coding = "arithmetic") -> int:
        """Write a `.bsq` file, whole or not at all; returns its size in bytes. CodesError if it cannot be written."""
        path = Path(path)
        content = self.to_bytes(coding)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CodesError(f"Cannot write {path}: {error}.") from error
        return len(content)

    @classmethod
    def load(cls, path: str | Path) -> Codes:
        """Read a `.bsq` file.

        Raises CodesError (no such file), CodesVersionError (written by a newer Linnet), or CodesCorruptError (not a
        `.bsq` file, cut short, altered).
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CodesError(f"Cannot read {path}: {error.strerror or error}. Give a .bsq file.") from error
        return cls.from_bytes(content, name=str(path))

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str = "these bytes") -> Codes:
        """The inverse of `to_bytes`; errors as in `load`."""
        if len(content) < _START.size or content[:4] != MAGIC:
            kind = "it is shorter than its own header" if content[:4] == MAGIC else "it does not start as one"
            raise CodesCorruptError(f"{name} is not a .bsq file: {kind}. Encode the recording with `linnet encode`.")
        _, version, header_bytes, payload_bytes, checksum = _START.unpack_from(content)
        if version > FORMAT_VERSION:
            raise CodesVersionError(
                f"{name} has .bsq format {version}; this Linnet reads up to {FORMAT_VERSION}. "
                "Upgrade: pip install --upgrade linnet"
            )
        expected = _START.size + header_bytes + payload_bytes
        if version < 1 or len(content) != expected:
            raise CodesCorruptError(
                f"{name} is damaged: {len(content)} bytes where its start promises {expected}. Copy or encode it again."
            )
        header, payload = content[_START.size : expected - payload_bytes], content[expected - payload_bytes :]
        if zlib.crc32(payload, zlib.crc32(header)) != checksum:
            raise CodesCorruptError(f"{name} is damaged: its checksum does not match. Copy or encode it again.")
        fields = _parse(header, name)
        bits = _unpack(payload, fields, name)
        shifts = np.arange(fields["bits"] - 1, -1, -1, dtype=np.int64)
        ids = (bits.astype(np.int64) << shifts).sum(1, dtype=np.int64)
        rest = {key: fields[key] for key in _FIELDS if key not in ("coding", "tokens")}
        return cls(ids, **rest)

    def _header(self, coding: Coding) -> dict[str, Any]:
        return {
            "bits": self.bits,
            "tokens": len(self.ids),
            "samples": self.samples,
            "sample_rate_hz": self.sample_rate_hz,
            "token_samples": self.token_samples,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "coding": coding,
        }


def _parse(header: bytes, name: str) -> dict[str, Any]:
    try:
        fields = json.loads(header)
    except ValueError as error:
        raise CodesCorruptError(f"{name} is damaged: its header is not JSON ({error}). Encode it again.") from error
    if not isinstance(fields, dict) or any(type(fields.get(key)) is not kind for key, kind in _FIELDS.items()):
        raise CodesCorruptError(f"{name} is damaged: its header lacks one of {', '.join(_FIELDS)}. Encode it again.")
    if not 1 <= fields["bits"] <= MAX_BITS or min(fields["tokens"], fields["samples"]) < 0:
        raise CodesCorruptError(f"{name} is damaged: impossible numbers in its header. Encode it again.")
    if fields["coding"] not in ("packed", "arithmetic"):
        raise CodesCorruptError(f"{name} uses the unknown coding {fields['coding']!r}. Encode it again.")
    return fields


def _unpack(payload: bytes, fields: dict[str, Any], name: str) -> npt.NDArray[np.bool_]:
    tokens, bits = fields["tokens"], fields["bits"]
    # An adaptive code spends at least 1/1000 of a bit on every bit: fewer bytes cannot hold so many tokens.
    least = -(-tokens * bits // 8) if fields["coding"] == "packed" else tokens * bits // 8000
    if len(payload) < least:
        raise CodesCorruptError(f"{name} is damaged: {tokens} tokens do not fit in {len(payload)} bytes.")
    if fields["coding"] == "packed":
        return np.unpackbits(np.frombuffer(payload, np.uint8), count=tokens * bits).astype(bool).reshape(tokens, bits)
    return expand(payload, tokens, bits)
