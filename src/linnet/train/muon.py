"""Muon for the matrices inside the layers, AdamW for all else, behind one optimiser.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; torch.optim.Muon) moves a matrix by the nearest
orthogonal matrix to its momentum. From scratch, nano's encoder needed half the audio to reach the same loss
(docs/log.md); a step costs more, so it pays where the data is small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from linnet.train.config import TrainConfig


class MuonWithAdamW(torch.optim.Optimizer):
    """`matrices` are those with two dimensions inside a list of layers; embeddings, heads and vectors take AdamW."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [parameter for name, parameter in named if ".layers." in name and parameter.ndim == 2]
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for _, parameter in named if id(parameter) not in chosen]
        groups = [
            {"params": [parameter for parameter in others if parameter.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [parameter for parameter in others if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        # The scale of its updates is matched to AdamW's, so both take the same learning rate.
        muon = torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=5 * config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.adam_betas, eps=1e-8, fused=True)
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        super().__init__(matrices + others, {})
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
