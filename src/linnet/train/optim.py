"""AdamW with the usual two groups (or Muon), and the learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from linnet.errors import TrainingError
from linnet.train.config import TrainConfig
from linnet.train.muon import MuonWithAdamW


def build_optimizer(
    model: nn.Module, config: TrainConfig, lr_ratio: Callable[[str], float] | None = None
) -> torch.optim.Optimizer:
    """The configured optimiser over the trainable parameters; no weight decay on vectors (biases, norms).

    `lr_ratio` gives each parameter, by its name, a share of the learning rate; the loop applies it (1.0 by default).
    Raises TrainingError if nothing is trainable.
    """
    if config.optimizer == "muon":
        return MuonWithAdamW(model, config, lr_ratio)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            ratio = lr_ratio(name) if lr_ratio else 1.0
            for decayed in (True, False):  # both, and in this order, so that a checkpoint's groups stay what they were
                groups.setdefault((ratio, decayed), [])
            groups[ratio, parameter.ndim > 1].append(parameter)
    if not groups:
        raise TrainingError("No parameter is trainable; unfreeze a part of the model before training.")
    described = [
        {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0}
        | ({"lr_ratio": ratio} if lr_ratio else {})
        for (ratio, decayed), parameters in groups.items()
    ]
    return torch.optim.AdamW(described, lr=config.learning_rate, betas=config.adam_betas, eps=1e-8, fused=True)


def lr_scale(step: int, config: TrainConfig) -> float:
    """Multiplier of the learning rate at `step` (0-based): linear warm-up, then the chosen decay.

    `tri_stage` (Park et al. 2019): warm-up, hold for 40 % of the run, exponential decay to `final_lr_ratio`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    done, floor = min(done, 1.0), config.final_lr_ratio
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return floor + (1 - floor) * (1 - done)
        case "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        case "tri_stage":
            hold = 0.4 * config.steps / max(1, config.steps - config.warmup_steps)
            return 1.0 if done < hold else math.exp(math.log(floor) * (done - hold) / max(1e-9, 1 - hold))


class WeightAverage:
    """Exponential moving average of the trainable weights, warmed up as (1 + n) / (10 + n) (Polyak averaging)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def to(self, device: torch.device) -> None:
        """Follow the model to its device."""
        self.weights = {name: weight.to(device) for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.weights.values()), [live[name].detach() for name in self.weights], 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange averaged and live weights; call it again to undo."""
        for name, parameter in model.named_parameters():
            if name in self.weights:
                live = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name] = live
