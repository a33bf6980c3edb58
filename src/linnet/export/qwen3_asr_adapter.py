"""Adapters of Qwen3-ASR without torch: what one looks like, how many parameters it has, its file, its base.

An adapter is a residual branch behind a layer of a frozen network:  x + up(mix(down(norm(x)))).  All modes get the
parameters of a linear bottleneck of the same `bottleneck`, so that a comparison compares ideas and not sizes.

An adapter file is one safetensors file of a few megabytes: float32 tensors, and in its metadata the configuration and
the fingerprint of the base it was trained on. Loading it on another base is refused.

Shapes: D width of the site, b inner width, N tokens of an attention window, K = N // 2 + 1 frequencies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linnet.errors import CheckpointError, ConfigError
from linnet.export.safetensors import Tensors
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
Mode = Literal["identity", "linear", "mlp", "fnet", "hartley", "gate", "lora"]
MODES: tuple[Mode, ...] = ("identity", "linear", "mlp", "fnet", "hartley", "gate", "lora")
OUTPUT = "encoder.output"
_FORMAT = "linnet-adapter-1"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter does and where it sits."""

    mode: Mode = "gate"
    """identity: the published code, whose chain of transforms returns its input. linear: the bottleneck alone.
    mlp: with GELU (Houlsby et al. 2019), the control of gate. fnet: Re(F₂D) of the published formula (Lee-Thorp et al.
    2021). hartley: Re − Im, which loses nothing. gate: a learned complex filter along time (GFNet, Rao et al. 2021),
    then GELU. lora: low-rank updates of q and v (Hu et al. 2021), or of the projection at encoder.output."""

    bottleneck: int = 64
    """Width of the bottleneck; other modes get as many parameters as `linear` has with it."""

    sites: tuple[str, ...] = (OUTPUT,)
    """Where: encoder.<layer> (behind that layer), encoder.output (what the decoder reads), decoder.<layer> (audio
    positions of the prompt only)."""

    norm: Literal["pre", "post"] = "pre"
    """pre: inside the branch, so that the adapted model starts as the base, bit for bit. post: LayerNorm(x + branch),
    as published."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"Adapter mode {self.mode!r} is unknown; accepted: {', '.join(MODES)}.")
        if self.bottleneck < 2:
            raise ConfigError(f"An adapter's bottleneck must be at least 2, got {self.bottleneck}; usual: 32 to 256.")
        if not self.sites or len(set(self.sites)) != len(self.sites):
            raise ConfigError(f"An adapter needs one or more different sites, got {list(self.sites)}.")
        if self.norm not in ("pre", "post"):
            raise ConfigError(f"Adapter norm {self.norm!r} is unknown; accepted: pre, post.")
        if self.mode == "lora" and any(site.startswith("decoder.") for site in self.sites):
            raise ConfigError(
                "lora changes a layer at every position, but in the decoder an adapter may touch audio alone; "
                "use encoder sites, or another mode."
            )


@dataclass(frozen=True)
class Site:
    """One place in the network: part "encoder" or "decoder", layer (None: the encoder's output) and its width D."""

    part: str
    layer: int | None
    width: int

    @property
    def key(self) -> str:
        """Name of the adapter inside its part."""
        return "output" if self.layer is None else str(self.layer)

    @property
    def prefix(self) -> str:
        """Start of its parameters' names."""
        return f"{'audio_tower' if self.part == 'encoder' else 'model'}.adapters.{self.key}"


def parse_sites(config: AdapterConfig, shape: Qwen3ASRConfig) -> list[Site]:
    """The sites in a network of this shape, from the bottom up; ConfigError if one does not exist."""
    found = []
    for site in config.sites:
        part, _, place = site.partition(".")
        layers = {"encoder": shape.encoder_layers, "decoder": shape.decoder_layers}.get(part, 0)
        if site == OUTPUT:
            found.append(Site("encoder", None, shape.output_dim))
        elif place.isdecimal() and int(place) < layers:
            found.append(Site(part, int(place), shape.d_model if part == "encoder" else shape.hidden_size))
        else:
            raise ConfigError(
                f"There is no adapter site {site!r}; accepted: encoder.0 … encoder.{shape.encoder_layers - 1}, "
                f"{OUTPUT}, decoder.0 … decoder.{shape.decoder_layers - 1}."
            )
    return sorted(found, key=lambda site: (site.part == "decoder", site.layer is None, site.layer or 0))


def inner_width(config: AdapterConfig, site: Site, shape: Qwen3ASRConfig) -> int:
    """b: the bottleneck, or what the same number of parameters buys once a filter or two matrices are paid for."""
    width, budget = site.width, 2 * site.width * config.bottleneck
    if config.mode == "gate":
        return max(1, budget // (2 * width + 2 * frequencies(shape.window_tokens)))
    if config.mode == "lora":
        return max(1, budget // (4 * width if site.layer is not None else shape.d_model + width))
    return config.bottleneck


def parameter_shapes(config: AdapterConfig, shape: Qwen3ASRConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an adapter; all that may be trained."""
    shapes: dict[str, tuple[int, ...]] = {}
    for site in parse_sites(config, shape):
        width, inner = site.width, inner_width(config, site, shape)
        if config.mode == "lora":
            for name, inputs in lora_targets(site, shape).items():
                shapes[f"{name}.lora_down"], shapes[f"{name}.lora_up"] = (inner, inputs), (width, inner)
            continue
        shapes[f"{site.prefix}.norm.weight"] = shapes[f"{site.prefix}.norm.bias"] = (width,)
        shapes[f"{site.prefix}.down.weight"], shapes[f"{site.prefix}.up.weight"] = (inner, width), (width, inner)
        if config.mode == "gate":
            shapes[f"{site.prefix}.filter"] = (2, frequencies(shape.window_tokens), inner)
    return shapes


def lora_targets(site: Site, shape: Qwen3ASRConfig) -> dict[str, int]:
    """The matrices that lora updates at a site, with the width they read."""
    if site.layer is None:
        return {"audio_tower.proj2": shape.d_model}
    return {f"audio_tower.layers.{site.layer}.self_attn.{part}_proj": site.width for part in "qv"}


def count_parameters(config: AdapterConfig, shape: Qwen3ASRConfig) -> int:
    """All parameters of the adapter."""
    return sum(int(np.prod(size)) for size in parameter_shapes(config, shape).values())


def frequencies(tokens: int) -> int:
    """K: the frequencies of a real signal of this length."""
    return tokens // 2 + 1


def fourier(size: int) -> tuple[FloatArray, FloatArray]:
    """Cosine and sine matrices [size, size]: F = cos − i·sin is the orthonormal discrete Fourier transform."""
    # Exact integers first: k·n grows, and only its remainder matters.
    turns = np.outer(np.arange(size), np.arange(size)) % size * (2 * np.pi / size)
    scale = size**-0.5
    return (np.cos(turns) * scale).astype(np.float32), (np.sin(turns) * scale).astype(np.float32)


def real_fourier(size: int) -> tuple[FloatArray, FloatArray]:
    """Analysis [2K, size] (real parts, then imaginary ones) and synthesis [size, 2K] of real signals, orthonormal."""
    count = frequencies(size)
    cosine, sine = fourier(size)
    # A frequency stands for its mirror image too, except the lowest and, at even sizes, the highest.
    weight = np.full(count, 2.0, np.float32)
    weight[0] = 1.0
    if size % 2 == 0:
        weight[-1] = 1.0
    analysis = np.concatenate([cosine[:count], -sine[:count]])
    return analysis, np.ascontiguousarray((analysis * np.tile(weight, 2)[:, None]).T)


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as stored: configuration, fingerprint of its base, tensors under the module's names."""

    config: AdapterConfig
    base: str
    tensors: Mapping[str, FloatArray]


def fingerprint(tensors: Tensors) -> str:
    """SHA-256 over names, shapes and values of all weights but the tied head; the same in either layout and type."""
    digest = hashlib.sha256()
    for name in tensors.names():
        if name == "lm_head.weight":
            continue
        digest.update(f"{name}{list(tensors.shape(name))}".encode())
        for block in _blocks(tensors, name):
            digest.update(block.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def save_adapter(path: Path, adapter: AdapterFile) -> None:
    """Write one safetensors file. Raises CheckpointError if it cannot be written."""
    header: dict[str, Any] = {
        "__metadata__": {
            "format": _FORMAT,
            "base": adapter.base,
            "config": json.dumps(dataclasses.asdict(adapter.config)),
        }
    }
    blobs, offset = [], 0
    for name in sorted(adapter.tensors):
        blob = np.ascontiguousarray(adapter.tensors[name], dtype="<f4").tobytes()
        shape = list(adapter.tensors[name].shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    except OSError as error:
        raise CheckpointError(f"The adapter cannot be written to {path}: {error.strerror or error}.") from error


def read_adapter(path: Path) -> AdapterFile:
    """Read an adapter file. Raises CheckpointError if it is missing, damaged or something else."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"No adapter at {path} ({error.strerror or error}); accepted: a file that `linnet export RUN "
            "ADAPTER.safetensors` wrote."
        ) from None
    try:
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        about = header.pop("__metadata__")
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']!r}")
        described = json.loads(about["config"])
        config = AdapterConfig(**described | {"sites": tuple(described["sites"])})
        data = memoryview(raw)[8 + length :]
        tensors = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if entry["dtype"] != "F32" or end > len(data):
                raise ValueError(f"tensor {name!r} is cut short or of type {entry['dtype']}")
            tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
        return AdapterFile(config, str(about["base"]), tensors)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as problem:
        raise CheckpointError(
            f"{path} is not an adapter of Linnet or is damaged ({problem}); write it again with "
            "`linnet export RUN ADAPTER.safetensors`."
        ) from problem


def check_adapter(adapter: AdapterFile, shape: Qwen3ASRConfig, base: str) -> None:
    """Refuse (CheckpointError) an adapter of another base, or one whose tensors are not what its configuration says."""
    if adapter.base != base:
        raise CheckpointError(
            f"This adapter was trained on the base {adapter.base[:12]}…, this one is {base[:12]}…; it would only do "
            "damage here. Use it with the checkpoint it was trained on, or train one for this base."
        )
    expected = parameter_shapes(adapter.config, shape)
    stored = {name: tensor.shape for name, tensor in adapter.tensors.items()}
    if stored != expected:
        wrong = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
        raise CheckpointError(
            f"The adapter's tensors do not fit its configuration, first {wrong[:3]}; write it again from its run."
        )
    for name, tensor in adapter.tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"The adapter's tensor {name!r} holds NaN or infinity; train it again.")


def _blocks(tensors: Tensors, name: str) -> Iterator[FloatArray]:
    if tensors.shape(name):
        yield from tensors.get_rows(name)
    else:
        yield tensors.get(name)
