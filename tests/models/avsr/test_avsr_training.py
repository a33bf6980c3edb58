"""The audio-visual task in the real training loop: it learns, resumes bit for bit, and leaves out what cannot train."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from linnet.audio import write_audio
from linnet.data.augment import NO_AUGMENT, AugmentConfig
from linnet.errors import CheckpointError, ConfigError, ExportError, TrainingError
from linnet.manifest import Utterance, write_manifest
from linnet.models.avsr.config import AVSRTrainConfig
from linnet.models.avsr.export import export_run
from linnet.models.avsr.task import AVSRTask, Batch
from linnet.models.presets import AVSR_TINY
from linnet.runtime.avsr_config import AVSRConfig
from linnet.runtime.loader import load_model
from linnet.train.task import StepOutput
from linnet.train.trainer import fit
from test_video import write_video

pytest.importorskip("av")
SHAPE = AVSRConfig(
    video_px=16, audio_channels=(4, 8, 8), video_channels=(4, 8, 8), width=32, stream_blocks=1, joint_blocks=1, kernel=5
)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process; every test starts its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words that a tone spells and a grey level shows: low/dark, mid/grey, high/bright."""
    folder, rng, utterances = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), []
    words = {"low": (300, 30), "mid": (900, 120), "high": (2500, 230)}
    for index in range(9):
        said = [list(words)[(index + place) % 3] for place in range(1 + index % 3)]
        time = np.arange(8000) / 16_000
        wave = np.concatenate([0.3 * np.sin(2 * np.pi * words[word][0] * time) for word in said])
        wave = wave + 0.001 * rng.standard_normal(len(wave))
        write_audio(folder / f"{index}.wav", wave.astype(np.float32), 16_000)
        # Contrast is what the network sees, so a word is a bar at its own place.
        write_video(folder / f"{index}.mp4", [40 * i for i in range(round(len(wave) / 640))], values=False)
        utterances.append(
            Utterance(
                audio_path=folder / f"{index}.wav",
                duration_s=len(wave) / 16_000,
                text=" ".join(said),
                video_path=folder / f"{index}.mp4",
                language="en",
            )
        )
    write_manifest(folder / "all.jsonl", utterances)
    return folder


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> AVSRTrainConfig:
    return replace(
        AVSR_TINY,
        shape=SHAPE,
        run_dir=tmp_path / "whole",
        train_manifests=(corpus / "all.jsonl",),
        dev_manifests=(corpus / "all.jsonl",),
        dev_utterances=4,
        steps=9,
        warmup_steps=2,
        batch_audio_s=4.0,
        augment=AugmentConfig(freq_mask_bands=4),
        average_weights=0.9,
        plateau_lr_ratio=0.5,
        patience=0,
        log_every=2,
        validate_every=2,
        save_every=4,
    )


def test_it_learns_and_what_it_learned_transcribes_without_torch(config: AVSRTrainConfig, corpus: Path) -> None:
    config = replace(
        config,
        steps=160,
        warmup_steps=10,
        learning_rate=5e-3,
        augment=NO_AUGMENT,
        augment_video=False,
        batch_audio_s=9.0,
        average_weights=0.0,
        plateau_lr_ratio=1.0,
        drop_audio=0.1,
        drop_video=0.3,
        dev_snr_db=None,
        dev_utterances=9,
        validate_every=40,
        save_every=80,
    )
    run = fit(config, quiet=True)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert min(line["dev_wer"] for line in lines if "dev_wer" in line) <= 0.2  # guessing one word: 2/3
    assert {"dev_audio_wer", "dev_video_wer", "dev_cer"} <= {name for line in lines for name in line}
    bundle = export_run(run.path, run.path.with_name("bundle"), precision="fp32")
    assert bundle.parity["max_abs_difference"] < 1e-3
    recognizer = load_model(bundle.path, threads=1)
    texts = [recognizer.transcribe(corpus / f"{index}.wav").text for index in range(3)]
    recognizer.close()
    said = ["low", "mid high", "high low mid"]
    assert sum(text == wanted for text, wanted in zip(texts, said, strict=True)) >= 2
    with pytest.raises(ExportError, match="already holds a bundle"):
        export_run(run.path, bundle.path)
    with pytest.raises(ExportError, match="accepted: fp32, int8"):
        export_run(run.path, run.path.with_name("other"), precision="int2")


def test_resuming_is_bit_identical(config: AVSRTrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(config, quiet=True)
    step = AVSRTask.step

    def interrupted(self: AVSRTask, model: nn.Module, batch: Batch, number: int) -> StepOutput:
        if number == 7:
            raise KeyboardInterrupt
        return step(self, model, batch, number)

    stopped = replace(config, run_dir=config.run_dir.with_name("stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AVSRTask, "step", interrupted)
        fit(stopped, quiet=True)
    torch.manual_seed(1234)
    np.random.seed(1234)
    resumed = fit(stopped, resume=True, quiet=True)
    (weights, state), (weights_again, state_again) = whole.load("last"), resumed.load("last")
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)
    # The learning rate has decayed with every validation that was no better, before and after the interruption.
    assert (state["stale"], state["lr_ratio"]) == (state_again["stale"], state_again["lr_ratio"])
    assert state["lr_ratio"] < 1.0


def test_clips_that_cannot_train_are_named_and_the_rest_goes_on(config: AVSRTrainConfig, corpus: Path) -> None:
    good = [json.loads(line) for line in (corpus / "all.jsonl").read_text().splitlines()]
    bad = [
        {**good[0], "text": "rock and roll in far too many words for half a second"},
        {**good[0], "text": "7 cafés"},
        {**good[0], "audio_filepath": "gone.wav"},
        {**good[0], "text": "..."},
    ]
    (corpus / "mixed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*bad, *good]))
    task = AVSRTask(replace(config, train_manifests=(corpus / "mixed.jsonl",)))
    assert len(task.train.rows) == len(good)
    task.save_assets(config.run_dir.parent)
    named = (config.run_dir.parent / "left_out.txt").read_text()
    assert "letters need 5" in named and "lacks: 7 é" in named and "gone.wav" in named and len(named.splitlines()) == 4
    batches = list(task.build_loader("train").epoch(0))
    assert sum(len(batch.label_lengths) for batch in batches) == len(good)
    model = task.build_model()
    output = task.step(model, batches[0], 0)
    assert torch.isfinite(output.loss) and output.logs["ctc_skipped"] == 0
    (corpus / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*bad, good[0]]))
    with pytest.raises(TrainingError, match="Only 1 of 5"):
        AVSRTask(replace(config, train_manifests=(corpus / "bad.jsonl",)))


def test_labels_that_do_not_fit_are_counted_not_hidden(config: AVSRTrainConfig) -> None:
    task = AVSRTask(config)
    batch = task.collate([task._dataset(task.train, "dev")[(0, row)] for row in (0, 1)])
    model = task.build_model()
    batch.labels = batch.labels[:3].repeat(40)
    batch.label_lengths = torch.tensor([60, 60])
    output = task.step(model, batch, 0)
    assert output.logs["ctc_skipped"] == 2 and float(output.loss.detach()) == 0.0


def test_training_goes_on_from_another_run(config: AVSRTrainConfig) -> None:
    first = fit(replace(config, steps=2, warmup_steps=1), quiet=True)
    task = AVSRTask(replace(config, init_from=first.path))
    weights, _ = first.load("best")
    assert all(torch.equal(value, weights[name]) for name, value in task.build_model().state_dict().items())
    wider = replace(config, init_from=first.path, shape=replace(SHAPE, width=64))
    with pytest.raises(CheckpointError, match="another shape"):
        AVSRTask(wider).build_model()


def test_options_that_cannot_work_are_named(config: AVSRTrainConfig) -> None:
    with pytest.raises(ConfigError, match="together at most 1"):
        replace(config, drop_audio=0.7, drop_video=0.7)
    with pytest.raises(ConfigError, match="train-manifests"):
        AVSRTask(replace(config, train_manifests=()))
