"""Muon for the matrices inside the layers, AdamW for all else, behind one optimiser.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) moves a matrix by the nearest orthogonal matrix to
its momentum. From scratch, nano's encoder needed half the audio to reach the same loss (docs/log.md); a step costs
more, so it pays where the data is small. `torch.optim.Muon` is the reference (tests/train/test_muon.py); ours differs
in arithmetic only: float32 and the smaller Gram matrix, which on a CPU without matrix units takes 0.4 of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from linnet.train.config import TrainConfig

MOMENTUM, ITERATIONS = 0.95, 5
QUINTIC = (3.4445, -4.775, 2.0315)  # of the Newton–Schulz iteration X ← (a + b·XXᵀ + c·(XXᵀ)²)·X


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for matrices, with updates scaled to AdamW's (Liu et al. 2025,
    arXiv:2502.16982), so that both take the same learning rate."""

    def __init__(
        self, matrices: list[nn.Parameter] | list[dict[str, Any]], *, lr: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not supported."""
        moved = [
            (matrix, group) for group in self.param_groups for matrix in group["params"] if matrix.grad is not None
        ]
        updates = orthogonalise_shared([self._momentum(matrix) for matrix, _ in moved])
        for (matrix, group), update in zip(moved, updates, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Nesterov's look ahead, after the momentum took the gradient in."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        momentum: Tensor = state["momentum_buffer"]
        momentum.lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(momentum, MOMENTUM)


def orthogonalise_shared(matrices: list[Tensor]) -> list[Tensor]:
    """`orthogonalise` of each; of several processes, which hold the same gradients, each does its share for all.

    An update of nano's matrices is a quarter of a training step on a CPU, and every process would repeat it.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1 or not matrices:
        return [orthogonalise(matrix) for matrix in matrices]
    everything = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
    parts = everything.split([matrix.numel() for matrix in matrices])
    for index in range(dist.get_rank(), len(matrices), dist.get_world_size()):
        parts[index].copy_(orthogonalise(matrices[index]).flatten())
    dist.all_reduce(everything)  # a sum with zeros: the very same numbers as without sharing
    return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]


def orthogonalise(matrix: Tensor) -> Tensor:
    """[m, n] with its singular values brought near 1 (0.7…1.2) by five Newton–Schulz steps.

    All steps are polynomials of the same Gram matrix XXᵀ, so the iteration runs on that one and on the product of its
    factors, both [min(m, n)]², and touches the long side only at its beginning and end.
    """
    a, b, c = QUINTIC
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide.float() / (wide.float().norm() + 1e-7)
    gram = x @ x.T
    diagonal = torch.eye(len(gram), device=x.device) * a
    factors = None
    for step in range(ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c) + diagonal
        factors = factor if factors is None else factor @ factors
        if step + 1 < ITERATIONS:
            gram = factor @ gram @ factor
    assert factors is not None
    x = factors @ x
    return (x.T if wide is not matrix else x).to(matrix.dtype)


class MuonWithAdamW(torch.optim.Optimizer):
    """`matrices` are those with two dimensions inside a list of layers; embeddings, heads and vectors take AdamW.

    `lr_ratio` gives each parameter, by its name, a share of the learning rate; the training loop applies it.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, lr_ratio: Callable[[str], float] | None = None) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [(name, parameter) for name, parameter in named if ".layers." in name and parameter.ndim == 2]
        chosen = {id(parameter) for _, parameter in matrices}
        others = [(name, parameter) for name, parameter in named if id(parameter) not in chosen]
        decayed = [(name, parameter) for name, parameter in others if parameter.ndim > 1]
        rest = [(name, parameter) for name, parameter in others if parameter.ndim <= 1]
        muon = Muon(_by_ratio(matrices, 5 * config.weight_decay, lr_ratio), lr=config.learning_rate)
        groups = [*_by_ratio(decayed, config.weight_decay, lr_ratio), *_by_ratio(rest, 0.0, lr_ratio)]
        adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.adam_betas, eps=1e-8, fused=True)
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        super().__init__([parameter for _, parameter in named], {})
        self._join()

    def _join(self) -> None:
        """The groups of both, the very same objects, so that a learning rate set here is theirs."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not supported."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states of both."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()


def _by_ratio(
    named: list[tuple[str, nn.Parameter]], weight_decay: float, lr_ratio: Callable[[str], float] | None
) -> list[dict[str, Any]]:
    """One group for each share of the learning rate; one group, which may be empty, if all have the whole."""
    if lr_ratio is None:
        return [{"params": [parameter for _, parameter in named], "weight_decay": weight_decay}]
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        groups.setdefault(lr_ratio(name), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay, "lr_ratio": ratio} for ratio, parameters in groups.items()
    ]
