"""Qwen3-ASR in the real training loop: it learns real speech, resumes bit for bit, and what it learned transcribes."""

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
from torch import Tensor, nn

from linnet.audio import write_audio
from linnet.data.augment import NO_AUGMENT
from linnet.manifest import Utterance, read_manifest, write_manifest
from linnet.models.presets import TINY, TINY_SHAPE
from linnet.models.qwen3_asr.config import Qwen3ASRTrainConfig
from linnet.models.qwen3_asr.export import export_run
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.models.qwen3_asr.task import IGNORED, Batch, Qwen3ASRTask, TrainableQwen3ASR
from linnet.runtime.loader import load_model
from linnet.train.run_folder import RunFolder
from linnet.train.task import StepOutput
from linnet.train.trainer import fit


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process; every test starts its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def digits(shared: Path) -> list[Utterance]:
    """Eight different words of one real speaker."""
    words: dict[str | None, Utterance] = {}
    for utterance in read_manifest(shared / "data" / "train.jsonl"):
        if utterance.corpus == "fsdd" and utterance.speaker == "george":
            words.setdefault(utterance.text, utterance)
    assert len(words) >= 8
    return list(words.values())[:8]


@pytest.fixture(scope="module")
def learned(digits: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny preset after 100 steps on these eight clips, without what keeps it from learning them by heart."""
    folder = tmp_path_factory.mktemp("learned")
    write_manifest(folder / "digits.jsonl", digits)
    AcceleratorState._reset_state(reset_partial_state=True)
    config = replace(
        TINY,
        run_dir=folder / "run",
        train_manifests=(folder / "digits.jsonl",),
        dev_manifests=(folder / "digits.jsonl",),
        steps=100,
        warmup_steps=10,
        encoder_warmup_steps=0,
        drop_path=0.0,
        label_smoothing=0.0,
        augment=NO_AUGMENT,
        validate_every=100,
        save_every=100,
        log_every=10,
    )
    return fit(config, quiet=True)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_tiny_preset_learns_real_speech(learned: RunFolder) -> None:
    lines = metrics(learned.path)
    # A network that does not listen says the same word to all eight clips: WER 7/8. Error 0 is reached at step 60.
    assert [line["dev_wer"] for line in lines if "dev_wer" in line] == [0.0]
    losses = [line for line in lines if "ctc" in line]
    assert losses[-1]["ce"] < 0.1 < 1 < losses[0]["ce"]
    assert losses[-1]["ctc"] < 0.2 < 5 < losses[0]["ctc"]
    assert losses[-1]["token_accuracy"] == 1.0 and losses[-1]["ctc_skipped"] == 0


def test_what_was_learned_transcribes_without_torch(
    learned: RunFolder, digits: list[Utterance], tmp_path: Path
) -> None:
    bundle = export_run(learned.path, tmp_path / "bundle", encoder="int8", decoders={"onnx": "int8"})
    recognizer = load_model(bundle.path, threads=1)
    texts = [recognizer.transcribe(utterance.audio_path).text for utterance in digits]
    recognizer.close()
    assert texts == [utterance.text for utterance in digits]


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """Ten clips of two voices: one tone per word, 0.4 … 1 s."""
    words, rate_hz = {"low": 300, "mid": 700, "high": 1500}, 16_000
    rng, utterances = np.random.default_rng(0), []
    for index in range(10):
        said = [list(words)[i] for i in rng.integers(3, size=1 + index % 3)]
        time = np.arange(int(0.3 * rate_hz)) / rate_hz
        samples = np.concatenate([0.3 * np.sin(2 * np.pi * words[word] * time) for word in said])
        path = tmp_path / f"{index}.wav"
        write_audio(path, samples.astype(np.float32), rate_hz)
        utterance = Utterance(
            audio_path=path,
            duration_s=len(samples) / rate_hz,
            text=" ".join(said),
            speaker=f"voice{index % 2}",
            language="en",
            corpus="tones",
        )
        utterances.append(utterance)
    write_manifest(tmp_path / "tones.jsonl", utterances)
    return tmp_path / "tones.jsonl"


@pytest.fixture
def config(tones: Path, tmp_path: Path) -> Qwen3ASRTrainConfig:
    """Everything random is on: noise, warps, masks, joined clips, fractional draws, drop path."""
    shape = replace(
        TINY_SHAPE,
        conv_channels=4,
        d_model=24,
        encoder_layers=2,
        encoder_ffn_dim=32,
        output_dim=32,
        hidden_size=32,
        intermediate_size=48,
    )
    return replace(
        TINY,
        shape=shape,
        run_dir=tmp_path / "whole",
        train_manifests=(tones,),
        dev_manifests=(tones,),
        dev_utterances=3,
        steps=9,
        warmup_steps=2,
        corpora={"tones": 1.4},
        joined={"tones": (4, 3)},
        batch_audio_s=8.0,
        drop_path=0.2,
        average_weights=0.9,
        log_every=2,
        validate_every=3,
        save_every=4,
    )


def test_resuming_is_bit_identical(config: Qwen3ASRTrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(config, quiet=True)

    step = Qwen3ASRTask.step

    def interrupted(self: Qwen3ASRTask, model: nn.Module, batch: Batch, number: int) -> StepOutput:
        if number == 7:
            raise KeyboardInterrupt
        return step(self, model, batch, number)

    stopped = replace(config, run_dir=config.run_dir.with_name("stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Qwen3ASRTask, "step", interrupted)
        fit(stopped, quiet=True)
    torch.manual_seed(1234)
    np.random.seed(1234)
    resumed = fit(stopped, resume=True, quiet=True)

    for name in ("last", "best"):
        (weights, state), (weights_again, state_again) = whole.load(name), resumed.load(name)
        assert state["step"] == state_again["step"] and state["epoch"] == state_again["epoch"]
        assert all(torch.equal(weights[key], weights_again[key]) for key in weights)
    first, second = whole.load("last")[1], resumed.load("last")[1]
    assert first["epoch"] > 0  # an epoch ended before or after the interruption
    assert list(flat(first)) == list(flat(second))
    timings = {"step_s", "dev_s"}
    whole_log, resumed_log = (
        [{key: value for key, value in line.items() if key not in timings} for line in metrics(run.path)]
        for run in (whole, resumed)
    )
    assert resumed_log == whole_log
    assert {line["step"] for line in whole_log} == {2, 3, 4, 6, 8, 9}


def flat(value: Any) -> Iterator[Any]:
    """Everything in a state, tensors as lists, in order."""
    if isinstance(value, dict):
        for key in value:
            yield key
            yield from flat(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value.tolist() if isinstance(value, Tensor) else value


def test_gradient_checkpointing_trains_the_same_network(config: Qwen3ASRTrainConfig) -> None:
    config = replace(config, steps=3, validate_every=3)
    plain, _ = fit(config, quiet=True).load("last")
    saving = replace(config, run_dir=config.run_dir.with_name("saving"), gradient_checkpointing=True)
    less_memory, _ = fit(saving, quiet=True).load("last")
    assert all(torch.equal(plain[name], less_memory[name]) for name in plain)


def test_mixed_precision_trains(config: Qwen3ASRTrainConfig) -> None:
    config = replace(config, steps=2, dev_manifests=(), encoder_warmup_steps=0)
    run = fit(replace(config, precision="bf16"), quiet=True)
    weights, _ = run.load("last")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    AcceleratorState._reset_state(reset_partial_state=True)
    exact = fit(replace(config, run_dir=config.run_dir.with_name("exact")), quiet=True)
    for name in ("ce", "ctc"):
        rounded, full = (next(line[name] for line in metrics(r.path) if name in line) for r in (run, exact))
        assert rounded != full and rounded == pytest.approx(full, rel=0.02)  # eight bits of mantissa


def test_batches_hold_what_the_recipe_draws(config: Qwen3ASRTrainConfig) -> None:
    """1.4 draws per clip and four joined examples an epoch; lengths bound the batches."""
    task = Qwen3ASRTask(replace(config, augment=NO_AUGMENT))
    loader, drawn, epochs = task.build_loader("train"), 0, 20
    for epoch in range(epochs):
        for batch in loader.epoch(epoch):
            clips = len(batch.frames)
            # Lengths count with the cost of prompt and answer; the gaps of joined clips are guessed within 0.3 s.
            longest_s = max(batch.frames) / 100 + config.prompt_cost_s
            assert clips == 1 or (longest_s - 0.3) * clips <= config.batch_audio_s
            audio_tokens = (batch.tokens == task.shape.audio_token_id).sum(dim=1).tolist()
            assert audio_tokens == [task.shape.audio_tokens(frames) for frames in batch.frames]
            drawn += clips
    assert drawn / epochs == pytest.approx(14 + 4, abs=5 * (10 * 0.24 / epochs) ** 0.5)  # five standard errors
    assert sum(len(batch.frames) for batch in task.build_loader("dev").epoch(0)) == 3


def test_history_noise_misreads_the_answer_alone(config: Qwen3ASRTrainConfig) -> None:
    task = Qwen3ASRTask(replace(config, history_noise=0.4))
    model = task.build_model()
    assert isinstance(model, TrainableQwen3ASR)
    batch = next(task.build_loader("train").epoch(0))
    wanted = batch.labels != IGNORED
    answers = set(batch.labels[wanted].tolist())
    torch.manual_seed(0)
    drawn = [model._misread(batch.tokens, wanted) for _ in range(200)]
    changed = torch.stack([read != batch.tokens for read in drawn]).float().mean(0)
    first_answer = wanted.long().argmax(dim=1) + 1  # the first wanted position reads the prompt's end
    for row, start in enumerate(first_answer.tolist()):
        end = int(wanted[row].nonzero().max()) + 1
        assert changed[row, :start].sum() == 0 and changed[row, end:].sum() == 0
        assert 0.1 < float(changed[row, start:end].mean()) < 0.45  # some draws hit the same token
    assert all(set(read[wanted].tolist()) <= answers | set(batch.tokens[wanted].tolist()) for read in drawn)
    model.eval()
    assert torch.equal(model._misread(batch.tokens, wanted), batch.tokens)


def test_batches_move_to_a_device(config: Qwen3ASRTrainConfig) -> None:
    task = Qwen3ASRTask(config)
    batch = next(task.build_loader("train").epoch(0)).to(torch.device("meta"))  # the only other device everywhere
    assert {tensor.device.type for tensor in (batch.mels, batch.tokens, batch.labels, *batch.transcripts)} == {"meta"}


def test_corpora_that_are_not_named_are_left_out(config: Qwen3ASRTrainConfig, tones: Path) -> None:
    other = [replace(utterance, corpus="other") for utterance in read_manifest(tones)[:4]]
    write_manifest(tones.with_name("other.jsonl"), other)
    both = replace(config, train_manifests=(tones, tones.with_name("other.jsonl")))
    assert len(Qwen3ASRTask(both).train) == 10
    assert len(Qwen3ASRTask(replace(both, corpora={})).train) == 14


def test_validation_scores_greedy_answers(config: Qwen3ASRTrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the recogniser replaced by one that knows the answers but for one word."""
    task = Qwen3ASRTask(config)
    task.dev = read_manifest(config.dev_manifests[0])[:3]  # one, two and three words: told apart by their lengths
    said = {round(utterance.duration_s * 100): utterance.text or "" for utterance in task.dev}
    assert len(said) == 3

    def transcribe(self: Qwen3ASRTask, asr: Qwen3ASR, mels: list[np.ndarray]) -> list[str]:
        return [said.get(mel.shape[1], "wrong") for mel in mels]

    monkeypatch.setattr(Qwen3ASRTask, "transcribe", transcribe)
    words = sum(len((utterance.text or "").split()) for utterance in task.dev)
    short = sum(round(utterance.duration_s * 100) < 50 for utterance in task.dev)  # padded, so not found above
    assert short == 1
    model = task.build_model().eval()
    assert task.validate(model)["wer"] == pytest.approx(short / words)
    assert replace(config, dev_manifests=()).build_task().validate(model) == {}
