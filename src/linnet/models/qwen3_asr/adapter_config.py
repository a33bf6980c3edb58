"""Configuration of adapter training: the frozen base, the adapter, the noise, the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.errors import ConfigError
from linnet.export.qwen3_asr_adapter import AdapterConfig
from linnet.train.config import TrainConfig

if TYPE_CHECKING:
    from linnet.train.task import Task


Bits = Literal[8, 4]
BITS: dict[str, Bits] = {"int8": 8, "int4": 4}
"""Bits of the layers' matrices, for backbones that are quantised (frozen.py)."""


def block_size(columns: int, bits: Bits) -> int:
    """How many weights of a row of `columns` share a scale: all, or 32 (a divisor of it where rows are no multiple)."""
    return columns if bits == 8 else math.gcd(32, columns)


@dataclass(frozen=True, kw_only=True)
class AdapterTrainConfig(TrainConfig):
    """Teach a frozen Qwen3-ASR recogniser to hear through noise with an adapter of a few megabytes."""

    family: Literal["qwen3_asr"] = "qwen3_asr"
    base: Path | None = None
    """The frozen recogniser: a checkpoint folder (official layout) or a run folder of `linnet train`."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    loss: Literal["feature", "ce", "both"] = "feature"
    """feature: the noisy clip's encoder output should be the clean clip's; needs neither decoder nor transcripts.
    ce: cross-entropy of the transcript through the frozen decoder. both: their sum."""

    backbone: Literal["bf16", "fp32", "int8", "int4"] = "bf16"
    """Type of the frozen weights. bf16 is how Qwen3-ASR is published; on a CPU without bf16 units fp32 is faster.
    int8, int4: the matrices of all layers in eight bits with a scale per row, or four with one per 32 weights;
    activations in bf16; not with mode lora."""

    text: Literal["written", "spoken"] = "written"
    """written: transcripts as the manifest has them, with case and punctuation, as Qwen3-ASR answers. spoken: lower
    case without punctuation, as the nano recipe learns them."""

    train_manifests: tuple[Path, ...] = ()
    dev_manifests: tuple[Path, ...] = ()
    corpora: tuple[str, ...] = ()
    """Only these corpora of the training manifests; empty: all."""

    noise_manifests: tuple[Path, ...] = ()
    """Recorded noises, beside the generated ones and babble."""

    noise_probability: float = 0.8
    snr_db: tuple[float, float] = (-5.0, 20.0)
    reverb_probability: float = 0.2
    rt60_s: tuple[float, float] = (0.2, 0.8)
    noise_seed: int = 0
    """Decides which noise a clip gets in which epoch; `seed` decides the rest, so runs of other seeds share a cache."""

    cached_variants: int = 0
    """Compute what lies below the first adapter once, for so many noisy variants of every clip, and train from disk;
    0 draws new noise at every step."""

    batch_audio_s: float = 30.0
    max_duration_s: float = 20.0
    dev_utterances: int = 100
    memory_gb: float | None = None
    """Refuse to start if the plan (`--plan`) needs more than this (10⁹ bytes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        decoder_sites = [site for site in self.adapter.sites if site.startswith("decoder.")]
        if decoder_sites and self.loss != "ce":
            raise ConfigError(
                f"The feature loss compares encoder outputs, which {decoder_sites[0]} does not reach; use --loss ce."
            )
        if self.backbone in BITS and self.adapter.mode == "lora":
            raise ConfigError(
                f"A low-rank update needs weights in bf16 or fp32, got {self.backbone}; use --backbone bf16."
            )
        if self.cached_variants < 0:
            raise ConfigError(f"cached_variants must be 0 (off) or more, got {self.cached_variants}.")
        for name in ("noise_probability", "reverb_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in 0…1, got {getattr(self, name)}.")

    def build_task(self) -> Task:
        """The training task (imports torch). Raises ConfigError if the plan exceeds `memory_gb`."""
        from linnet.models.qwen3_asr.adapter_task import AdapterTask
        from linnet.models.qwen3_asr.memory import check_budget

        check_budget(self)
        return AdapterTask(self)

    def plan(self) -> str:
        """What training will take in memory, as a table (`linnet train … --plan`)."""
        from linnet.models.qwen3_asr.memory import plan_text

        return plan_text(self)
