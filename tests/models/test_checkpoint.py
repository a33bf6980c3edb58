"""Weights on their way out of training and back in: official layout, run folder, bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from linnet.bundle import read_bundle
from linnet.errors import CheckpointError, ConfigError
from linnet.export.qwen3_asr_checkpoint import expected_shapes
from linnet.manifest import Utterance, write_manifest
from linnet.models.qwen3_asr.checkpoint import (
    load_pretrained,
    official_config,
    read_shape,
    save_assets,
    save_checkpoint,
)
from linnet.models.qwen3_asr.config import Qwen3ASRTrainConfig
from linnet.models.qwen3_asr.export import export_run
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.models.qwen3_asr.task import Qwen3ASRTask, TrainableQwen3ASR
from linnet.runtime.encoder import Encoder
from linnet.runtime.onnx_decoder import OnnxDecoder
from linnet.runtime.prompt import build_prompt
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig
from linnet.train.run_folder import RunFolder, trainable_weights

AGREEMENT = 2e-4  # the project's bound for float32 sums in another order


def test_parameters_are_the_official_tensors(model: Qwen3ASR, config: Qwen3ASRConfig) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {name: shape for name, shape in expected_shapes(config).items() if name != "lm_head.weight"}


def test_saved_checkpoints_load_bit_for_bit(model: Qwen3ASR, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "checkpoint"
    save_checkpoint(folder, model.state_dict(), model.config, tokenizer, languages=["English", "Chinese"])
    loaded = load_pretrained(folder)
    assert loaded.config == model.config
    assert loaded.tokenizer.to_str() == tokenizer.to_str()
    assert loaded.weights.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert loaded.weights[name].dtype == torch.float32
        assert torch.equal(loaded.weights[name], weight), name
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert all(name.startswith("thinker.") for name in stored.keys())  # noqa: SIM118 (no mapping)
    assert json.loads((folder / "config.json").read_text())["support_languages"] == ["English", "Chinese"]


def test_half_precision_weights_are_saved_as_float32(model: Qwen3ASR, tokenizer: Tokenizer, tmp_path: Path) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path, half, model.config, tokenizer)
    for name, weight in load_pretrained(tmp_path).weights.items():
        assert torch.equal(weight, half[name].float()), name


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_official_configuration_round_trip(config: Qwen3ASRConfig, head_dim: int) -> None:
    shape = replace(config, head_dim=head_dim, rope_theta=5e5, rms_norm_eps=1e-5, chunk_frames=200, window_tokens=100)
    assert shape.chunk_tokens(200) == 25  # four chunks to a window
    written = json.loads(json.dumps(official_config(shape)))
    assert Qwen3ASRConfig.from_checkpoint(written, eos_token_ids=shape.eos_token_ids) == shape
    rope = written["thinker_config"]["text_config"]["rope_scaling"]
    assert sum(rope["mrope_section"]) == head_dim // 2


def test_official_configuration_has_the_official_keys(golden: Path) -> None:
    """Every number that the official file and ours both name is the same for the golden checkpoint."""
    official = json.loads((golden / "qwen3_asr" / "config.json").read_text())
    ours = official_config(Qwen3ASRConfig.from_checkpoint(official), official["support_languages"])
    for part in ("audio_config", "text_config"):
        theirs, written = official["thinker_config"][part], ours["thinker_config"][part]
        assert {key: written[key] for key in written if key != "rope_scaling"} == {
            key: theirs.get(key) for key in written if key != "rope_scaling"
        }
    assert ours["architectures"] == official["architectures"]
    assert ours["support_languages"] == official["support_languages"]


def test_run_folder_keeps_shape_and_tokenizer(config: Qwen3ASRConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    shape = replace(config, eos_token_ids=(3, 5))
    save_assets(tmp_path, tokenizer, shape, languages=["English"])
    assert read_shape(tmp_path) == shape
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str() == tokenizer.to_str()
    with pytest.raises(CheckpointError, match=r"no shape\.json"):
        read_shape(tmp_path / "elsewhere")


@pytest.fixture
def train_config(tmp_path: Path) -> Qwen3ASRTrainConfig:
    utterance = Utterance(audio_path=Path("a.wav"), duration_s=1.0, text="One two three", language="en")
    write_manifest(tmp_path / "train.jsonl", [utterance])
    return Qwen3ASRTrainConfig(run_dir=tmp_path / "run", train_manifests=(tmp_path / "train.jsonl",), seed=11)


def test_training_can_start_from_a_checkpoint(
    model: Qwen3ASR, tokenizer: Tokenizer, train_config: Qwen3ASRTrainConfig, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "start", model.state_dict(), model.config, tokenizer)
    task = Qwen3ASRTask(replace(train_config, init_from=tmp_path / "start"))
    assert task.shape == model.config and task.tokenizer.to_str() == tokenizer.to_str()
    trainable = task.build_model()
    assert isinstance(trainable, TrainableQwen3ASR)
    for name, weight in model.state_dict().items():
        assert torch.equal(trainable.asr.state_dict()[name], weight), name
    fresh = Qwen3ASRTask(train_config).build_model()
    assert isinstance(fresh, TrainableQwen3ASR)
    assert fresh.asr.config != model.config


def test_added_layers_change_nothing_at_first_and_learn(
    model: Qwen3ASR, tokenizer: Tokenizer, train_config: Qwen3ASRTrainConfig, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "start", model.state_dict(), model.config, tokenizer)
    task = Qwen3ASRTask(replace(train_config, init_from=tmp_path / "start", added_decoder_layers=2, drop_path=0.0))
    assert task.shape == replace(model.config, decoder_layers=model.config.decoder_layers + 2)
    trainable = task.build_model()
    assert isinstance(trainable, TrainableQwen3ASR)
    mel, tokens = torch.randn(model.config.n_mels, 70), torch.tensor([[model.config.audio_token_id] * 9 + [1, 2, 3]])
    grown = trainable.asr([mel], tokens)
    # Training lays the convolutions out in another order, which moves the last bits of their sums.
    torch.testing.assert_close(grown, model([mel], tokens), atol=1e-4, rtol=0)
    grown.square().mean().backward()
    for layer in list(trainable.asr.model.layers)[-2:]:
        assert layer.self_attn.o_proj.weight.grad.abs().max() > 0 and layer.mlp.down_proj.weight.grad.abs().max() > 0
    # A checkpoint with a hole is no smaller model: only what was added may be missing.
    weights = {name: weight for name, weight in model.state_dict().items() if "model.layers.0.mlp.up_proj" not in name}
    save_checkpoint(tmp_path / "torn", weights, model.config, tokenizer)
    with pytest.raises(CheckpointError, match="up_proj"):
        Qwen3ASRTask(replace(train_config, init_from=tmp_path / "torn", added_decoder_layers=2)).build_model()


@pytest.mark.parametrize("added", [-1, 2])
def test_layers_are_added_to_a_checkpoint_only(train_config: Qwen3ASRTrainConfig, added: int) -> None:
    with pytest.raises(ConfigError, match="added_decoder_layers"):
        replace(train_config, added_decoder_layers=added)


def test_the_ctc_head_begins_at_zeros_behind_a_checkpoint(
    model: Qwen3ASR, tokenizer: Tokenizer, train_config: Qwen3ASRTrainConfig, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "start", model.state_dict(), model.config, tokenizer)
    trainable = Qwen3ASRTask(replace(train_config, init_from=tmp_path / "start")).build_model()
    assert isinstance(trainable, TrainableQwen3ASR) and not trainable.ctc_head.weight.any()
    fresh = Qwen3ASRTask(train_config).build_model()
    assert isinstance(fresh, TrainableQwen3ASR) and fresh.ctc_head.weight.any()


def test_the_advised_beam_travels_with_checkpoint_and_run(
    model: Qwen3ASR, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shape = replace(model.config, beam_size=4)
    save_checkpoint(tmp_path, model.state_dict(), shape, tokenizer)
    assert json.loads((tmp_path / "generation_config.json").read_text())["num_beams"] == 4
    assert load_pretrained(tmp_path).config == shape
    save_assets(tmp_path / "run", tokenizer, shape, languages=["English"])
    assert read_shape(tmp_path / "run") == shape


def finished(model: Qwen3ASR, tokenizer: Tokenizer, train_config: Qwen3ASRTrainConfig) -> RunFolder:
    """A run folder as `fit` leaves it, without the training."""
    run = RunFolder(train_config.run_dir)
    run.start(train_config, resume=False)
    save_assets(run.path, tokenizer, model.config, languages=["English"])
    weights = trainable_weights(TrainableQwen3ASR(model, label_smoothing=0.0))
    run.save("best", weights, {"step": 7, "epoch": 0, "batch": 0, "best": 0.5})
    run.save("last", {name: torch.zeros_like(weight) for name, weight in weights.items()}, {"step": 9})
    return run


@pytest.fixture
def run(model: Qwen3ASR, tokenizer: Tokenizer, train_config: Qwen3ASRTrainConfig) -> RunFolder:
    return finished(model, tokenizer, train_config)


@pytest.mark.parametrize("chunk_frames", [100, 400])  # the published models' chunks, and one chunk per window
def test_an_exported_run_agrees_with_torch(
    model: Qwen3ASR, tokenizer: Tokenizer, train_config: Qwen3ASRTrainConfig, tmp_path: Path, chunk_frames: int
) -> None:
    window_tokens = 104 if chunk_frames == 100 else 50
    trained = Qwen3ASR(replace(model.config, chunk_frames=chunk_frames, window_tokens=window_tokens)).eval()
    trained.load_state_dict(model.state_dict())
    model, out = trained, tmp_path / "bundle"
    run = finished(model, tokenizer, train_config)
    export_run(run.path, out, encoder="fp32", decoders={"onnx": "fp32"}, provenance={"licence": "CC-BY-4.0"})
    bundle = read_bundle(out)
    assert bundle.name == "run" and bundle.family == "qwen3_asr" and list(bundle.languages) == ["en"]
    assert bundle.provenance["run"]["step"] == 7 and bundle.provenance["run"]["seed"] == 11
    assert bundle.provenance["licence"] == "CC-BY-4.0"
    assert Tokenizer.from_file(str(bundle.file("tokenizer.json"))).to_str() == tokenizer.to_str()

    config = Qwen3ASRConfig(**{**bundle.model, "eos_token_ids": tuple(bundle.model["eos_token_ids"])})
    assert config == model.config
    encoder, decoder = Encoder(out, config, threads=1), OnnxDecoder(out / "decoder.onnx", threads=1)
    mel = torch.randn(128, 930, generator=torch.Generator().manual_seed(1))  # two windows and a tail chunk
    with torch.no_grad():
        (audio,) = model.audio_tower([mel])
        np.testing.assert_allclose(encoder(mel.numpy()), audio, atol=AGREEMENT, rtol=0)

        prompt = torch.tensor([build_prompt(tokenizer, len(audio)).ids])
        embeddings = model.embed(prompt, [audio])
        logits = model.logits(model.model(embeddings))[0, -1]
        prefilled = decoder.prefill([embeddings[0].numpy()])
        np.testing.assert_allclose(prefilled.logits[0], logits, atol=AGREEMENT, rtol=0)
        (expected,) = model.generate([mel], [prompt[0].tolist()], max_new_tokens=6)
    answer = [int(prefilled.logits[0].argmax())]
    while len(answer) < 6:
        answer.append(int(decoder.step(prefilled.slots, [answer[-1]])[0].argmax()))
    assert answer == expected
    decoder.close()
    encoder.close()


def test_the_last_checkpoint_can_be_exported_instead(run: RunFolder, tmp_path: Path) -> None:
    bundle = export_run(run.path, tmp_path / "bundle", checkpoint="last", encoder="fp32", name="zeros")
    assert bundle.name == "zeros" and bundle.provenance["run"]["step"] == 9
    config = Qwen3ASRConfig(**{**bundle.model, "eos_token_ids": tuple(bundle.model["eos_token_ids"])})
    encoder = Encoder(bundle.path, config, threads=1)
    assert not encoder(np.ones((128, 60), np.float32)).any()
    encoder.close()


def test_what_is_no_run_cannot_be_exported(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a run folder: it has no config\.json"):
        export_run(tmp_path / "nowhere", tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="no checkpoint 'worst'"):
        export_run(run.path, tmp_path / "bundle", checkpoint="worst")
    (run.path / "shape.json").unlink()
    with pytest.raises(CheckpointError, match=r"no shape\.json"):
        export_run(run.path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
