"""Run folder → bundle: two ONNX graphs, compared with the torch model before anybody uses them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from linnet.bundle import Bundle, read_bundle, write_bundle
from linnet.errors import CheckpointError, ExportError
from linnet.export.folder import check_target, written_whole
from linnet.features import log_mel
from linnet.models.bsq.data import whole_tokens
from linnet.models.bsq.graph import Weights, write_graphs
from linnet.models.bsq.model import BSQ, token_mask
from linnet.noise import pink
from linnet.runtime.bsq import BSQCodec
from linnet.runtime.bsq_config import BSQConfig
from linnet.train.run_folder import RunFolder

Precision = Literal["fp32", "int8", "int8_blocks"]
MAX_FLIPPED_BITS = {"fp32": 0.001, "int8": 0.05, "int8_blocks": 0.05}
"""Share of bits that may differ from torch. Latents near zero flip from rounding alone, so fp32 gets more than none."""


def export_run(
    run: Path,
    out: Path,
    *,
    precision: Precision = "fp32",
    name: str | None = None,
    checkpoint: str = "best",
    vocoder: Literal["auto", "head", "griffin-lim"] = "auto",
    provenance: Mapping[str, Any] | None = None,
) -> Bundle:
    """Convert checkpoints/<checkpoint> of a run folder. Raises CheckpointError or ExportError.

    `vocoder` is what `decode` uses by default. The bundle's `parity` holds the measured differences from torch.
    """
    folder = RunFolder(run)
    tensors, state = folder.load(checkpoint)
    config = read_shape(run)
    check_target(out)
    prefix = "bsq."
    weights = {key.removeprefix(prefix): value.float().numpy() for key, value in tensors.items()
               if key.startswith(prefix) and not key.endswith("mask_vector")}  # fmt: skip
    recorded = folder.config()
    with written_whole(out, source=run) as work:
        write_graphs(weights, config, work, precision=precision)
        described: dict[str, Any] = {
            "name": name or run.resolve().name,
            "family": "bsq",
            "model": {**config.to_dict(), "fingerprint": fingerprint(weights), "vocoder": vocoder},
            "features": config.features,
            "precision": {"encoder": precision, "decoder": precision},
            "languages": (),
            "provenance": {
                "run": {"step": state["step"], "seed": recorded["seed"], **folder.meta()},
                "corpora": recorded.get("corpora", {}),
                **(provenance or {}),
            },
        }
        # Once without figures, to open and measure it, and once with them.
        bundle = write_bundle(work, **described, parity={})
        figures = compare(bundle, weights, config)
        if figures["flipped_bits"] > MAX_FLIPPED_BITS[precision]:
            raise ExportError(
                f"The exported encoder differs from torch in {figures['flipped_bits']:.2%} of the bits; accepted: "
                f"{MAX_FLIPPED_BITS[precision]:.1%}. Use precision int8_blocks or fp32."
            )
        write_bundle(work, **described, parity=figures)
    return read_bundle(out)


def compare(bundle: Bundle, weights: Weights, config: BSQConfig) -> dict[str, float]:
    """Largest differences between bundle and torch on four seconds of noise whose level goes up and down."""
    rng = np.random.default_rng(0)
    rate_hz = config.features.sample_rate_hz
    swell = 0.3 * np.sin(np.linspace(0, 9 * np.pi, 4 * rate_hz)) ** 2
    samples = whole_tokens((pink(4 * rate_hz, rate_hz=rate_hz, rng=rng) * swell).astype(np.float32), config)
    model = BSQ(config).eval()
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
    codec = BSQCodec(bundle)
    found = codec.encode(samples, sample_rate_hz=rate_hz)
    mask = token_mask([len(found.ids)])
    with torch.no_grad():
        mel = torch.from_numpy(log_mel(samples, config.features).T.copy())[None]
        ids = model.encode(mel, mask)[0].numpy()
        picture, wave = model.decode(torch.from_numpy(found.ids)[None], mask)
    flipped = np.bitwise_xor(ids, found.ids)
    figures = {
        "flipped_bits": float(sum(int(word).bit_count() for word in flipped)) / (len(ids) * config.bits),
        "log_mel_max_abs": float(np.abs(picture[0].numpy() - codec.decode_mel(found)).max()),
    }
    if wave is not None:
        figures["wave_max_abs"] = float(np.abs(wave[0].numpy() - codec.decode(found, vocoder="head")).max())
    codec.close()
    return figures


def read_shape(run: Path) -> BSQConfig:
    """shape.json of a run folder; CheckpointError if it is missing or foreign."""
    try:
        return BSQConfig.from_dict(json.loads((run / "shape.json").read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run} has no readable shape.json ({error}). Name the folder of a BSQ run.") from error


def fingerprint(weights: Weights) -> str:
    """16 hexadecimal digits that say whose tokens these are; the same in every precision."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name], dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]
