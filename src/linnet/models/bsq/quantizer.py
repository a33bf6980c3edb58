"""Binary spherical quantisation (Zhao et al. 2024, arXiv:2406.07548; reference code: bsq-vit, `quantizer/bsq.py`).

A latent is projected on the unit sphere and every coordinate replaced by its sign: the nearest of the 2^D corners
±1/√D of a cube inside the sphere. No codebook is stored. Its entropies factorise: given the latent, the bits are
independent, so the entropy of a token is a sum over bits; the entropy of the codebook is bounded from above by a sum
over groups of bits, 2^group_size probabilities each.

Shapes: D bits, G = D / group_size groups, `…` any leading dimensions. Codes are ±1/√D; a bit is 1 where the code is
positive, and the first coordinate is the most significant bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.errors import ConfigError

MAX_BITS = 62  # ids are int64, and 2^62 + 2^62 must not overflow
_EPSILON = 1e-8  # inside the logarithm, as in the reference


@dataclass(frozen=True)
class Quantized:
    """What `BinarySphericalQuantizer` gives for latents […, D]."""

    codes: Tensor
    """±1/√D […, D]; the gradient passes straight through, scaled by 1/√D."""
    loss: Tensor
    """β · commitment + ζ · entropy penalty, a scalar."""
    sample_entropy: Tensor
    """Mean entropy of a token's soft assignment, in nats: low means that the bits are certain."""
    codebook_entropy: Tensor
    """Entropy of the mean assignment, in nats, at most D · ln 2: high means that all codes are used.

    The penalty γ₀ · sample − γ · codebook is minus the information that a token carries about its sound (with
    γ₀ = γ). Entropy is concave, so it is never positive; a negative loss is therefore normal, and the lower the better.
    """


class BinarySphericalQuantizer(nn.Module):
    """Quantise latents to D bits; nothing in it is learned."""

    corners: Tensor

    def __init__(
        self,
        bits: int,
        *,
        group_size: int = 9,
        entropy: Literal["group", "analytical"] = "group",
        beta: float = 0.25,
        gamma0: float = 1.0,
        gamma: float = 1.0,
        zeta: float = 0.1,
        inverse_temperature: float = 1.0,
    ) -> None:
        """beta weighs commitment, zeta the whole entropy penalty, gamma0 and gamma its parts (the reference's names).

        entropy: `group` bounds the codebook's entropy by groups of bits, `analytical` by single bits.
        Raises ConfigError if bits is not in 1…62 or not a multiple of group_size.
        """
        super().__init__()
        if not 1 <= bits <= MAX_BITS:
            raise ConfigError(f"A code has 1 to {MAX_BITS} bits (its id is an int64), got {bits}.")
        if group_size < 1 or bits % group_size:
            raise ConfigError(f"bits must be a multiple of group_size, got {bits} and {group_size}.")
        if entropy == "group" and group_size > 16:
            raise ConfigError(f"A group of {group_size} bits has too many codes to list; accepted: 1 to 16.")
        if entropy not in ("group", "analytical"):
            raise ConfigError(f"Unknown entropy {entropy!r}; accepted: 'group', 'analytical'.")
        self.bits, self.group_size, self.entropy = bits, group_size, entropy
        self.beta, self.gamma0, self.gamma, self.zeta = beta, gamma0, gamma, zeta
        self.inverse_temperature = inverse_temperature
        if entropy == "group":
            corners = bits_of_ids(torch.arange(2**group_size), group_size).float() * 2 - 1
            self.register_buffer("corners", corners / math.sqrt(bits), persistent=False)  # [2^group_size, group_size]

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantise latents […, D]; positions where `mask` […] is False count in no loss and no entropy.

        With several processes, means are taken over all of them, so that the number of processes changes nothing.
        """
        unit = F.normalize(latents.float(), dim=-1)
        scale = 1 / math.sqrt(self.bits)
        hard = torch.where(unit > 0, scale, -scale)
        # As in the reference, signs pass the gradient straight through and are scaled afterwards: it shrinks by √D.
        codes = unit * scale + (hard - unit * scale).detach()
        chosen = unit.reshape(-1, self.bits) if mask is None else unit[mask]
        weight = 1 / everywhere(torch.tensor(float(len(chosen)), device=unit.device)).clamp_min(1.0)
        nearest = hard.reshape(-1, self.bits) if mask is None else hard[mask]
        # Sums over this process, divided by the tokens of all: `reduced` adds up to the mean over all processes.
        commitment = ((nearest - chosen) ** 2).sum() * weight
        probabilities = self.assignment(chosen)  # [N, G or D, corners of a part]
        sample = _entropy(probabilities).sum() * weight
        mean = everywhere(probabilities.sum(0) * weight)
        codebook = _entropy(mean).sum()
        commitment, sample = everywhere(commitment), everywhere(sample)
        penalty = (self.gamma0 * sample - self.gamma * codebook) / self.inverse_temperature
        return Quantized(codes, self.beta * commitment + self.zeta * penalty, sample, codebook)

    def assignment(self, unit: Tensor) -> Tensor:
        """Soft assignment of unit vectors [N, D]: [N, G, 2^group_size], or [N, D, 2] where entropies are analytical.

        p(corner) ∝ exp(−τ · |u − corner|²) = exp(2τ · u · corner + const): independent over bits.
        """
        if self.entropy == "group":
            groups = unit.reshape(len(unit), -1, self.group_size)
            return (2 * self.inverse_temperature * groups @ self.corners.T).softmax(-1)
        positive = torch.sigmoid(4 * self.inverse_temperature / math.sqrt(self.bits) * unit)
        return torch.stack([1 - positive, positive], dim=-1)

    def ids(self, codes: Tensor) -> Tensor:
        """int64 ids […] of codes […, D]."""
        return ids_of_bits(codes > 0)

    def group_ids(self, codes: Tensor) -> Tensor:
        """int64 ids […, G] of every group of codes […, D]."""
        return ids_of_bits((codes > 0).unflatten(-1, (-1, self.group_size)))

    def codes(self, ids: Tensor) -> Tensor:
        """Codes […, D] (float32) of int64 ids […]."""
        return (bits_of_ids(ids, self.bits).float() * 2 - 1) / math.sqrt(self.bits)


def ids_of_bits(bits: Tensor) -> Tensor:
    """int64 […] of booleans […, D], most significant first. Shifts, not float products: those are wrong above 2^24."""
    count = bits.shape[-1]
    if count > MAX_BITS:
        raise ConfigError(f"An id holds at most {MAX_BITS} bits, got {count}.")
    shifts = torch.arange(count - 1, -1, -1, device=bits.device)
    return (bits.to(torch.int64) << shifts).sum(-1)


def bits_of_ids(ids: Tensor, count: int) -> Tensor:
    """Booleans […, count] of int64 ids […]; ConfigError if an id does not fit."""
    if ids.dtype != torch.int64 or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < 1 << count):
        raise ConfigError(f"Ids must be int64 in 0…2^{count} − 1, got {ids.dtype} {ids.flatten()[:3].tolist()}….")
    shifts = torch.arange(count - 1, -1, -1, device=ids.device)
    return (ids[..., None] >> shifts & 1).bool()


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * (probabilities + _EPSILON).log()).sum(-1)


def everywhere(value: Tensor) -> Tensor:
    """Sum over all processes, with gradient; the value itself in a single one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    summed: Tensor = _SumOverProcesses.apply(value)
    return summed


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce both ways: the derivative of a sum over processes is the sum of its derivatives in all of them."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed
