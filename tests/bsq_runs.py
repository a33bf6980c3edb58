"""Run folders of tiny tokenizers with random weights, as training leaves them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from linnet.features import FeatureSpec
from linnet.models.bsq.model import BSQ
from linnet.runtime.bsq_config import BSQConfig
from linnet.train.run_folder import RunFolder

# Every size is different, so that a swapped pair of dimensions cannot pass.
TINY = BSQConfig(
    features=FeatureSpec(n_fft=640, hop_length=160, n_mels=40, log="natural"),
    bits=18,
    d_model=48,
    layers=2,
    heads=3,
    ffn_ratio=2,
    kernel_size=7,
    block_tokens=10,
    left_tokens=15,
    waveform_channels=20,
    waveform_layers=2,
    waveform_kernel=5,
    mel_mean=tuple(-8.0 - band / 20 for band in range(40)),
    mel_std=tuple(3.0 + band / 30 for band in range(40)),
)


def model(config: BSQConfig = TINY, seed: int = 0) -> BSQ:
    """In evaluation mode; weights large enough that bits vary."""
    torch.manual_seed(seed)
    bsq = BSQ(config).eval()
    for name, parameter in bsq.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return bsq


def write_run(folder: Path, bsq: BSQ) -> Path:
    """A run folder that `export_run` reads."""
    run = RunFolder(folder)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"family": "bsq", "seed": 0, "corpora": {}}))
    (folder / "meta.json").write_text("{}")
    (folder / "shape.json").write_text(json.dumps(bsq.config.to_dict()))
    run.save("best", {f"bsq.{name}": value for name, value in bsq.named_parameters()}, {"step": 1})
    return folder


def causal(config: BSQConfig = TINY) -> BSQConfig:
    """One token per block."""
    return replace(config, block_tokens=1)
