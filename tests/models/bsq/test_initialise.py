"""The linear codec that training starts from."""

from __future__ import annotations

import numpy as np
import torch

import bsq_runs
from linnet.models.bsq.initialise import linear_codec, start_linear
from linnet.models.bsq.model import token_mask


def correlated(count: int = 3000, width: int = 80) -> np.ndarray:
    """A few strong directions and some noise, as log-mel has."""
    rng = np.random.default_rng(0)
    strengths = np.array([6.0, 2.0, 1.0, 0.5])
    latent = rng.standard_normal((count, 4)) * strengths
    mixed = latent @ np.linalg.qr(rng.standard_normal((width, 4)))[0].T + 0.02 * rng.standard_normal((count, width))
    return (mixed + 1.5).astype(np.float32)


def reconstruct(tokens: np.ndarray, bits: int) -> np.ndarray:
    codec = linear_codec(tokens, bits)
    signs = np.where(tokens @ codec.encode.T + codec.thresholds > 0, 1.0, -1.0)
    return signs @ codec.decode.T + codec.offset


def test_one_bit_of_one_direction_is_the_best_there_is() -> None:
    """Lloyd-Max with two levels leaves 1 − 2/π of a Gaussian's variance."""
    values = np.random.default_rng(1).standard_normal((20_000, 1)).astype(np.float32)
    error = np.mean((reconstruct(values, 1) - values) ** 2)
    assert abs(error - (1 - 2 / np.pi)) < 0.02


def test_more_bits_are_closer() -> None:
    tokens = correlated()
    errors = [float(np.mean((reconstruct(tokens, bits) - tokens) ** 2)) for bits in (1, 4, 9, 18, 36)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03 * tokens.var(0).mean()


def test_the_network_starts_as_the_linear_codec() -> None:
    tokens, bsq = correlated(), bsq_runs.model()
    start_linear(bsq, tokens)
    mels = torch.from_numpy(tokens[:50]).reshape(1, 100, 40) * bsq.mel_std + bsq.mel_mean
    found = bsq(mels, token_mask([50])).log_mel.detach().reshape(50, 80)
    # a value within rounding of a threshold may fall on the other side
    far = np.abs(found.numpy() - reconstruct(tokens, bsq.config.bits)[:50]).max(1) > 1e-3
    assert far.sum() <= 1


def test_silence_alone_is_no_reason_to_fail() -> None:
    codec = linear_codec(np.zeros((100, 80), np.float32), 18)
    assert all(np.isfinite(part).all() for part in (codec.encode, codec.thresholds, codec.decode, codec.offset))
