"""The training loop on a linear task: resuming, accumulation, schedules, checkpoints, stopping, two processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from linear_task import LinearConfig, LinearTask
from safetensors.torch import load_file
from torch import Tensor, nn

from linnet.errors import CheckpointError, ConfigError, TrainingError
from linnet.train.config import TrainConfig
from linnet.train.optim import WeightAverage, build_optimizer, lr_scale
from linnet.train.run_folder import RunFolder
from linnet.train.trainer import fit

TIMINGS = {"step_s", "dev_s"}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process; every test starts its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def config(tmp_path: Path) -> LinearConfig:
    # 22 points in batches of 4: six batches per epoch, so that 14 steps end in the third epoch.
    return LinearConfig(run_dir=tmp_path / "run", steps=14, warmup_steps=3, log_every=1, validate_every=7, save_every=4)


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMINGS} for line in lines]


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Bit for bit, through dicts and lists."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for place, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{place}]")
    else:
        assert a == b, where


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("interrupt_at", [5, 7, 9, 12])  # the steps' checkpoints: 4 (mid-epoch), 8, 12 (an epoch's end)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"average_weights": 0.9, "schedule": "tri_stage"},
        {"accumulation_steps": 2, "log_every": 3},  # neither log nor epoch ends where checkpoints are
        {"workers": 1},
    ],
    ids=["plain", "average", "accumulation", "worker"],
)
def test_resuming_is_bit_identical(config: LinearConfig, interrupt_at: int, options: dict[str, Any]) -> None:
    if "workers" in options and interrupt_at != 5:
        pytest.skip("one interruption is enough for the slow case")
    config = replace(config, **options)
    whole = fit(config)

    stopped = replace(config, run_dir=config.run_dir.with_name("stopped"))
    with pytest.raises(KeyboardInterrupt):
        fit(replace(stopped, interrupt_at=interrupt_at))
    torch.manual_seed(99)  # another process has another state
    resumed = fit(stopped, resume=True)

    for name in ("last", "best"):
        (weights, state), (weights_again, state_again) = whole.load(name), resumed.load(name)
        assert_same(weights_again, weights, name)
        assert_same(state_again, state, name)
    assert metrics(resumed.path) == metrics(whole.path)
    assert resumed.load("last")[1]["step"] == 14


def test_resuming_before_the_first_checkpoint_starts_again(config: LinearConfig) -> None:
    whole = fit(config)
    stopped = replace(config, run_dir=config.run_dir.with_name("stopped"), validate_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(replace(stopped, interrupt_at=2))  # a best checkpoint exists, a last one does not
    resumed = fit(replace(stopped, validate_every=7), resume=True)
    assert_same(resumed.load("last"), whole.load("last"))
    assert metrics(resumed.path) == metrics(whole.path)


def test_resuming_a_finished_run_changes_nothing(config: LinearConfig) -> None:
    before = fit(config).load("last")
    after = fit(config, resume=True)
    assert_same(after.load("last"), before)
    assert metrics(after.path)[-1]["step"] == 14


def test_resuming_with_another_model_is_refused(config: LinearConfig) -> None:
    run = fit(config)
    weights, state = run.load("last")
    run.save("last", {name: value for name, value in weights.items() if name != "2.bias"}, state)
    with pytest.raises(TrainingError, match=r"lacks 1 tensors.*2\.bias"):
        fit(config, resume=True)


def test_an_existing_run_is_not_overwritten(config: LinearConfig) -> None:
    run = fit(config)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume"):
        fit(config)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


# ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_accumulated_halves_equal_one_batch(tmp_path: Path) -> None:
    # Without dropout and with the points in the same order, the mean of two half means is the mean of the whole.
    plain = LinearConfig(
        run_dir=tmp_path / "whole", steps=5, warmup_steps=0, points=8, batch=8, dropout=0.0, log_every=1
    )
    whole, _ = fit(plain).load("last")
    halves = replace(plain, run_dir=tmp_path / "halves", batch=4, accumulation_steps=2)
    accumulated, state = fit(halves).load("last")
    assert state["epoch"] == 4 and state["batch"] == 2
    for name, weight in whole.items():
        torch.testing.assert_close(accumulated[name], weight, atol=1e-6, rtol=0)  # a sum of 8 in two parts
    assert LinearTask.built is not None and len(LinearTask.built.keys) == 10
    # AdamW does not care about the gradient's scale, clipping does.
    norms = [
        [line["grad_norm"] for line in metrics(run) if "grad_norm" in line] for run in (plain.run_dir, halves.run_dir)
    ]
    assert len(norms[0]) == 5
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_an_update_is_adamw_with_clipping_and_warm_up(tmp_path: Path) -> None:
    """Three updates, written out with a plain loop and torch's own AdamW."""
    config = LinearConfig(
        run_dir=tmp_path, steps=3, warmup_steps=3, dropout=0.0, weight_decay=0.1, clip_grad_norm=0.5, points=12, seed=3
    )
    weights, _ = fit(config).load("last")
    task = LinearTask(config)
    torch.manual_seed(config.seed)
    model = task.build_model()
    decayed, plain = [p for p in model.parameters() if p.ndim == 2], [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98), eps=1e-8
    )
    for step, batch in enumerate(task.build_loader("train").epoch(0)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (step + 1) / 3
        optimizer.zero_grad()
        task.step(model, batch, step).loss.backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.5) > 0.5
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=1e-7, rtol=0)  # the same operations


def test_it_learns(tmp_path: Path) -> None:
    config = LinearConfig(
        run_dir=tmp_path, steps=300, dropout=0.0, learning_rate=0.03, average_weights=0.9, validate_every=300
    )
    fit(config)
    assert [line["dev_error"] for line in metrics(tmp_path) if "dev_error" in line][-1] < 0.03  # the noise: 0.01


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains_and_keeps_float32_weights(config: LinearConfig, precision: Any) -> None:
    weights, _ = fit(replace(config, precision=precision)).load("last")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    exact, _ = fit_again(replace(config, run_dir=config.run_dir.with_name("exact"))).load("last")
    differences = [float((weights[name] - exact[name]).abs().max()) for name in exact]
    assert 0 < max(differences) < 0.05  # eight bits of mantissa, and a learning rate of 1e-3 for 14 steps


def fit_again(config: TrainConfig) -> RunFolder:
    """`fit` with another precision in the same process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return fit(config)


@pytest.mark.parametrize("kind", ["nan_at", "infinite_gradient_at"])
def test_a_non_finite_loss_or_gradient_stops_and_names_the_last_checkpoint(config: LinearConfig, kind: str) -> None:
    # Step 7 would be saved as step 8's checkpoint: it must not replace the good one.
    with pytest.raises(TrainingError) as stopped:
        fit(replace(config, **{kind: 7}))
    last = config.run_dir / "checkpoints" / "last"
    assert "step 7" in str(stopped.value) and str(last) in str(stopped.value)
    weights, state = RunFolder(config.run_dir).load("last")
    assert state["step"] == 4
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_a_non_finite_loss_before_any_checkpoint_says_so(config: LinearConfig) -> None:
    with pytest.raises(TrainingError, match=r"step 1\. No checkpoint"):
        fit(replace(config, nan_at=1))


def test_logs_are_means_over_the_interval(config: LinearConfig) -> None:
    fine = fit(replace(config, average_weights=0.0)).path
    coarse = fit(replace(config, run_dir=config.run_dir.with_name("coarse"), log_every=4)).path
    losses = [line for line in metrics(fine) if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, 15))
    averaged = [line for line in metrics(coarse) if "loss" in line]
    assert [line["step"] for line in averaged] == [4, 8, 12, 14]
    for line, start in zip(averaged, (0, 4, 8, 12), strict=True):
        part = losses[start : line["step"]]
        for name in ("loss", "points", "grad_norm"):
            assert line[name] == pytest.approx(sum(one[name] for one in part) / len(part), rel=1e-12)
        assert line["learning_rate"] == part[-1]["learning_rate"]
        assert line["epoch"] == (line["step"] - 1) // 6


# ── schedules, averages, optimiser ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schedule", "corners"),
    [
        ("constant", {10: 1.0, 55: 1.0, 100: 1.0}),
        ("linear", {10: 1.0, 55: 0.505, 100: 0.01}),
        ("cosine", {10: 1.0, 32: 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 22 / 90)), 55: 0.505, 100: 0.01}),
        # 10 steps up, 40 steps flat, 50 steps of exponential decay: half way down in logarithm at 75
        ("tri_stage", {10: 1.0, 49: 1.0, 50: 1.0, 75: 0.1, 100: 0.01}),
    ],
)
def test_schedules_at_their_corners(schedule: Any, corners: dict[int, float]) -> None:
    config = TrainConfig(family="x", steps=100, warmup_steps=10, schedule=schedule, final_lr_ratio=0.01)
    assert [lr_scale(step, config) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert {step: lr_scale(step, config) for step in corners} == pytest.approx(corners, rel=1e-9)
    values = [lr_scale(step, config) for step in range(10, 101)]
    assert values == sorted(values, reverse=True)
    assert lr_scale(200, config) == pytest.approx(values[-1])  # never below the floor
    without = replace(config, warmup_steps=0)
    assert lr_scale(0, without) == 1.0
    only_warmup = replace(config, warmup_steps=100)
    assert lr_scale(99, only_warmup) == 1.0


def test_unusable_numbers_are_refused() -> None:
    for options, word in (
        ({"steps": 0}, "steps"),
        ({"save_every": 0}, "save_every"),
        ({"accumulation_steps": 0}, "accumulation_steps"),
        ({"steps": 10, "warmup_steps": 11}, "warmup_steps"),
        ({"average_weights": 1.0}, "average_weights"),
        ({"schedule": "tri_stage", "final_lr_ratio": 0.0}, "final_lr_ratio"),
    ):
        with pytest.raises(ConfigError, match=word):
            TrainConfig(family="x", **options)


def test_averaged_weights_follow_the_formula_and_swap_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.3)
    expected = 1.0
    for update, value in enumerate([2.0, -1.0, 4.0], start=1):
        nn.init.constant_(model.weight, value)
        average.update(model)
        decay = min(0.3, (1 + update) / (10 + update))  # 2/11, 3/12, then 0.3
        expected = decay * expected + (1 - decay) * value
    average.swap(model)
    assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    average.swap(model)
    assert model.weight.item() == 4.0
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_frozen_weights_are_neither_optimised_nor_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LinearConfig(run_dir=tmp_path, steps=2, warmup_steps=0, average_weights=0.5)
    build = LinearTask.build_model

    def frozen(self: LinearTask) -> nn.Module:
        model = build(self)
        model.requires_grad_(False)[2].requires_grad_(True)
        return model

    monkeypatch.setattr(LinearTask, "build_model", frozen)
    weights, state = fit(config).load("last")
    assert weights.keys() == {"2.weight", "2.bias"}
    assert state["average"]["weights"].keys() == {"2.weight", "2.bias"}
    with pytest.raises(TrainingError, match="unfreeze"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), config)


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_best_is_the_lowest_figure_and_last_the_newest(config: LinearConfig) -> None:
    figures = (0.9, 0.4, math.nan, 0.6, 0.5)
    run = fit(replace(config, steps=10, validate_every=2, save_every=3, figures=figures, average_weights=0.8))
    (best, best_state), (last, last_state) = run.load("best"), run.load("last")
    assert best_state["step"] == 4 and best_state["best"] == 0.4
    assert last_state["step"] == 10 and last_state["best"] == 0.4
    assert LinearTask.built is not None
    validated = LinearTask.built.validated
    assert_same(best, validated[1])  # what was validated is what is kept: the averaged weights
    assert_same(dict(last_state["average"]["weights"]), validated[4])
    assert any(not torch.equal(last[name], validated[4][name]) for name in last)  # the live ones differ
    assert [line["dev_error"] for line in metrics(run.path) if "dev_error" in line][:2] == [0.9, 0.4]


def test_a_run_folder_holds_configuration_environment_and_assets(config: LinearConfig) -> None:
    run = fit(config)
    stored = run.config()
    assert stored["seed"] == 0 and stored["run_dir"] == str(config.run_dir) and stored["adam_betas"] == [0.9, 0.98]
    assert run.meta()["torch"] == torch.__version__ and 1 <= run.meta()["cores"] <= (os.cpu_count() or 1)
    assert (run.path / "asset.txt").read_text() == "linear\n"
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["best", "last"]


def test_missing_checkpoints_and_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint 'best'"):
        RunFolder(tmp_path).load("best")
    with pytest.raises(CheckpointError, match=r"not a run folder.*config\.json"):
        RunFolder(tmp_path).config()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_interruption_while_saving_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    run, rename, calls = RunFolder(tmp_path), os.rename, []
    run.save("last", {"w": torch.tensor([1.0])}, {"step": 1})

    def interrupted(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == failing + 1:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", interrupted)
        run.save("last", {"w": torch.tensor([2.0])}, {"step": 2})
    weights, state = RunFolder(tmp_path).load("last")
    assert weights["w"].item() == 1.0 and state == {"step": 1}

    # Saving again must not remove the only good copy before the new one has its name.
    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        run.save("last", {"w": torch.tensor([3.0])}, {"step": 3})
    assert RunFolder(tmp_path).load("last")[1] == {"step": 1}

    run.save("last", {"w": torch.tensor([4.0])}, {"step": 4})
    assert RunFolder(tmp_path).load("last")[1] == {"step": 4}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last"]


def test_checkpoints_load_without_unpickling_code(config: LinearConfig) -> None:
    run = fit(config)
    for name in ("last", "best"):
        torch.load(run.path / "checkpoints" / name / "state.pt", weights_only=True)


# ── two processes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_processes_share_the_data_and_agree(tmp_path: Path) -> None:
    """18 points in batches of 4: five batches, so each rank draws three per epoch and one batch is drawn twice."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).with_name("linear_task.py")
    done = subprocess.run(
        [*command, str(script), str(run)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads((run / f"keys-{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(2):
        drawn = [[batch for batch in keys if batch[0][0] == epoch] for keys in seen]
        assert [len(batches) for batches in drawn] == [3, 3]
        flat = [tuple(key) for batches in drawn for batch in batches for key in batch]
        assert {index for _, index in flat} == set(range(18))
        repeated = sum(map(len, (batch for batches in drawn for batch in batches))) - 18
        assert 0 < repeated <= 4  # only the batch that evens out the number of batches
    a, b = (load_file(run / f"weights-{rank}.safetensors") for rank in range(2))
    assert_same(a, b)
    # Interrupted and resumed, with a dropout of its own on each rank.
    assert_same(a, load_file(run / "resumed-0.safetensors"))
    assert_same(a, load_file(run / "resumed-1.safetensors"))
    assert RunFolder(run).load("last")[1]["step"] == 6
    assert [line["step"] for line in metrics(run) if "loss" in line] == [6]
    shutil.rmtree(run)
