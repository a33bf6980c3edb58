"""The smallest task the training loop can train: a linear teacher learned from points, with dropout and noise.

Run as a program (`torchrun … linear_task.py RUN_DIR`) it trains on several processes and writes down what each saw.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from linnet.data.batching import BucketBatchSampler, Key, Loader
from linnet.train.config import TrainConfig
from linnet.train.task import Split, StepOutput
from linnet.train.trainer import fit, leave_processes

INPUTS = 4
Point = tuple[Key, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class LinearConfig(TrainConfig):
    """Points of length 1, so `batch` is the number of points per batch."""

    family: str = "linear"
    points: int = 22
    batch: float = 4
    dropout: float = 0.2
    interrupt_at: int | None = None
    """Step that raises KeyboardInterrupt, as Ctrl-C would."""

    nan_at: int | None = None
    infinite_gradient_at: int | None = None
    figures: tuple[float, ...] = ()
    """What successive validations give; empty: the real error."""

    def build_task(self) -> LinearTask:
        return LinearTask(self)


class Points(Dataset[Point]):
    """Inputs and targets that follow from the key, with noise that differs from epoch to epoch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, key: Key) -> Point:
        epoch, index = key
        x = np.random.default_rng([self.seed, index]).standard_normal(INPUTS)
        y = x @ np.arange(1, INPUTS + 1) + 0.1 * np.random.default_rng([self.seed, epoch, index]).standard_normal()
        return key, torch.tensor(x, dtype=torch.float32), torch.tensor([y], dtype=torch.float32)


class LinearTask:
    """Implements `linnet.train.task.Task`."""

    built: LinearTask | None = None

    def __init__(self, config: LinearConfig) -> None:
        self.config, self.keys, self.validations = config, list[list[Key]](), 0
        self.validated: list[dict[str, Tensor]] = []
        LinearTask.built = self

    def build_model(self) -> nn.Module:
        self.model = nn.Sequential(nn.Linear(INPUTS, 8), nn.Dropout(self.config.dropout), nn.Linear(8, 1))
        return self.model

    def build_loader(self, split: Split) -> Loader:
        sampler = BucketBatchSampler(
            [1.0] * self.config.points,
            max_batch_s=self.config.batch,
            seed=self.config.seed,
            rank=int(os.environ.get("RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
        )
        return Loader(Points(self.config.seed), sampler, collate=collate, workers=self.config.workers)

    def step(self, model: nn.Module, batch: Any, step: int) -> StepOutput:
        keys, x, y = batch
        self.keys.append(keys)
        if step == self.config.interrupt_at:
            raise KeyboardInterrupt
        loss = nn.functional.mse_loss(model(x), y)
        if step == self.config.nan_at:
            loss = loss * float("nan")
        if step == self.config.infinite_gradient_at:
            loss = loss + torch.sqrt((model[0].weight * 0.0).sum())  # 0, with gradient 0 · ∞
        return StepOutput(loss, {"points": float(len(keys))})

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        self.validations += 1
        self.validated.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        if self.config.figures:
            return {"error": self.config.figures[self.validations - 1]}
        _, x, y = collate([Points(self.config.seed)[(0, index)] for index in range(self.config.points)])
        with torch.no_grad():
            return {"error": float(nn.functional.mse_loss(model(x), y))}

    def save_assets(self, folder: Path) -> None:
        (folder / "asset.txt").write_text("linear\n")


def collate(points: Sequence[Point]) -> tuple[list[Key], Tensor, Tensor]:
    keys, x, y = zip(*points, strict=True)
    return list(keys), torch.stack(x), torch.stack(y)


if __name__ == "__main__":
    run_dir, rank = Path(sys.argv[1]), os.environ["RANK"]
    config = LinearConfig(run_dir=run_dir, steps=6, warmup_steps=0, points=18, save_every=3, average_weights=0.9)
    fit(config)
    assert LinearTask.built is not None
    (run_dir / f"keys-{rank}.json").write_text(json.dumps(LinearTask.built.keys))
    save_file(dict(LinearTask.built.model.state_dict()), run_dir / f"weights-{rank}.safetensors")
    with suppress(KeyboardInterrupt):
        fit(replace(config, run_dir=run_dir / "interrupted", interrupt_at=4))
    fit(replace(config, run_dir=run_dir / "interrupted"), resume=True)
    save_file(dict(LinearTask.built.model.state_dict()), run_dir / f"resumed-{rank}.safetensors")
    leave_processes()
