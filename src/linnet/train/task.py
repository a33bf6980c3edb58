"""The contract between the training loop, which knows nothing of speech, and a family, which knows nothing of loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from linnet.data.batching import Loader
from linnet.train.config import TrainConfig

Split = Literal["train", "dev"]


@dataclass(frozen=True)
class StepOutput:
    """One training step: the loss to minimise (a scalar with gradient) and named numbers for the log."""

    loss: Tensor
    logs: dict[str, float] = field(default_factory=dict)
    weight: Tensor | None = None
    """How much this batch counts (masked frames, say): the gradient of an update is then the weighted mean over its
    micro-batches on all ranks. None: every batch counts the same."""


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


@runtime_checkable
class Monitored(Protocol):
    """A task that watches its run."""

    def check(self, step: int, figures: dict[str, float]) -> bool:
        """Called after every update with the means of its logs, `loss` and `grad_norm` over micro-batches and ranks.

        False keeps the state from being saved as the last good one. Raises TrainingError to stop the run.
        """
        ...


@runtime_checkable
class LayerwiseRates(Protocol):
    """A task whose parameters learn at different rates."""

    def lr_ratio(self, name: str) -> float:
        """Share of the learning rate for the parameter of this name."""
        ...
