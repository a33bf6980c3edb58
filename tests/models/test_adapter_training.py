"""Adapters in the real training loop: they learn, nothing else moves, and what they learned is exported and planned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer

from linnet import cli
from linnet.errors import CheckpointError, ConfigError
from linnet.export.qwen3_asr_adapter import AdapterConfig, Mode, count_parameters, read_adapter
from linnet.manifest import Utterance, read_manifest, write_manifest
from linnet.models.presets import ADAPTER
from linnet.models.qwen3_asr.adapter_config import AdapterTrainConfig, Bits
from linnet.models.qwen3_asr.adapter_task import AdapterTask, TrainableAdapter
from linnet.models.qwen3_asr.adapters import add_adapters
from linnet.models.qwen3_asr.checkpoint import as_checkpoint, load_frozen, save_checkpoint
from linnet.models.qwen3_asr.export import export_adapter, export_run, read_run_adapter
from linnet.models.qwen3_asr.frozen import FrozenLinear
from linnet.models.qwen3_asr.memory import longest_clip_s, make_plan
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.runtime.encoder import Encoder
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig
from linnet.train.run_folder import RunFolder
from linnet.train.trainer import fit


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process; every test starts its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def base(model: Qwen3ASR, config: Qwen3ASRConfig, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "base", model.state_dict(), config, tokenizer)
    return tmp_path / "base"


@pytest.fixture
def digits(shared: Path, tmp_path: Path) -> Path:
    """Twelve real spoken digits."""
    found = [u for u in read_manifest(shared / "data" / "train.jsonl") if u.corpus == "fsdd"][:360:30]
    write_manifest(tmp_path / "digits.jsonl", found)
    return tmp_path / "digits.jsonl"


@pytest.fixture
def training(base: Path, digits: Path, tmp_path: Path) -> AdapterTrainConfig:
    return replace(
        ADAPTER,
        base=base,
        train_manifests=(digits,),
        dev_manifests=(digits,),
        run_dir=tmp_path / "runs" / "adapter",
        adapter=AdapterConfig(mode="mlp", bottleneck=8, sites=("encoder.0", "encoder.output")),
        backbone="fp32",
        text="spoken",
        snr_db=(-5.0, 5.0),
        noise_probability=1.0,
        batch_audio_s=4.0,
        learning_rate=1e-2,
        steps=30,
        warmup_steps=1,
        log_every=5,
        validate_every=30,
        save_every=30,
    )


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("loss", "cached"), [("feature", 0), ("ce", 2), ("both", 0)])
def test_an_adapter_learns_and_the_base_stays(training: AdapterTrainConfig, loss: Any, cached: int) -> None:
    run = fit(replace(training, loss=loss, cached_variants=cached), quiet=True)
    dev = next(line for line in metrics(run) if "dev_loss" in line)
    # The frozen decoder is random: what it says changes little, but on the clips trained on it must change to the good.
    assert dev["dev_loss"] < (0.97 if loss == "feature" else 0.99) * dev["dev_base"]
    weights, _ = run.load("best")
    assert sum(weight.numel() for weight in weights.values()) == count_parameters(
        training.adapter, AdapterTask(training).shape
    )
    assert all(".adapters." in name and weight.isfinite().all() for name, weight in weights.items())


def test_cached_layers_give_the_same_training(training: AdapterTrainConfig) -> None:
    """From disk or computed anew, the first epochs hold the same noise, so the same updates."""
    fresh = fit(replace(training, steps=3), quiet=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    cached = fit(
        replace(training, steps=3, cached_variants=3, run_dir=training.run_dir.with_name("cached")), quiet=True
    )
    (first, _), (second, _) = fresh.load("last"), cached.load("last")
    for name in first:  # other batch shapes below the adapter: the last bits of float32
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-3)
    assert list((training.run_dir.parent / "cache").glob("hidden-*.json"))


def test_a_bf16_backbone_trains_float32_adapters(training: AdapterTrainConfig) -> None:
    run = fit(replace(training, backbone="bf16", loss="both"), quiet=True)
    dev = next(line for line in metrics(run) if "dev_loss" in line)
    assert dev["dev_loss"] < 0.99 * dev["dev_base"]
    assert {weight.dtype for weight in run.load("last")[0].values()} == {torch.float32}


@pytest.mark.parametrize("backbone", ["int8", "int4"])
def test_a_fresh_adapter_on_quantised_weights_changes_no_bit(training: AdapterTrainConfig, backbone: Any) -> None:
    task = AdapterTask(replace(training, backbone=backbone))
    mels = [torch.randn(128, 130).bfloat16()]
    with torch.no_grad():
        before = task.asr.audio_tower(mels)[0]
        task.build_model()
        assert torch.equal(task.asr.audio_tower(mels)[0], before)


@pytest.mark.parametrize("backbone", ["int8", "int4"])
def test_the_plan_counts_quantised_weights(training: AdapterTrainConfig, backbone: Any) -> None:
    config = replace(training, backbone=backbone, loss="ce")
    asr = AdapterTask(config).asr
    tensors = [*asr.parameters(), *(b for name, b in asr.named_buffers() if name.endswith(("rows", "scales")))]
    assert make_plan(config, asr.config, 5.0).weights == sum(t.numel() * t.element_size() for t in tensors)


def test_int8_weights_refuse_low_rank_updates(training: AdapterTrainConfig) -> None:
    with pytest.raises(ConfigError, match="int8"):
        replace(training, backbone="int8", adapter=AdapterConfig(mode="lora", sites=("encoder.0",)))


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_weights_are_the_checkpoint_within_half_a_step(base: Path, model: Qwen3ASR, bits: Bits) -> None:
    frozen = load_frozen(base, dtype=torch.bfloat16, bits=bits)
    exact = dict(model.named_parameters())
    layers = {name: layer for name, layer in frozen.named_modules() if isinstance(layer, FrozenLinear)}
    assert len(layers) == sum(".layers." in name and weight.ndim == 2 for name, weight in exact.items())
    for name, layer in layers.items():
        error = (layer.dequantised(torch.float32) - exact[f"{name}.weight"]).abs()
        steps = layer.scales.float().repeat_interleave(error.shape[1] // layer.scales.shape[1], dim=1)
        assert (error <= steps * 0.515).all()  # and the rounding of the scales (test_frozen.py)


def test_bf16_weights_are_the_checkpoint_rounded(base: Path, model: Qwen3ASR) -> None:
    frozen = load_frozen(base, dtype=torch.bfloat16)
    exact = dict(model.named_parameters())
    assert {name for name, _ in frozen.named_parameters()} == set(exact)
    for name, weight in frozen.named_parameters():
        assert torch.equal(weight, exact[name].to(torch.bfloat16)) and not weight.requires_grad
    assert torch.equal(frozen.audio_tower.positions, model.audio_tower.positions)
    encoder = load_frozen(base, dtype=torch.float32, decoder=False)
    assert {name.split(".")[0] for name, _ in encoder.named_parameters()} == {"audio_tower"}


@pytest.mark.parametrize("mode", ["gate", "lora"])
def test_what_was_trained_is_exported(training: AdapterTrainConfig, tmp_path: Path, mode: Mode) -> None:
    config = replace(training, adapter=replace(training.adapter, mode=mode), steps=5)
    run = fit(config, quiet=True)
    export_adapter(run.path, tmp_path / "adapter.safetensors")
    adapter = read_adapter(tmp_path / "adapter.safetensors")
    assert adapter.config == config.adapter
    direct = export_run(run.path, tmp_path / "direct", encoder="fp32", decoders={"onnx": "fp32"})
    command = ["export", str(training.base), str(tmp_path / "bundle"), "--encoder", "fp32", "--decoder", "fp32"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--adapter", str(tmp_path / "adapter.safetensors")])
    assert ended.value.code == 0

    assert training.base is not None
    asr = load_frozen(training.base, dtype=torch.float32)
    add_adapters(asr, adapter.config)
    asr.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in adapter.tensors.items()}, strict=False)
    mel = np.random.default_rng(0).standard_normal((128, 230), np.float32)
    with torch.no_grad():
        (expected,) = asr.audio_tower([torch.from_numpy(mel)])
    for folder in (direct.path, tmp_path / "bundle"):
        found = Encoder(folder, asr.config, threads=1)(mel)
        np.testing.assert_allclose(found, expected.numpy(), atol=5e-4, rtol=1e-4)


def test_an_exported_adapter_knows_that_its_base_changed(
    training: AdapterTrainConfig, model: Qwen3ASR, config: Qwen3ASRConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    run = fit(replace(training, steps=1, dev_manifests=()), quiet=True)
    model.model.norm.weight.data += 1.0
    assert training.base is not None
    save_checkpoint(training.base, model.state_dict(), config, tokenizer)
    with pytest.raises(CheckpointError, match="trained on the base"):
        export_run(run.path, tmp_path / "bundle", checkpoint="last")


def test_an_adapter_is_no_base(training: AdapterTrainConfig) -> None:
    run = fit(replace(training, steps=1), quiet=True)
    with pytest.raises(CheckpointError, match="holds an adapter and no whole model"):
        AdapterTask(replace(training, base=run.path))
    with pytest.raises(CheckpointError, match="trained no adapter"):
        read_run_adapter(RunFolder(run.path.parent), "best")


@pytest.mark.parametrize("backbone", ["fp32", "int8", "int4"])
def test_resuming_an_adapter_is_bit_identical(training: AdapterTrainConfig, backbone: Any) -> None:
    config = replace(training, backbone=backbone, save_every=4, validate_every=8)
    whole = fit(replace(config, steps=8), quiet=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    stopped = replace(config, run_dir=config.run_dir.with_name("stopped"), steps=8)
    step = AdapterTask.step

    def interrupted(self: AdapterTask, model: torch.nn.Module, batch: Any, number: int) -> Any:
        if number == 6:
            raise KeyboardInterrupt
        return step(self, model, batch, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AdapterTask, "step", interrupted)
        fit(stopped, quiet=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    again = fit(stopped, resume=True, quiet=True)
    first, second = whole.load("last")[0], again.load("last")[0]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_folder_can_be_the_base(training: AdapterTrainConfig, model: Qwen3ASR, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "whole")
    task = AdapterTask(training)
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "config.json").write_text("{}")
    task.save_assets(run.path)
    run.save("best", {f"asr.{name}": weight for name, weight in model.named_parameters()}, {"step": 1})
    with as_checkpoint(run.path) as folder:
        assert (folder / "model.safetensors").is_file()
    assert AdapterTask(replace(training, base=run.path)).fingerprint == task.fingerprint
    assert not folder.exists()


def test_without_transcripts_only_the_feature_loss_trains(training: AdapterTrainConfig, tmp_path: Path) -> None:
    unlabelled = [replace(utterance, text=None) for utterance in read_manifest(training.train_manifests[0])]
    write_manifest(tmp_path / "unlabelled.jsonl", unlabelled)
    config = replace(training, train_manifests=(tmp_path / "unlabelled.jsonl",), dev_manifests=())
    assert len(AdapterTask(config).train) == 12
    assert not AdapterTask(replace(config, loss="ce")).train


def test_recorded_noises_are_laid_under_the_clips(training: AdapterTrainConfig, shared: Path) -> None:
    noises = (shared / "data" / "noise.train.jsonl",)
    batch = next(AdapterTask(replace(training, noise_manifests=noises)).build_loader("train").epoch(0))
    other = next(AdapterTask(training).build_loader("train").epoch(0))
    assert torch.equal(batch.clean, other.clean) and not torch.equal(batch.noisy, other.noisy)
    model = AdapterTask(training).build_model()
    assert isinstance(model, TrainableAdapter) and float(model(other).feature.detach()) > 0.01


# --- the plan ------------------------------------------------------------------------------------------------------


def test_the_plan_counts_what_is_there(training: AdapterTrainConfig, base: Path) -> None:
    task = AdapterTask(training)
    model = task.build_model()
    plan = make_plan(training, task.shape, 5.0)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert plan.weights == sum(p.numel() * p.element_size() for p in frozen)
    assert plan.adapter == plan.gradients == plan.optimizer / 2 == 4 * sum(p.numel() for p in trained)
    whole = make_plan(replace(training, loss="ce"), task.shape, 5.0)
    assert whole.weights > plan.weights and whole.activations > plan.activations
    assert make_plan(replace(training, backbone="bf16"), task.shape, 5.0).weights == plan.weights / 2


def test_the_longest_clip_is_the_longest_that_fits(training: AdapterTrainConfig, base: Path) -> None:
    shape = AdapterTask(training).shape
    limit = make_plan(training, shape, 40.0).total
    assert longest_clip_s(training, shape, limit) == pytest.approx(40.0, abs=1.0)
    assert longest_clip_s(training, shape, 1e6) == 0.0
    lengths = [make_plan(training, shape, s).total for s in (5.0, 10.0, 60.0)]
    assert lengths == sorted(lengths)


def test_what_does_not_fit_is_refused(training: AdapterTrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"more than the 0\.1 GB of --memory-gb; use --loss feature"):
        replace(training, memory_gb=0.1).build_task()
    with pytest.raises(ConfigError, match="set --batch-audio-s and --max-duration-s to"):
        replace(training, memory_gb=0.5, batch_audio_s=30_000.0).build_task()
    assert replace(training, memory_gb=2.0).build_task()


def test_the_command_prints_the_plan_and_trains_nothing(
    training: AdapterTrainConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["train", "qwen3-asr-adapter", "--base", str(training.base), "--run-dir", str(tmp_path / "none")]
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--adapter.mode", "fnet", "--plan"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and not (tmp_path / "none").exists()
    assert "fnet adapter at encoder.output" in shown and "in 4 GB: batches and clips of up to" in shown
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "nano", "--plan"])
    assert ended.value.code == 1 and "no memory plan for qwen3_asr" in capsys.readouterr().err


# --- bad input -----------------------------------------------------------------------------------------------------


def test_bad_configurations_are_named(training: AdapterTrainConfig) -> None:
    with pytest.raises(ConfigError, match="No base"):
        AdapterTask(replace(training, base=None))
    with pytest.raises(ConfigError, match="No training data"):
        AdapterTask(replace(training, train_manifests=()))
    with pytest.raises(ConfigError, match=r"decoder\.1 does not reach; use --loss ce"):
        replace(training, adapter=AdapterConfig(mode="mlp", sites=("decoder.1",)))
    with pytest.raises(ConfigError, match="cached_variants must be 0"):
        replace(training, cached_variants=-1)
    with pytest.raises(ConfigError, match=r"noise_probability must lie in 0…1, got 2\."):
        replace(training, noise_probability=2.0)
    with pytest.raises(CheckpointError, match=r"No config\.json"):
        AdapterTask(replace(training, base=Path("nowhere")))


def test_an_unreadable_clip_costs_only_itself(training: AdapterTrainConfig, tmp_path: Path) -> None:
    utterances = read_manifest(training.train_manifests[0])
    (tmp_path / "broken.flac").write_bytes(b"no audio")
    broken = Utterance(audio_path=tmp_path / "broken.flac", duration_s=1.0, text="one", language="en")
    write_manifest(tmp_path / "some.jsonl", [*utterances, broken])
    task = AdapterTask(replace(training, train_manifests=(tmp_path / "some.jsonl",)))
    assert sum(len(batch.frames) for batch in task.build_loader("train").epoch(0)) == 12
