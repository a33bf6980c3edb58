"""The contract between the training loop, which knows nothing of speech, and a family, which knows nothing of loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from linnet.data.batching import Loader
from linnet.train.config import TrainConfig

Split = Literal["train", "dev"]


@dataclass(frozen=True)
class StepOutput:
    """One training step: the loss to minimise (a scalar with gradient) and named numbers for the log."""

    loss: Tensor
    logs: dict[str, float] = field(default_factory=dict)


class Task(Protocol):
    """Everything a family brings to `fit`."""

    @property
    def config(self) -> TrainConfig: ...

    def build_model(self) -> nn.Module:
        """The network, with requires_grad set: what is trainable is what the optimiser gets and checkpoints hold."""
        ...

    def build_loader(self, split: Split) -> Loader:
        """Batches of one split; the loader is told epoch and first batch by the loop."""
        ...

    def step(self, model: nn.Module, batch: Any, step: int) -> StepOutput:
        """All family maths of one step."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Named figures; the first one selects the best checkpoint (lower is better)."""
        ...

    def save_assets(self, folder: Path) -> None:
        """Write what a run folder needs beside weights (tokenizer, vocabulary, shape) so that export can read it."""
        ...
