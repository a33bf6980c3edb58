"""What every training run needs to know; families extend it with their own fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.errors import ConfigError

if TYPE_CHECKING:
    from linnet.train.task import Task


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Recipe of one run; every resolved value is written to the run folder's config.json."""

    family: str
    summary: str = ""
    """What this preset is for, in one line."""

    run_dir: Path = Path("runs/unnamed")
    seed: int = 0
    steps: int = 1000
    """Optimiser updates in all; the schedule ends here."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the matrices of the layers, AdamW for all else (train/muon.py)."""

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: Literal["cosine", "linear", "tri_stage", "constant"] = "cosine"
    final_lr_ratio: float = 0.01
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.98)
    clip_grad_norm: float = 1.0
    accumulation_steps: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    unused_parameters: bool = False
    """Whether some updates leave parameters without a gradient (frozen for a time, layers dropped): several processes
    have to be told."""

    average_weights: float = 0.0
    """Decay of an exponential moving average of the weights, used for validation and export; 0 turns it off."""

    patience: int = 0
    """Stop after this many validations in a row without a better one; 0 trains to the last step."""

    plateau_lr_ratio: float = 1.0
    """Factor on the learning rate after every validation that was no better, on top of the schedule; 1 is none."""

    log_every: int = 20
    validate_every: int = 500
    save_every: int = 500
    workers: int = 0
    """Data loading processes; 0 loads in the training process."""

    threads: int | None = None
    """CPU threads of torch; None leaves torch's choice."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation_steps", "log_every", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(f"warmup_steps must lie in 0…steps ({self.steps}), got {self.warmup_steps}.")
        if self.schedule == "tri_stage" and self.final_lr_ratio <= 0:
            raise ConfigError(
                f"tri_stage decays exponentially; final_lr_ratio must be above 0, got {self.final_lr_ratio}."
            )
        if self.patience < 0 or not 0 < self.plateau_lr_ratio <= 1:
            raise ConfigError(
                "patience must be 0 or more and plateau_lr_ratio lie in (0, 1], got "
                f"{self.patience} and {self.plateau_lr_ratio}."
            )
        if not 0 <= self.average_weights < 1:
            raise ConfigError(f"average_weights must lie in [0, 1), got {self.average_weights}.")

    def plan(self) -> str:
        """What a run will take in memory, as text for `--plan`; ConfigError for families that cannot tell."""
        raise ConfigError(f"There is no memory plan for {self.family}; adapters have one (qwen3-asr-adapter).")

    def build_task(self) -> Task:
        """The task that trains this configuration; families implement it with a lazy torch import."""
        raise NotImplementedError(f"{type(self).__name__} does not define build_task().")
