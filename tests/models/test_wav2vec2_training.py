"""wav2vec 2.0 in the real training loop: it pretrains, resumes bit for bit, notices collapse, learns to spell."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from linnet.audio import write_audio
from linnet.cli import main
from linnet.errors import CheckpointError, ConfigError, ExportError, ManifestError, TrainingError
from linnet.manifest import Utterance, read_manifest, write_manifest
from linnet.models.presets import PRESETS, WAV2VEC2_TINY, WAV2VEC2_TINY_CTC, WAV2VEC2_TINY_SHAPE
from linnet.models.wav2vec2.config import (
    CollapseLimits,
    Regularisation,
    Wav2Vec2CtcConfig,
    Wav2Vec2PretrainConfig,
)
from linnet.models.wav2vec2.data import Batch
from linnet.models.wav2vec2.export import export_run
from linnet.models.wav2vec2.model import Wav2Vec2ForCTC
from linnet.models.wav2vec2.pretraining import Wav2Vec2ForPreTraining
from linnet.models.wav2vec2.pretraining_task import Wav2Vec2PretrainingTask
from linnet.models.wav2vec2.task import Wav2Vec2CtcTask
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.train.run_folder import RunFolder
from linnet.train.task import StepOutput
from linnet.train.trainer import fit

SMALL = replace(
    WAV2VEC2_TINY_SHAPE,
    conv_dim=(8, 8, 12, 12, 16, 16, 16),
    conv_kernel=Wav2Vec2Config.conv_kernel,
    conv_stride=Wav2Vec2Config.conv_stride,
    hidden_size=32,
    layers=2,
    heads=2,
    ffn_dim=48,
    position_kernel=8,
    position_groups=4,
    codebook_size=8,
    code_dim=16,
    projection_dim=16,
)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process; every test starts its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def record(folder: Path, texts: list[str | None], *, seconds: float = 0.5) -> Path:
    """A manifest of clips: a tone per letter, in a little noise."""
    rng, rate_hz, utterances = np.random.default_rng(0), 16_000, []
    for index, text in enumerate(texts):
        time = np.arange(int(seconds * rate_hz)) / rate_hz
        samples = sum(np.sin(2 * np.pi * 200 * (3 + ord(letter) % 7) * time) for letter in (text or "x"))
        samples = 0.1 * samples + 0.01 * rng.standard_normal(len(time))
        write_audio(folder / f"{index}.wav", samples.astype(np.float32), rate_hz)
        utterances.append(
            Utterance(
                audio_path=folder / f"{index}.wav", duration_s=seconds, text=text, language="en", id=f"clip{index}"
            )
        )
    write_manifest(folder / "clips.jsonl", utterances)
    return folder / "clips.jsonl"


@pytest.fixture
def pretraining(tmp_path: Path) -> Wav2Vec2PretrainConfig:
    """Everything random is on."""
    manifest = record(tmp_path, ["ab", "ba", "aa", "b", "abc", "cab"], seconds=1.2)
    return replace(
        WAV2VEC2_TINY,
        shape=SMALL,
        run_dir=tmp_path / "whole",
        train_manifests=(manifest,),
        dev_manifests=(manifest,),
        dev_utterances=3,
        steps=7,
        warmup_steps=2,
        negatives=5,
        crop_s=1.1,
        batch_audio_s=3.0,
        accumulation_steps=2,
        regularisation=Regularisation(dropout=0.1, target_dropout=0.1, layer_drop=0.3),
        log_every=2,
        validate_every=3,
        save_every=4,
    )


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in {"step_s", "dev_s"}} for line in lines]


def interrupt(monkeypatch: pytest.MonkeyPatch, task: type, at: int) -> None:
    step = task.step

    def interrupted(self: Any, model: nn.Module, batch: Batch, number: int) -> StepOutput:
        if number == at:
            raise KeyboardInterrupt
        return step(self, model, batch, number)

    monkeypatch.setattr(task, "step", interrupted)


def assert_resumes(config: Any, task: type, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    whole = fit(config, quiet=True)
    stopped = replace(config, run_dir=config.run_dir.with_name("stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, task, at=5)
        fit(stopped, quiet=True)
    resumed = fit(stopped, resume=True, quiet=True)
    (expected, _), (found, _) = whole.load("last"), resumed.load("last")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole.path) == metrics(resumed.path)
    return whole


def test_resuming_pretraining_is_bit_identical(
    pretraining: Wav2Vec2PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = assert_resumes(pretraining, Wav2Vec2PretrainingTask, monkeypatch)
    logged = next(line for line in metrics(run.path) if "contrastive" in line)
    assert {"perplexity_0", "perplexity_1", "accuracy", "negative_cosine", "temperature", "grad_norm"} <= logged.keys()


def test_pretraining_beats_guessing(pretraining: Wav2Vec2PretrainConfig) -> None:
    # Tones that differ from clip to clip and inside them not at all would be guessing; noise floors differ per frame.
    config = replace(pretraining, steps=40, warmup_steps=4, accumulation_steps=1, validate_every=40, save_every=40,
                     regularisation=Regularisation(), log_every=5)  # fmt: skip
    lines = [line for line in metrics(fit(config, quiet=True).path) if "contrastive" in line]
    assert lines[-1]["contrastive"] < lines[0]["contrastive"]


def test_a_forced_collapse_stops_the_run_and_leaves_the_last_good_checkpoint(
    pretraining: Wav2Vec2PretrainConfig,
) -> None:
    # A negative weight rewards what the diversity loss punishes: using few entries.
    config = replace(
        pretraining,
        steps=400,
        warmup_steps=1,
        learning_rate=2e-2,
        schedule="constant",
        diversity_weight=-30.0,
        penalty_weight=0.0,
        accumulation_steps=1,
        regularisation=Regularisation(),
        temperature=(0.5, 0.5, 1.0),
        validate_every=400,
        save_every=1,
        collapse=CollapseLimits(patience=5, grace_steps=2),
    )
    with pytest.raises(TrainingError, match=r"collapsed at update \d+: .*perplexity.*checkpoints/last") as stopped:
        fit(config, quiet=True)
    at = int(str(stopped.value).split("update ")[1].split(":")[0])
    _, state = RunFolder(config.run_dir).load("last")
    assert state["step"] <= at - config.collapse.patience  # not overwritten by what the symptoms came with


def test_the_gradient_is_normalised_by_masked_frames_over_micro_batches(
    pretraining: Wav2Vec2PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches of different sizes give the gradient of one batch that holds both."""
    task = pretraining.build_task()
    assert isinstance(task, Wav2Vec2PretrainingTask)
    torch.manual_seed(0)
    model = task.build_model()
    assert isinstance(model, Wav2Vec2ForPreTraining)
    model.eval()
    waves = [torch.randn(17_000), torch.randn(9_000)]
    masks = [torch.zeros(1, SMALL.frames(len(wave)), dtype=torch.bool) for wave in waves]
    masks[0][0, 3:33], masks[1][0, 5:12] = True, True
    grads, total = [], 0.0
    for wave, mask in zip(waves, masks, strict=True):
        model.zero_grad()
        losses = model(
            wave[None],
            torch.tensor([len(wave)]),
            mask,
            negatives=torch.ones(1, 1, 1, dtype=torch.long).expand(1, int(mask.sum()), 1),
        )
        (losses.contrastive * losses.masked).backward()
        grads.append(model.project_hid.weight.grad.clone())
        total += float(losses.masked)
    model.zero_grad()
    samples = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    mask = torch.zeros(2, SMALL.frames(17_000), dtype=torch.bool)
    mask[0, 3:33], mask[1, 5:12] = True, True
    both = model(samples, torch.tensor([17_000, 9_000]), mask, negatives=torch.ones(2, 30, 1, dtype=torch.long))
    both.contrastive.backward()
    torch.testing.assert_close(model.project_hid.weight.grad, sum(grads) / total, atol=1e-6, rtol=1e-4)


def test_losses_stay_float32_under_mixed_precision(pretraining: Wav2Vec2PretrainConfig) -> None:
    """Quantiser, cosines and cross-entropy are islands: with the same codes, bfloat16 elsewhere changes little."""
    model = replace(pretraining, regularisation=Regularisation()).build_task().build_model().eval()
    torch.manual_seed(0)
    samples, mask = torch.randn(2, 16_000), torch.zeros(2, SMALL.frames(16_000), dtype=torch.bool)
    mask[:, 5:30] = True
    negatives = torch.randint(0, 25, (2, 25, 5))
    exact = model(samples, None, mask, negatives=negatives)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(samples, None, mask, negatives=negatives)
    for name in ("loss", "contrastive", "diversity", "perplexity", "penalty"):
        assert getattr(mixed, name).dtype == torch.float32
    torch.testing.assert_close(mixed.contrastive, exact.contrastive, atol=0.3, rtol=0.0)


def test_temperature_falls_to_its_end(pretraining: Wav2Vec2PretrainConfig) -> None:
    task = pretraining.build_task()
    assert isinstance(task, Wav2Vec2PretrainingTask)
    assert task.temperature(0) == 2.0
    assert task.temperature(10) == pytest.approx(2.0 * 0.998**10)
    assert task.temperature(10**6) == 0.5


# ── fine-tuning ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ctc(tmp_path: Path) -> Wav2Vec2CtcConfig:
    manifest = record(tmp_path, ["ab", "ba", "aa", "b", "abc", "cab"])
    return replace(
        WAV2VEC2_TINY_CTC,
        shape=SMALL,
        run_dir=tmp_path / "whole",
        train_manifests=(manifest,),
        dev_manifests=(manifest,),
        steps=7,
        warmup_steps=2,
        batch_audio_s=2.0,
        regularisation=Regularisation(dropout=0.1, layer_drop=0.2, mask_time=0.3, mask_time_length=4),
        log_every=2,
        validate_every=3,
        save_every=4,
    )


def test_resuming_fine_tuning_is_bit_identical(
    ctc: Wav2Vec2CtcConfig, pretraining: Wav2Vec2PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fit(replace(pretraining, run_dir=pretraining.run_dir.with_name("source"), steps=2), quiet=True).path
    config = replace(ctc, init_from=source, freeze_steps=1, unfreeze_every=2, layer_lr_decay=0.8, head_lr_ratio=3.0)
    run = assert_resumes(config, Wav2Vec2CtcTask, monkeypatch)
    assert not any("feature_extractor" in name for name in run.load("last")[0])  # frozen: kept beside, not in it
    pretrained, found = RunFolder(source).load("last")[0], run.load("last")[0]
    name = "wav2vec2.encoder.layers.0.attention.q_proj.weight"  # unfrozen from update 1 + 2 on
    assert not torch.equal(pretrained[name], found[name])


def test_layers_thaw_from_the_top_and_learn_at_their_own_rates(ctc: Wav2Vec2CtcConfig) -> None:
    config = replace(ctc, freeze_steps=10, unfreeze_every=5)
    assert [config.frozen_layers(step, 4) for step in (0, 9, 10, 14, 15, 20, 24, 25, 99)] == [4, 4, 3, 3, 2, 1, 1, 0, 0]
    assert replace(ctc, freeze_steps=10).frozen_layers(10, 4) == 0
    task = replace(ctc, layer_lr_decay=0.5, head_lr_ratio=4.0).build_task()
    assert isinstance(task, Wav2Vec2CtcTask)
    names = ("lm_head.bias", "wav2vec2.encoder.layer_norm.weight", "wav2vec2.encoder.layers.1.layer_norm.bias",
             "wav2vec2.encoder.layers.0.layer_norm.bias", "wav2vec2.feature_projection.projection.weight")  # fmt: skip
    assert [task.lr_ratio(name) for name in names] == [4.0, 1.0, 0.5, 0.25, 0.125]


def test_frozen_layers_get_no_gradient_and_the_others_the_same(ctc: Wav2Vec2CtcConfig) -> None:
    task = replace(ctc, regularisation=Regularisation()).build_task()
    torch.manual_seed(0)
    model = task.build_model()
    assert isinstance(model, Wav2Vec2ForCTC)
    samples = torch.randn(2, 8000)
    model(samples)[0].square().sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(samples, frozen_layers=1)[0].square().sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name in whole if "encoder.layers.1." in name or "lm_head" in name} <= learned
    below = ("encoder.layers.0.", "feature_extractor", "feature_projection", "pos_conv_embed")
    assert not any(part in name for name in learned for part in below)
    assert all(torch.equal(whole[name], dict(model.named_parameters())[name].grad) for name in learned)


def test_checkpointing_layers_changes_memory_and_not_the_gradient(ctc: Wav2Vec2CtcConfig) -> None:
    grads = []
    for checkpointing in (False, True):
        task = replace(ctc, regularisation=Regularisation(), gradient_checkpointing=checkpointing).build_task()
        torch.manual_seed(0)
        model = task.build_model().train()
        model(torch.ones(1, 8000).cumsum(1) % 7)[0].square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.fixture(scope="module")
def learned(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Six different digits of one real speaker, learned by heart from random weights."""
    folder = tmp_path_factory.mktemp("learned")
    words: dict[str | None, Utterance] = {}
    for utterance in read_manifest(shared / "data" / "train.jsonl"):
        if utterance.corpus == "fsdd" and utterance.speaker == "george":
            words.setdefault(utterance.text, utterance)
    write_manifest(folder / "digits.jsonl", list(words.values())[:6])
    AcceleratorState._reset_state(reset_partial_state=True)
    config = replace(
        WAV2VEC2_TINY_CTC,
        shape=replace(SMALL, conv_dim=(16, 16, 24, 24, 32, 32, 32), hidden_size=64, ffn_dim=128),
        run_dir=folder / "run",
        train_manifests=(folder / "digits.jsonl",),
        dev_manifests=(folder / "digits.jsonl",),
        steps=220,
        warmup_steps=10,
        learning_rate=4e-3,
        regularisation=Regularisation(),
        validate_every=220,
        save_every=220,
        log_every=20,
    )
    return fit(config, quiet=True)


def test_real_words_are_learned(learned: RunFolder) -> None:
    lines = metrics(learned.path)
    assert [line["dev_wer"] for line in lines if "dev_wer" in line] == [0.0]
    losses = [line["ctc"] for line in lines if "ctc" in line]
    assert losses[-1] < 0.1 < 2 < losses[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_was_learned_transcribes_from_the_command_line(
    learned: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    for command in (
        ["export", str(learned.path), str(tmp_path / "bundle"), "--encoder", precision],
        ["evaluate", str(tmp_path / "bundle"), str(learned.path.parent / "digits.jsonl"), "--quiet",
         "--json", str(tmp_path / "report.json"), "--predictions", str(tmp_path / "said.jsonl")],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0, capsys.readouterr().err
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [line["hypothesis"] for line in said] == [line["reference"] for line in said]
    one = read_manifest(learned.path.parent / "digits.jsonl")[2]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["transcribe", str(one.audio_path), "--model", str(tmp_path / "bundle"), "--json", "--quiet"])
    answer = json.loads(capsys.readouterr().out)
    word = answer["segments"][0]["words"][0]
    assert answer["text"] == word["text"] == one.text and answer["language"] == "en"
    assert 0 <= word["start_s"] < word["end_s"] <= answer["duration_s"] + 0.01
    assert 0.5 < word["confidence"] <= 1


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_preflight_names_what_cannot_be_learned_from_and_keeps_the_rest(
    ctc: Wav2Vec2CtcConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = record(tmp_path, ["ab", "ba", "abc", "", "b" * 30, "aç", "ab", "ab"])
    write_audio(tmp_path / "6.wav", np.full(8000, 0.25, np.float32), 16_000)  # zero variance
    write_audio(tmp_path / "7.wav", np.ones(300, np.float32) * np.linspace(-1, 1, 300, dtype=np.float32), 16_000)
    config = replace(ctc, train_manifests=(manifest,), min_character_count=2, max_left_out=0.8)
    task = config.build_task()
    task.build_model()
    with caplog.at_level("WARNING", logger="linnet"):
        loader = task.build_loader("train")
    task.save_assets(tmp_path)
    found = json.loads((tmp_path / "preflight.json").read_text())["left_out"]
    assert found == {
        "with an empty transcript": ["clip3"],
        "with more labels than frames": ["clip4"],
        "with characters outside the vocabulary": ["clip2", "clip5"],
        "silent": ["clip6"],
        "shorter than 400 samples": ["clip7"],
    }
    assert "1 with more labels than frames (clip4)" in caplog.text
    assert sum(len(batch.lengths) for batch in loader.epoch(0)) == 2
    with pytest.raises(TrainingError, match=r"Only 2 of 8 utterances can be used: .*empty transcript \(clip3\)"):
        replace(config, max_left_out=0.5).build_task().build_loader("train")


def test_a_silent_clip_spreads_no_nan(pretraining: Wav2Vec2PretrainConfig) -> None:
    model = pretraining.build_task().build_model()
    samples = torch.zeros(2, 16_000)
    samples[1] = torch.randn(16_000)
    mask = torch.zeros(2, SMALL.frames(16_000), dtype=torch.bool)
    mask[:, 4:20] = True
    losses = model(samples, torch.tensor([16_000, 16_000]), mask)
    losses.loss.backward()
    assert math.isfinite(float(losses.loss.detach()))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_clip_with_one_masked_frame_counts_for_nothing(pretraining: Wav2Vec2PretrainConfig) -> None:
    model = pretraining.build_task().build_model()
    mask = torch.zeros(1, SMALL.frames(16_000), dtype=torch.bool)
    mask[0, 7] = True
    losses = model(torch.randn(1, 16_000), None, mask)
    assert int(losses.masked) == 0 and float(losses.contrastive.detach()) == 0.0
    losses.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_other_bad_starts_are_named(
    ctc: Wav2Vec2CtcConfig, pretraining: Wav2Vec2PretrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--train-manifests"):
        replace(ctc, train_manifests=()).build_task()
    (tmp_path / "bad.jsonl").write_text('{"audio_filepath": "0.wav", "duration": 1}\n{"audio_filepath": \n')
    with pytest.raises(ManifestError, match=r"bad\.jsonl:2"):
        replace(ctc, train_manifests=(tmp_path / "bad.jsonl",)).build_task()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(CheckpointError, match=r"'hubert'.*accepted: 'wav2vec2'"):
        replace(ctc, init_from=other).build_task()
    (other / "config.json").write_text('{"model_type": "wav2vec2", "add_adapter": true}')
    with pytest.raises(CheckpointError, match="add_adapter"):
        replace(ctc, init_from=other).build_task()
    for wrong in ({"mask_share": 0.0}, {"negatives": 0}):
        with pytest.raises(ConfigError, match="mask_share"):
            replace(pretraining, **wrong)
    with pytest.raises(ConfigError, match="layer_lr_decay"):
        replace(ctc, layer_lr_decay=0.0)


def test_a_run_of_pretraining_cannot_be_exported(pretraining: Wav2Vec2PretrainConfig, tmp_path: Path) -> None:
    run = fit(replace(pretraining, steps=1, warmup_steps=0, accumulation_steps=1, dev_manifests=()), quiet=True)
    with pytest.raises(ExportError, match=r"run of pretraining.*--init-from"):
        export_run(run.path, tmp_path / "bundle")


def test_published_sizes() -> None:
    """Parameters of wav2vec 2.0 base and large as published (95 M and 317 M), quantiser included."""
    for name, millions in (("wav2vec2-base", 95.0), ("wav2vec2-large", 317.4)):
        config = PRESETS[name]
        assert isinstance(config, Wav2Vec2PretrainConfig)
        with torch.device("meta"):
            model = Wav2Vec2ForPreTraining(config.shape)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.3), name
