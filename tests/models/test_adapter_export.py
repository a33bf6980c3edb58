"""Adapters in ONNX Runtime against the torch module, and adapter files that may not be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from linnet.errors import CheckpointError, ExportError
from linnet.export.qwen3_asr import convert
from linnet.export.qwen3_asr_adapter import (
    MODES,
    AdapterConfig,
    AdapterFile,
    Mode,
    fingerprint,
    read_adapter,
    save_adapter,
)
from linnet.export.safetensors import open_checkpoint
from linnet.export.verb import export
from linnet.models.qwen3_asr.adapters import adapter_weights, add_adapters
from linnet.models.qwen3_asr.checkpoint import save_checkpoint
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.runtime.encoder import Encoder
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

AGREEMENT = 5e-4  # the bound of other implementations of the same float32 sums, for outputs of about 3; 5e-6 is seen
Make = Callable[..., tuple[Qwen3ASR, AdapterFile]]


@pytest.fixture
def base(model: Qwen3ASR, config: Qwen3ASRConfig, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """The tiny model as a checkpoint folder."""
    save_checkpoint(tmp_path / "base", model.state_dict(), config, tokenizer)
    return tmp_path / "base"


@pytest.fixture
def trained(model: Qwen3ASR, base: Path) -> Make:
    """Function (mode, sites) → the model with adapters that are away from zero, and their file."""

    def make(mode: Mode, *sites: str, **options: object) -> tuple[Qwen3ASR, AdapterFile]:
        config = AdapterConfig(mode=mode, bottleneck=6, sites=sites, **options)  # type: ignore[arg-type]
        with open_checkpoint(base) as tensors:
            known = fingerprint(tensors)
        add_adapters(model, config)
        torch.manual_seed(1)
        weights = adapter_weights(model, config)
        for weight in weights.values():
            weight.data += 0.2 * torch.randn_like(weight)
        return model, AdapterFile(config, known, {name: weight.detach().numpy() for name, weight in weights.items()})

    return make


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sites", [("encoder.output",), ("encoder.0", "encoder.1", "encoder.output")], ids=len)
def test_the_exported_encoder_equals_torch(
    trained: Make, base: Path, tmp_path: Path, mode: Mode, sites: tuple[str, ...]
) -> None:
    asr, adapter = trained(mode, *sites)
    bundle = convert(base, tmp_path / "bundle", encoder="fp32", decoders={"onnx": "fp32"}, adapter=adapter)
    rng = np.random.default_rng(0)
    for attention in ("windowed", "full"):
        encoder = Encoder(bundle.path, asr.config, attention=attention, threads=1)
        asr.audio_tower.attention = attention
        for frames in (30, 100, 800, 1690):  # a fraction of a chunk, a chunk, a window, two windows and a rest
            mel = rng.standard_normal((128, frames), np.float32)
            with torch.no_grad():
                (expected,) = asr.audio_tower([torch.from_numpy(mel)])
            np.testing.assert_allclose(encoder(mel), expected.numpy(), atol=AGREEMENT, rtol=1e-4)


def test_the_published_norm_is_exported_too(trained: Make, base: Path, tmp_path: Path) -> None:
    asr, adapter = trained("identity", "encoder.1", norm="post")
    bundle = convert(base, tmp_path / "bundle", encoder="fp32", decoders={"onnx": "fp32"}, adapter=adapter)
    mel = np.random.default_rng(0).standard_normal((128, 230), np.float32)
    with torch.no_grad():
        (expected,) = asr.audio_tower([torch.from_numpy(mel)])
    found = Encoder(bundle.path, asr.config, threads=1)(mel)
    np.testing.assert_allclose(found, expected.numpy(), atol=AGREEMENT, rtol=1e-4)


def test_no_fourier_operator_is_left_in_the_graph(trained: Make, base: Path, tmp_path: Path) -> None:
    import onnx

    _, adapter = trained("gate", "encoder.0")
    bundle = convert(base, tmp_path / "bundle", encoder="int8", decoders={"onnx": "fp32"}, adapter=adapter)
    operators = {node.op_type for node in onnx.load(bundle.path / "encoder.onnx").graph.node}
    assert not operators & {"DFT", "STFT", "Einsum", "Loop", "Scan"}
    ort.InferenceSession(bundle.path / "encoder.onnx")
    assert bundle.provenance["adapter"]["mode"] == "gate" and bundle.provenance["adapter"]["base"] == adapter.base


def test_an_adapter_file_comes_back_as_it_was(trained: Make, tmp_path: Path) -> None:
    _, adapter = trained("gate", "encoder.0", "encoder.output")
    save_adapter(tmp_path / "a.safetensors", adapter)
    again = read_adapter(tmp_path / "a.safetensors")
    assert again.config == adapter.config and again.base == adapter.base
    assert again.tensors.keys() == adapter.tensors.keys()
    assert all(np.array_equal(again.tensors[name], adapter.tensors[name]) for name in adapter.tensors)
    independent = load_file(tmp_path / "a.safetensors")  # the format's own reader
    assert all(np.array_equal(independent[name], adapter.tensors[name]) for name in adapter.tensors)


def test_the_fingerprint_depends_on_every_weight_and_not_on_the_layout(
    base: Path, model: Qwen3ASR, config: Qwen3ASRConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def of(folder: Path) -> str:
        with open_checkpoint(folder) as tensors:
            return fingerprint(tensors)

    known = of(base)
    stored = load_file(base / "model.safetensors")
    save_file(
        stored | {"thinker.lm_head.weight": stored["thinker.model.embed_tokens.weight"]}, base / "model.safetensors"
    )
    assert of(base) == known
    model.model.norm.weight.data[3] += 1e-6
    save_checkpoint(tmp_path / "other", model.state_dict(), config, tokenizer)
    assert of(tmp_path / "other") != known


def test_an_adapter_of_another_base_is_refused(trained: Make, base: Path, tmp_path: Path) -> None:
    _, adapter = trained("linear", "encoder.0")
    save_adapter(tmp_path / "a.safetensors", replace(adapter, base="0" * 64))
    with pytest.raises(CheckpointError, match="trained on the base 000000000000…, this one is"):
        export(base, tmp_path / "bundle", adapter=tmp_path / "a.safetensors")
    assert not (tmp_path / "bundle").exists()


def test_adapters_in_the_decoder_are_not_exported(trained: Make, base: Path, tmp_path: Path) -> None:
    _, adapter = trained("linear", "decoder.1")
    with pytest.raises(ExportError, match="cannot be exported yet"):
        convert(base, tmp_path / "bundle", adapter=adapter)


def test_bad_adapter_files_are_named(trained: Make, base: Path, tmp_path: Path) -> None:
    _, adapter = trained("linear", "encoder.0")
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_adapter(good, adapter)
    with pytest.raises(CheckpointError, match="No adapter at"):
        read_adapter(bad)
    for content in (b"", b"nonsense that is longer than a header", good.read_bytes()[:-8]):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not an adapter of Linnet or is damaged"):
            read_adapter(bad)
    with pytest.raises(CheckpointError, match="is not an adapter of Linnet or is damaged"):
        read_adapter(base / "model.safetensors")
    short = {name: tensor for name, tensor in adapter.tensors.items() if not name.endswith("up.weight")}
    save_adapter(bad, replace(adapter, tensors=short))
    with pytest.raises(CheckpointError, match=r"do not fit its configuration.*up\.weight"):
        export(base, tmp_path / "bundle", adapter=bad)
    name = "audio_tower.adapters.0.up.weight"
    save_adapter(bad, replace(adapter, tensors={**adapter.tensors, name: adapter.tensors[name] * np.nan}))
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        export(base, tmp_path / "bundle", adapter=bad)
