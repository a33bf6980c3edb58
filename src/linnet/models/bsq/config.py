"""BSQ training configuration: shape, data, losses. Presets are in `models/presets.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.data.augment import NO_AUGMENT, AugmentConfig
from linnet.errors import ConfigError
from linnet.runtime.bsq_config import BSQConfig
from linnet.train.config import TrainConfig

if TYPE_CHECKING:
    from linnet.train.task import Task


@dataclass(frozen=True, kw_only=True)
class BSQTrainConfig(TrainConfig):
    """Train an audio tokenizer on recordings; texts are not needed."""

    family: Literal["bsq"] = "bsq"
    shape: BSQConfig = field(default_factory=BSQConfig)
    train_manifests: tuple[Path, ...] = ()
    dev_manifests: tuple[Path, ...] = ()
    corpora: dict[str, float] = field(default_factory=dict)
    """How often one epoch draws each recording of a corpus. Empty: every recording once. A corpus that is not named is
    left out, so that nothing with an unclear licence slips into a model that ships."""

    crop_s: float = 2.5
    """Longest stretch of a recording in a batch, drawn anew every epoch."""

    batch_audio_s: float = 40.0
    gain_db: tuple[float, float] = (-9.0, 6.0)
    """Random level of a clip, input and target alike."""

    augment: AugmentConfig = NO_AUGMENT
    """What is done to the input alone: noise, reverberation, masks. The target stays clean; speed, vocal-tract and gain
    factors have to be neutral, since the target does not follow them."""

    hidden_ratio: float = 0.0
    """Masked autoencoder: share of tokens the encoder does not see. The loss then counts these alone."""

    group_size: int = 9
    """Bits per group in the bound on the codebook's entropy."""

    entropy: Literal["group", "analytical"] = "group"
    commitment_weight: float = 0.25
    entropy_weight: float = 0.1
    inverse_temperature: float = 1.0
    stft_weight: float = 0.3
    wave_mel_weight: float = 0.3
    """Weights of the losses on the waveform, beside 1 for L1 of the normalised log-mel."""

    dev_utterances: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        neutral = AugmentConfig(speed=(1.0, 1.0), vocal_tract=(1.0, 1.0), gain_db=(0.0, 0.0))
        for name in ("speed", "vocal_tract", "gain_db"):
            if getattr(self.augment, name) != getattr(neutral, name):
                raise ConfigError(
                    f"augment.{name} would change the input and not the target, got {getattr(self.augment, name)}; "
                    f"accepted: {getattr(neutral, name)}. The level of both is set by gain_db."
                )
        if not 0 <= self.hidden_ratio < 1:
            raise ConfigError(f"hidden_ratio must lie in [0, 1), got {self.hidden_ratio}.")
        if self.shape.bits % self.group_size:
            raise ConfigError(f"bits must be a multiple of group_size, got {self.shape.bits} and {self.group_size}.")

    def build_task(self) -> Task:
        """The training task (imports torch)."""
        from linnet.models.bsq.task import BSQTask

        return BSQTask(self)
