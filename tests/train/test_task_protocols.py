"""What a task may add to the loop: weights of its batches, a watch over the run, learning rates by layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from linear_task import LinearConfig, LinearTask
from torch import nn

from linnet.errors import TrainingError
from linnet.train.optim import build_optimizer
from linnet.train.run_folder import RunFolder
from linnet.train.task import StepOutput
from linnet.train.trainer import fit


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@dataclass(frozen=True, kw_only=True)
class WeighingConfig(LinearConfig):
    weighed: bool = True

    def build_task(self) -> LinearTask:
        return WeighingTask(self)


class WeighingTask(LinearTask):
    """A batch counts as much as it has points."""

    def step(self, model: nn.Module, batch: Any, step: int) -> StepOutput:
        output = super().step(model, batch, step)
        weighed = isinstance(self.config, WeighingConfig) and self.config.weighed
        return replace(output, weight=torch.tensor(float(len(batch[0])))) if weighed else output


def grad_norm(config: LinearConfig) -> float:
    run = fit(config, quiet=True)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return next(float(line["grad_norm"]) for line in lines if "grad_norm" in line)


def test_micro_batches_of_any_size_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    whole = WeighingConfig(
        run_dir=tmp_path / "whole", points=6, batch=6, dropout=0.0, steps=1, warmup_steps=0, clip_grad_norm=1e9
    )
    parts = replace(whole, run_dir=tmp_path / "parts", batch=4, accumulation_steps=2)  # of four points and of two
    plain = replace(parts, run_dir=tmp_path / "plain", weighed=False)
    expected = grad_norm(whole)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert grad_norm(parts) == pytest.approx(expected, rel=1e-5)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert grad_norm(plain) != pytest.approx(expected, rel=1e-2)


@dataclass(frozen=True, kw_only=True)
class WatchingConfig(LinearConfig):
    sick_from: int = 5
    stop_at: int = 99

    def build_task(self) -> LinearTask:
        return WatchingTask(self)


class WatchingTask(LinearTask):
    """Does not like what it sees from `sick_from` on, and stops at `stop_at`."""

    seen: list[tuple[int, dict[str, float]]]

    def check(self, step: int, figures: dict[str, float]) -> bool:
        self.seen = [*getattr(self, "seen", []), (step, figures)]
        assert isinstance(self.config, WatchingConfig)
        if step >= self.config.stop_at:
            raise TrainingError("enough")
        return step < self.config.sick_from


def test_a_watched_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    config = WatchingConfig(
        run_dir=tmp_path / "run", steps=12, warmup_steps=0, save_every=2, stop_at=9, accumulation_steps=2
    )
    with pytest.raises(TrainingError, match="enough"):
        fit(config, quiet=True)
    assert RunFolder(config.run_dir).load("last")[1]["step"] == 4
    task = LinearTask.built
    assert isinstance(task, WatchingTask)
    assert [step for step, _ in task.seen] == list(range(1, 10))
    assert all(set(figures) == {"loss", "points", "grad_norm"} for _, figures in task.seen)
    assert all(figures["points"] <= 4 for _, figures in task.seen)  # means over micro-batches, not sums


def test_parameters_learn_at_the_share_their_name_says() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    config = LinearConfig(weight_decay=0.1)
    groups = build_optimizer(model, config, lambda name: 0.5 if name.startswith("0.") else 2.0).param_groups
    found = {id(p): (group["lr_ratio"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {"0.weight": (0.5, 0.1), "0.bias": (0.5, 0.0), "1.weight": (2.0, 0.1), "1.bias": (2.0, 0.0)}
    assert {name: found[id(p)] for name, p in model.named_parameters()} == expected
    assert sum(len(group["params"]) for group in groups) == 4
