"""Training: corrupted input and clean target, statistics, the shared loop, several processes as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bsq_runs
from linnet.audio import read_audio, write_audio
from linnet.data.augment import NO_AUGMENT, AugmentConfig
from linnet.data.clips import load_clips
from linnet.errors import ConfigError
from linnet.features import log_mel
from linnet.manifest import Utterance, write_manifest
from linnet.models.bsq.config import BSQTrainConfig
from linnet.models.bsq.data import ReconstructionDataset, mel_statistics, whole_tokens
from linnet.models.bsq.export import export_run
from linnet.models.bsq.task import BSQTask
from linnet.models.presets import PRESETS
from linnet.runtime.bsq import BSQCodec
from linnet.train.trainer import fit

CORRUPTED = replace(NO_AUGMENT, noise_probability=1.0, snr_db=(0.0, 5.0), freq_masks=2, freq_mask_bands=20,
                    time_masks=2, time_mask_ratio=0.2)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """Eight pieces of a real recording, of half a second to two."""
    folder, samples = tmp_path_factory.mktemp("data"), read_audio(clip)
    utterances = []
    for index in range(8):
        length = 8000 + 3200 * index
        write_audio(folder / f"{index}.wav", samples[index * 3000 : index * 3000 + length], 16_000)
        utterances.append(Utterance(audio_path=folder / f"{index}.wav", duration_s=length / 16_000, id=str(index)))
    write_manifest(folder / "all.jsonl", utterances)
    return folder / "all.jsonl"


@pytest.fixture
def config(manifest: Path, tmp_path: Path) -> BSQTrainConfig:
    return BSQTrainConfig(
        shape=replace(bsq_runs.TINY, mel_mean=(), mel_std=()),
        train_manifests=(manifest,),
        dev_manifests=(manifest,),
        run_dir=tmp_path / "run",
        steps=30,
        warmup_steps=5,
        learning_rate=3e-3,
        batch_audio_s=2.0,
        crop_s=0.5,
        log_every=10,
        validate_every=30,
        save_every=30,
        dev_utterances=2,
        threads=1,
    )


def dataset(config: BSQTrainConfig, *, training: bool = True) -> ReconstructionDataset:
    _, clips = load_clips(BSQTask(config).train, config.run_dir.parent / "cache")
    return ReconstructionDataset(clips, config, training=training)


def test_the_input_is_corrupted_and_the_target_is_not(config: BSQTrainConfig) -> None:
    """The published port masked input and target alike, so that nothing had to be restored."""
    plain, corrupted = dataset(config), dataset(replace(config, augment=CORRUPTED))
    for index in range(8):
        clean, example = plain[(3, index)], corrupted[(3, index)]
        np.testing.assert_array_equal(clean.input_mel, clean.target_mel)
        np.testing.assert_array_equal(example.target_mel, log_mel(example.samples, config.shape.features).T)
        np.testing.assert_array_equal(example.target_mel, clean.target_mel)
        assert np.abs(example.input_mel - example.target_mel).max() > 1.0


def test_examples_follow_from_their_keys(config: BSQTrainConfig) -> None:
    config = replace(config, augment=CORRUPTED)
    first, again = dataset(config), dataset(config)
    np.testing.assert_array_equal(first[(1, 7)].input_mel, again[(1, 7)].input_mel)
    assert not np.array_equal(first[(1, 7)].samples, first[(2, 7)].samples)  # another crop, another level
    whole = dataset(config, training=False)[(1, 7)]
    np.testing.assert_array_equal(whole.samples, whole_tokens(first.clips[7], config.shape))
    assert len(first[(1, 7)].samples) == 8000 and len(whole.samples) > 16_000


def test_statistics_are_those_of_all_frames(config: BSQTrainConfig) -> None:
    task = BSQTask(config)
    clips = dataset(config).clips
    frames = np.concatenate([log_mel(clips[i], config.shape.features) for i in range(8)], axis=1).astype(np.float64)
    np.testing.assert_allclose(task.shape.mel_mean, frames.mean(1), rtol=1e-5)
    np.testing.assert_allclose(task.shape.mel_std, frames.std(1), rtol=1e-4)
    assert len(mel_statistics(clips, config.shape.features, most=2)[0]) == 40


def test_training_learns_and_its_run_becomes_a_codec(config: BSQTrainConfig, tmp_path: Path, clip: Path) -> None:
    run = fit(config, quiet=True)
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    logged = [record for record in records if "loss" in record]
    # The waveform head starts from nothing; the code starts as a linear one, and 30 updates must not ruin it.
    assert logged[-1]["stft"] < 0.9 * logged[0]["stft"] and logged[-1]["mel"] < 0.5
    assert {"sample_entropy_bits", "codebook_entropy_bits", "distinct_tokens", "bits_per_token"} <= logged[0].keys()
    assert records[-1].keys() >= {"dev_mel_db", "dev_wave_mel_db", "dev_bit_entropy", "dev_distinct_tokens"}
    bundle = export_run(run.path, tmp_path / "bundle")
    assert bundle.parity["flipped_bits"] < 0.001
    codec = BSQCodec(bundle)
    assert len(codec.decode(codec.encode(clip))) == len(read_audio(clip))


def test_masked_autoencoder_mode_trains(config: BSQTrainConfig) -> None:
    run = fit(replace(config, hidden_ratio=0.5, steps=3, warmup_steps=0, validate_every=3), quiet=True)
    weights, _ = run.load("last")
    assert float(weights["bsq.encoder.mask_vector"].abs().sum()) > 0
    assert export_run(run.path, run.path / "bundle").family == "bsq"  # without the mask vector


def test_other_sample_rates_are_decoded_at_their_rate(config: BSQTrainConfig) -> None:
    shape = replace(PRESETS["bsq-environment"].shape, layers=1, d_model=48, heads=3)  # type: ignore[attr-defined]
    task = BSQTask(replace(config, shape=shape))
    batch = next(iter(task.build_loader("train").epoch(0)))
    assert batch.samples.shape[1] == batch.mask.shape[1] * 640 and batch.input_mel.shape[2] == 96


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augment": AugmentConfig(speed=(0.9, 1.1), vocal_tract=(1, 1), gain_db=(0, 0))}, "augment.speed"),
        ({"augment": replace(NO_AUGMENT, gain_db=(-3.0, 3.0))}, "augment.gain_db"),
        ({"hidden_ratio": 1.0}, "hidden_ratio"),
        ({"group_size": 4}, "group_size"),
    ],
)
def test_impossible_recipes_are_refused(config: BSQTrainConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **change)  # type: ignore[arg-type]


def test_no_data_is_named(config: BSQTrainConfig) -> None:
    with pytest.raises(ConfigError, match="--train-manifests"):
        BSQTask(replace(config, train_manifests=()))
    with pytest.raises(ConfigError, match="configured corpora"):
        BSQTask(replace(config, corpora={"none": 1.0}))


def test_presets_print_their_rates() -> None:
    for name, preset in PRESETS.items():
        if isinstance(preset, BSQTrainConfig):
            assert f"{preset.shape.bits} bits at {preset.shape.tokens_per_s:.0f} tokens/s" in preset.summary, name
            assert preset.shape.bits_per_s == preset.shape.bits * 50


def test_two_processes_train_as_one(manifest: Path, tmp_path: Path) -> None:
    """Gradients of two gloo processes with half of the clips each, against one process with all of them."""
    program = Path(__file__).parents[2] / "bsq_processes.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, str(program), str(manifest), str(tmp_path), str(rank), str(size)], env=environment
        )
        for size in (1, 2)
        for rank in range(size)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0, 0]
    alone, together = load_file(tmp_path / "gradients-1.safetensors"), load_file(tmp_path / "gradients-2.safetensors")
    assert alone.keys() == together.keys() and len(alone) > 50
    for name, expected in alone.items():
        # float32 sums in another order; the entropy of the codebook is of all tokens, not a mean of two entropies
        torch.testing.assert_close(
            together[name], expected, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
