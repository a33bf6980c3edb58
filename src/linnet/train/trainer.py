"""The training loop: seed → place → resume → loop → log → validate → save. It knows nothing about speech.

One process or many (`torchrun`, `accelerate launch`): every rank draws its own batches from the same seeded sampler.
Resuming is bit-identical to not having stopped, in the same environment (tested).
"""

from __future__ import annotations

import math
import random
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, send_to_device, set_seed
from torch import Tensor, nn

from linnet.errors import TrainingError
from linnet.train.config import TrainConfig
from linnet.train.optim import WeightAverage, build_optimizer, lr_scale
from linnet.train.progress import progress_bar
from linnet.train.run_folder import RunFolder, trainable_weights
from linnet.train.task import LayerwiseRates, Monitored, StepOutput


def fit(config: TrainConfig, *, resume: bool = False, quiet: bool = False) -> RunFolder:
    """Train `config` to its last step, or until validations stop improving (`patience`), and return the run folder.

    Raises ConfigError if the folder holds a run and `resume` is False; TrainingError on a non-finite loss, naming the
    last good checkpoint.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    set_seed(config.seed)
    # Accelerate sees the processes of `torchrun` on a machine without accelerator only if told to use the CPU.
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.unused_parameters)],
    )
    run = RunFolder(config.run_dir)
    task = config.build_task()
    model = task.build_model()
    optimizer = build_optimizer(model, config, task.lr_ratio if isinstance(task, LayerwiseRates) else None)
    average = WeightAverage(model, config.average_weights) if config.average_weights else None
    loader = task.build_loader("train")
    state: dict[str, Any] = {"step": 0, "epoch": 0, "batch": 0, "best": math.inf}
    if accelerator.is_main_process:
        run.start(config, resume=resume)
        task.save_assets(run.path)
    if resume:  # from the start if it was interrupted before the first checkpoint
        if run.has("last"):
            weights, state = run.load("last")
            _restore(model, optimizer, average, weights, state, rank=accelerator.process_index)
        if accelerator.is_main_process:
            run.trim_log(state["step"])
    model, optimizer = accelerator.prepare(model, optimizer)
    if average:
        average.to(accelerator.device)
    loop = _Loop(config, task, model, optimizer, average, accelerator, run, state)
    with progress_bar(config.steps, state["step"], quiet=quiet or not accelerator.is_main_process) as show:
        while not loop.finished:
            for batch in loader.epoch(loop.epoch, loop.batch):
                loop.advance(batch, show)
                if loop.finished:
                    break
            else:
                loop.epoch, loop.batch = loop.epoch + 1, 0
    return run


def leave_processes() -> None:
    """At the end of a program that trained on several processes: one that exits with gloo's threads alive may abort."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


class _Loop:
    """The state of a run between two batches; what `save` writes is all that `fit` needs to go on."""

    def __init__(
        self,
        config: TrainConfig,
        task: Any,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        accelerator: Accelerator,
        run: RunFolder,
        state: dict[str, Any],
    ) -> None:
        self.config, self.task, self.model, self.optimizer = config, task, model, optimizer
        self.average, self.accelerator, self.run = average, accelerator, run
        self.step, self.epoch, self.batch, self.best = state["step"], state["epoch"], state["batch"], state["best"]
        self.stale, self.lr_ratio = state.get("stale", 0), state.get("lr_ratio", 1.0)
        self.micro_step = 0
        self.weight: Tensor | None = None  # of the micro-batches since the last update
        self.update_sums: dict[str, float] = {}
        # What has been added up since the last log line, which need not be where the checkpoint is.
        self.sums: dict[str, float] = dict(state.get("sums", {}))
        self.counted, self.since = state.get("counted", 0), time.perf_counter()

    @property
    def finished(self) -> bool:
        """Whether the last step was taken or no better validation is expected."""
        return self.step >= self.config.steps or 0 < self.config.patience <= self.stale

    def advance(self, batch: Any, show: Any) -> None:
        """One micro-batch; an optimiser update when enough of them are accumulated."""
        self.batch += 1
        self.micro_step += 1
        update = self.micro_step % self.config.accumulation_steps == 0
        self.model.train()
        batch = send_to_device(batch, self.accelerator.device)
        with self.accelerator.autocast():
            output = self.task.step(self.model, batch, self.step)
        loss = float(output.loss.detach())
        self._check_finite("loss", loss)
        self._backward(output)
        figures = {"loss": loss, **output.logs}
        self._count(figures)
        for name, value in figures.items():
            self.update_sums[name] = self.update_sums.get(name, 0.0) + value
        if not update:
            return
        self._normalise()
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm))
        if self.config.precision != "fp16":  # there the loss scaler skips such an update and lowers its scale
            self._check_finite("gradient", norm)
        rate = self.config.learning_rate * lr_scale(self.step, self.config) * self.lr_ratio
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_ratio", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.accelerator.unwrap_model(self.model))
        self.step += 1
        self._count({"grad_norm": norm})
        healthy = self._check({"grad_norm": norm})
        last = self.step >= self.config.steps
        show(self.step, loss)
        if self.step % self.config.log_every == 0 or last:
            self._log(rate)
        if self.step % self.config.validate_every == 0 or last:
            self._validate()
        if (healthy and self.step % self.config.save_every == 0) or self.finished:
            self._save("last")

    def _backward(self, output: StepOutput) -> None:
        if output.weight is None:
            self.accelerator.backward(output.loss / self.config.accumulation_steps)
            return
        weight = output.weight.detach().to(output.loss)
        self.accelerator.backward(output.loss * weight)
        self.weight = weight if self.weight is None else self.weight + weight

    def _normalise(self) -> None:
        """Make sums over weighted batches a mean; several processes have averaged their sums."""
        if self.weight is None:
            return
        total = self.accelerator.reduce(self.weight, reduction="sum")
        factor = self.accelerator.num_processes / total.clamp(min=1e-6)
        torch._foreach_mul_([p.grad for p in self.model.parameters() if p.grad is not None], factor)
        self.weight = None

    def _check(self, more: dict[str, float]) -> bool:
        """What the task thinks of the update."""
        sums, self.update_sums = self.update_sums, {}
        if not isinstance(self.task, Monitored):
            return True
        figures = {name: total / self.config.accumulation_steps for name, total in sums.items()} | more
        values = torch.tensor(list(figures.values()), device=self.accelerator.device)
        means = self.accelerator.reduce(values, reduction="mean").tolist()
        return self.task.check(self.step, dict(zip(figures, means, strict=True)))

    def _check_finite(self, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        last = self.run.path / "checkpoints" / "last"
        where = f"The last good checkpoint is {last}; resume" if self.run.has("last") else "No checkpoint yet; restart"
        raise TrainingError(
            f"The {name} became {value} at step {self.step}. {where} with a lower learning rate, or find the bad "
            "utterance."
        )

    def _count(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += "loss" in values

    def _log(self, rate: float) -> None:
        seconds = time.perf_counter() - self.since
        updates = max(1, self.counted // self.config.accumulation_steps)
        means = {name: total / (updates if name == "grad_norm" else self.counted) for name, total in self.sums.items()}
        if self.accelerator.is_main_process:
            record = {
                "step": self.step,
                "epoch": self.epoch,
                "learning_rate": rate,
                **means,
                "step_s": seconds / updates,
            }
            self.run.log(record)
        self.sums, self.counted, self.since = {}, 0, time.perf_counter()

    def _validate(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if self.average:
            self.average.swap(model)
        model.eval()
        started = time.perf_counter()
        figures = self.task.validate(model)
        if self.accelerator.is_main_process:
            named = {f"dev_{name}": value for name, value in figures.items()}
            self.run.log({"step": self.step, "epoch": self.epoch, **named, "dev_s": time.perf_counter() - started})
        first = next(iter(figures.values()), math.inf)
        if first < self.best:
            self.stale = 0
        elif figures:
            self.stale, self.lr_ratio = self.stale + 1, self.lr_ratio * self.config.plateau_lr_ratio
        if first <= self.best:
            self.best = first
            self._save("best", live=False)
        if self.average:
            self.average.swap(model)
        self.since = time.perf_counter()

    def _save(self, name: str, *, live: bool = True) -> None:
        """`last` holds the live weights and the average; `best` holds the weights that were validated."""
        rng = gather_object([_random_state()]) if live else []  # every rank draws its own dropout
        if not self.accelerator.is_main_process:
            return
        model = self.accelerator.unwrap_model(self.model)
        state: dict[str, Any] = {"step": self.step, "epoch": self.epoch, "batch": self.batch, "best": self.best}
        if live:
            state |= {
                "stale": self.stale,
                "lr_ratio": self.lr_ratio,
                "sums": self.sums,
                "counted": self.counted,
                "optimizer": self.optimizer.state_dict(),
                "average": {"updates": self.average.updates, "weights": self.average.weights} if self.average else None,
                "rng": rng,
            }
        self.run.save(name, trainable_weights(model), state)


def _restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    *,
    rank: int,
) -> None:
    model.load_state_dict(weights, strict=False)
    missing = trainable_weights(model).keys() - weights.keys()
    if missing:
        raise TrainingError(
            f"The checkpoint lacks {len(missing)} tensors of the model, first {sorted(missing)[:3]}. Resume with the "
            "configuration that the run was started with, or choose another --run-dir."
        )
    optimizer.load_state_dict(state["optimizer"])
    if average and state["average"]:
        average.updates, average.weights = state["average"]["updates"], dict(state["average"]["weights"])
    # With more processes than before, a resumed run is a valid one, but not the one it would have been.
    rng = state["rng"][rank % len(state["rng"])]
    torch.set_rng_state(rng["torch"])
    if torch.cuda.is_available() and rng["cuda"]:
        torch.cuda.set_rng_state_all(rng["cuda"])
    version, internal, gauss = rng["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = rng["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def _random_state() -> dict[str, Any]:
    """The state of every generator of this process."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": _plain(random.getstate()),
        "numpy": _plain(np.random.get_state()),
    }


def _plain(state: Any) -> Any:
    """RNG states as nested lists, which load with weights_only=True."""
    if isinstance(state, tuple | list):
        return [_plain(item) for item in state]
    return state.tolist() if isinstance(state, np.ndarray) else state
