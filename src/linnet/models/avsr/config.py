"""Training an audio-visual recogniser: the network's shape, the data, the recipe. Presets: `models/presets.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.data.augment import AugmentConfig
from linnet.errors import ConfigError
from linnet.runtime.avsr_config import AVSRConfig
from linnet.train.config import TrainConfig

if TYPE_CHECKING:
    from linnet.train.task import Task

# Sound is disturbed often and strongly: only then is there something to gain from looking.
AV_AUGMENT = AugmentConfig(
    noise_probability=0.7,
    snr_db=(-10.0, 20.0),
    reverb_probability=0.1,
    speed=(0.9, 1.1),
    vocal_tract=(0.9, 1.1),
    freq_mask_bands=6,
    time_mask_ratio=0.06,
)


@dataclass(frozen=True, kw_only=True)
class AVSRTrainConfig(TrainConfig):
    """Train an audio-visual recogniser on manifests with audio_filepath, video_filepath and text."""

    family: Literal["avsr"] = "avsr"
    shape: AVSRConfig = field(default_factory=AVSRConfig)
    init_from: Path | None = None
    """Run folder of the same shape to start from, for example to fine-tune a model of synthetic mouths."""

    train_manifests: tuple[Path, ...] = ()
    dev_manifests: tuple[Path, ...] = ()
    augment: AugmentConfig = field(default_factory=lambda: AV_AUGMENT)
    augment_video: bool = True
    """Shift, mirror, contrast and a hidden stretch (`data/av_dataset.py`)."""

    ramp_epochs: int = 0
    """Epochs over which augmentation grows to its full strength: letters are found sooner in clean speech."""

    drop_audio: float = 0.25
    """Share of clips that train without sound (modality dropout); 1 trains a lip reader."""

    drop_video: float = 0.25
    """Share of clips that train without pictures; 1 trains a recogniser of sound."""

    stream_ctc_weight: float = 0.3
    """Weight of the CTC loss of each stream alone, so that lips are not forgotten while sound is easier."""

    crop: Literal["auto", "face", "mouth"] = "auto"
    """What the videos show; auto takes small ones for mouths (`lips.py`)."""

    grammar: Literal["none", "grid"] = "none"
    """Sentences the exported bundle may answer: any, or those of the GRID corpus."""

    batch_audio_s: float = 40.0
    """Seconds of clips per batch, padding included."""

    max_duration_s: float = 20.0
    dev_utterances: int = 200
    dev_snr_db: float | None = 0.0
    """Validation mixes babble at this level under every second clip, so that "best" means good in noise too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.drop_audio <= 1 and 0 <= self.drop_video <= 1 and self.drop_audio + self.drop_video <= 1):
            raise ConfigError(
                "drop_audio and drop_video are shares of clips that lose one stream, so together at most 1; got "
                f"{self.drop_audio} and {self.drop_video}."
            )

    def build_task(self) -> Task:
        """The training task (imports torch)."""
        from linnet.models.avsr.task import AVSRTask

        return AVSRTask(self)
