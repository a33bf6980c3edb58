"""Adapters inside the torch module: residual branches on audio tokens, and low-rank updates of frozen matrices.

    x + up(mix(down(norm(x))))        `up` starts at zero, so the adapted model starts as the base, bit for bit

`mix` works on one attention window at a time, as constant real matrices of the window's full size: a shorter window is
filled up with zeros, so neither the other windows of a batch nor its padding change anything, and ONNX needs no FFT.
Windows longer than that (attention="full") are cut.

Source of the published operator: docs/adapters.md. Configuration, parameter budget and files are torch-free, in
`linnet.export.qwen3_asr_adapter`.

Shapes: W windows, T tokens (padding included), D width of the site, b inner width, N tokens of a full window,
K = N // 2 + 1 frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.errors import TrainingError
from linnet.export.qwen3_asr_adapter import (
    AdapterConfig,
    Site,
    fourier,
    inner_width,
    lora_targets,
    parameter_shapes,
    parse_sites,
    real_fourier,
)
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig


class Adapter(nn.Module):
    """One residual branch; parameters and arithmetic in float32, whatever the frozen network has."""

    cos_time: Tensor
    sin_time: Tensor
    cos_width: Tensor
    sin_width: Tensor
    analysis: Tensor
    synthesis: Tensor

    def __init__(self, config: AdapterConfig, site: Site, shape: Qwen3ASRConfig) -> None:
        super().__init__()
        inner, self.window, self.post_norm = (
            inner_width(config, site, shape),
            shape.window_tokens,
            config.norm == "post",
        )
        self.norm = nn.LayerNorm(site.width)
        self.down = nn.Linear(site.width, inner, bias=False)
        self.up = nn.Linear(inner, site.width, bias=False)
        nn.init.zeros_(self.up.weight)
        self.mix = _MIXERS[config.mode]
        self.enabled = True
        if config.mode in ("fnet", "hartley"):
            self._constants(fourier(self.window), ("cos_time", "sin_time"))
            self._constants(fourier(inner), ("cos_width", "sin_width"))
        if config.mode == "gate":
            analysis, synthesis = real_fourier(self.window)
            self._constants((analysis, synthesis), ("analysis", "synthesis"))
            self.filter = nn.Parameter(torch.zeros(2, len(analysis) // 2, inner))  # real part 1: lets all pass
            nn.init.ones_(self.filter.data[0])

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens [W, T, D] of windows that share nothing; `keep` [W, T] is False on padding (None: no padding)."""
        if not self.enabled:
            return x
        precise = x.float()
        z = self.down(precise if self.post_norm else self.norm(precise))
        if keep is not None:
            z = z * keep[..., None]
        branch = self.up(self._mixed(z))
        if self.post_norm:
            return self.norm(precise + branch).to(x.dtype)
        return x + branch.to(x.dtype)

    def _mixed(self, z: Tensor) -> Tensor:
        """`mix` on every window of [W, T, b]."""
        windows, tokens, inner = z.shape
        z = F.pad(z, (0, 0, 0, -tokens % self.window)).reshape(-1, self.window, inner)
        return self.mix(self, z).reshape(windows, -1, inner)[:, :tokens]

    def _constants(self, arrays: Sequence[npt.NDArray[np.float32]], names: Sequence[str]) -> None:
        for name, array in zip(names, arrays, strict=True):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)


def published_transform(z: Tensor) -> Tensor:
    """The published code: FFT along time, FFT along the width, inverse of both, real part. It returns its input."""
    spectrum = torch.fft.fft(torch.fft.fft(z, dim=1), dim=2)
    return torch.fft.ifft2(spectrum, dim=(1, 2)).real


def _identity(adapter: Adapter, z: Tensor) -> Tensor:
    return published_transform(z)


def _linear(adapter: Adapter, z: Tensor) -> Tensor:
    return z


def _mlp(adapter: Adapter, z: Tensor) -> Tensor:
    return F.gelu(z)


def _fnet(adapter: Adapter, z: Tensor) -> Tensor:
    """Re(F₂D z): half of the information is gone (rank 53 of 104 on a 13 × 8 grid)."""
    return adapter.cos_time @ z @ adapter.cos_width - adapter.sin_time @ z @ adapter.sin_width


def _hartley(adapter: Adapter, z: Tensor) -> Tensor:
    """Re(F₂D z) − Im(F₂D z): orthogonal, and its own inverse."""
    imaginary = -(adapter.cos_time @ z @ adapter.sin_width + adapter.sin_time @ z @ adapter.cos_width)
    return _fnet(adapter, z) - imaginary


def _gate(adapter: Adapter, z: Tensor) -> Tensor:
    """GELU of z filtered along time, every feature by complex factors of its own [K, b]."""
    real, imaginary = (adapter.analysis @ z).chunk(2, dim=1)  # [W, K, b] each
    by_real, by_imaginary = adapter.filter
    filtered = torch.cat([real * by_real - imaginary * by_imaginary, real * by_imaginary + imaginary * by_real], dim=1)
    return F.gelu(adapter.synthesis @ filtered)


_MIXERS = {
    "identity": _identity,
    "linear": _linear,
    "mlp": _mlp,
    "fnet": _fnet,
    "hartley": _hartley,
    "gate": _gate,
}


class LoRALinear(nn.Linear):
    """A frozen linear layer plus a low-rank update (Hu et al. 2021, arXiv:2106.09685); `weight` keeps its name."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = frozen.in_features, frozen.out_features
        self.weight, self.bias = frozen.weight, frozen.bias
        self.lora_down = nn.Parameter(torch.empty(rank, self.in_features))
        self.lora_up = nn.Parameter(torch.zeros(self.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=5**0.5)
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not self.enabled:
            return y
        return y + F.linear(F.linear(x.float(), self.lora_down), self.lora_up).to(y.dtype)


def add_adapters(asr: Qwen3ASR, config: AdapterConfig) -> None:
    """Build adapters into the network and freeze everything else. Raises ConfigError for a site that is not there."""
    sites = parse_sites(config, asr.config)
    asr.requires_grad_(False)
    for site in sites:
        if config.mode == "lora":
            rank = inner_width(config, site, asr.config)
            for name in lora_targets(site, asr.config):
                parent, _, attribute = name.rpartition(".")
                module = asr.get_submodule(parent)
                setattr(module, attribute, LoRALinear(getattr(module, attribute), rank))
        else:
            part = asr.audio_tower if site.part == "encoder" else asr.model
            part.adapters[site.key] = Adapter(config, site, asr.config)
    check_trainable(asr, config)


def check_trainable(asr: Qwen3ASR, config: AdapterConfig) -> None:
    """TrainingError unless exactly the adapter's parameters are trainable, in the shapes of its configuration."""
    expected = parameter_shapes(config, asr.config)
    found = {name: tuple(p.shape) for name, p in asr.named_parameters() if p.requires_grad}
    if found != expected:
        wrong = sorted(found.items() ^ expected.items())
        count = sum(p.numel() for p in asr.parameters() if p.requires_grad)
        raise TrainingError(
            f"{count} parameters are trainable, and they are not the adapter's alone; first {wrong[:3]}. "
            "Freeze the base before training."
        )


@contextmanager
def base_only(asr: nn.Module) -> Iterator[None]:
    """The network as it was before its adapters: they are switched off, and on again at the end."""
    adapters = [module for module in asr.modules() if isinstance(module, Adapter | LoRALinear)]
    for module in adapters:
        module.enabled = False
    try:
        yield
    finally:
        for module in adapters:
            module.enabled = True


def adapter_weights(asr: Qwen3ASR, config: AdapterConfig) -> dict[str, Tensor]:
    """The adapter's parameters by name, as its file stores them."""
    known = dict(asr.named_parameters())
    return {name: known[name] for name in parameter_shapes(config, asr.config)}
