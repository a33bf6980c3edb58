"""wav2vec 2.0 training configurations: pretraining and CTC fine-tuning. Presets are in `models/presets.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.data.augment import NO_AUGMENT, AugmentConfig
from linnet.errors import ConfigError
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.train.config import TrainConfig

if TYPE_CHECKING:
    from linnet.train.task import Task


@dataclass(frozen=True, kw_only=True)
class Regularisation:
    """What disturbs the network in training; the defaults are none. Probabilities, except the lengths."""

    dropout: float = 0.0
    """After attention, feed-forward, positions."""
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    feature_dropout: float = 0.0
    """On the projected features."""
    final_dropout: float = 0.0
    """Before the CTC head."""
    target_dropout: float = 0.0
    """On the features that are quantised."""
    layer_drop: float = 0.0
    """Whole layers left out (Fan et al. 2019, arXiv:1909.11556)."""
    mask_time: float = 0.0
    """Share of frames under time masks in fine-tuning (before overlaps), as SpecAugment."""
    mask_time_length: int = 10
    mask_features: float = 0.0
    mask_features_length: int = 64


NO_REGULARISATION = Regularisation()


@dataclass(frozen=True, kw_only=True)
class CollapseLimits:
    """When pretraining counts as collapsed: one symptom in `patience` updates in a row."""

    patience: int = 200
    grace_steps: int = 200
    """Updates at the start in which nothing counts."""
    min_perplexity: float = 2.0
    """Of any codebook; 1 means that one entry takes everything."""
    max_negative_cosine: float = 0.99
    """Mean cosine of contexts with wrong targets; near 1 all targets look alike."""
    min_loss: float = 0.05
    """A contrastive loss below this with an accuracy below a half has nothing left to compare."""
    guess_margin: float = 0.01
    """Contrastive loss within this share of log(K + 1), guessing, after it has once been a tenth below."""
    min_grad_norm: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2PretrainConfig(TrainConfig):
    """Learn speech representations from unlabelled recordings."""

    family: Literal["wav2vec2"] = "wav2vec2"
    objective: Literal["pretraining"] = "pretraining"
    shape: Wav2Vec2Config = field(default_factory=Wav2Vec2Config)
    init_from: Path | None = None
    """Checkpoint folder (Wav2Vec2ForPreTraining, config.json and safetensors) or run folder to go on from."""

    train_manifests: tuple[Path, ...] = ()
    dev_manifests: tuple[Path, ...] = ()
    dev_utterances: int = 100
    min_duration_s: float = 1.0
    """Shorter clips are left out: their few masked frames have few wrong answers."""

    crop_s: float = 15.6
    """Longer clips are cut to this length, at a random place."""

    batch_audio_s: float = 87.5
    """Audio per batch and process, padding included."""

    mask_share: float = 0.65
    """Masked share before overlaps: share / length of the frames start a span."""

    mask_length: int = 10
    negatives: int = 100
    kappa: float = 0.1
    quantizer_std: float = 1.0
    """Initial standard deviation of the quantiser's weights. A small network whose first codes are too sure of
    themselves uses ever fewer of them (docs/log.md)."""

    diversity_weight: float = 0.1
    penalty_weight: float = 10.0
    feature_gradient: float = 0.1
    """Factor on the gradient of the feature encoder."""

    temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995)
    """Gumbel temperature: start, end, factor per update."""

    regularisation: Regularisation = field(
        default_factory=lambda: Regularisation(
            dropout=0.1, attention_dropout=0.1, feature_dropout=0.1, target_dropout=0.1, layer_drop=0.05
        )
    )
    collapse: CollapseLimits = field(default_factory=CollapseLimits)
    unused_parameters: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_share < 1 or self.mask_length < 1 or self.negatives < 1:
            raise ConfigError(
                "Pretraining needs 0 < mask_share < 1, mask_length ≥ 1 and negatives ≥ 1, got "
                f"{self.mask_share}, {self.mask_length} and {self.negatives}."
            )

    def build_task(self) -> Task:
        """The pretraining task (imports torch)."""
        from linnet.models.wav2vec2.pretraining_task import Wav2Vec2PretrainingTask

        return Wav2Vec2PretrainingTask(self)


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2CtcConfig(TrainConfig):
    """Fine-tune a pretrained network (or train a fresh one) to spell what is said, with CTC."""

    family: Literal["wav2vec2"] = "wav2vec2"
    objective: Literal["ctc"] = "ctc"
    shape: Wav2Vec2Config = field(default_factory=Wav2Vec2Config)
    """The network, if there is no `init_from`."""

    init_from: Path | None = None
    """Run folder of pretraining, or checkpoint folder (config.json and safetensors, with or without a CTC head)."""

    train_manifests: tuple[Path, ...] = ()
    dev_manifests: tuple[Path, ...] = ()
    dev_utterances: int = 200
    max_duration_s: float = 20.0
    batch_audio_s: float = 100.0
    min_character_count: int = 1
    """Rarer characters get no label; utterances that have them are left out and named in preflight.json."""

    max_left_out: float = 0.5
    """Share of the utterances that pre-flight may leave out before the run is refused."""

    freeze_feature_encoder: bool = True
    """Keep the convolutions as pretraining left them, throughout; a fresh network always trains them."""

    freeze_steps: int = 0
    """Updates in which only the head learns."""

    unfreeze_every: int = 0
    """After that, one more layer from the top joins every so many updates; 0: all at once."""

    layer_lr_decay: float = 1.0
    """Each layer learns at this share of the rate of the one above it."""

    head_lr_ratio: float = 1.0
    """Learning rate of the head, as a multiple."""

    regularisation: Regularisation = field(
        default_factory=lambda: Regularisation(
            dropout=0.1,
            activation_dropout=0.1,
            final_dropout=0.1,
            layer_drop=0.05,
            mask_time=0.65,
            mask_features=0.25,
        )
    )
    augment: AugmentConfig = NO_AUGMENT
    """Noise and reverberation on the samples; its other fields do not apply here."""

    unused_parameters: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_lr_decay <= 1 or self.head_lr_ratio <= 0:
            raise ConfigError(
                f"layer_lr_decay must lie in (0, 1] and head_lr_ratio above 0, got {self.layer_lr_decay} and "
                f"{self.head_lr_ratio}."
            )

    def frozen_layers(self, step: int, layers: int) -> int:
        """How many of `layers` transformer layers, from the bottom, keep still at `step`; positions go with them."""
        if step < self.freeze_steps:
            return layers
        if not self.unfreeze_every:
            return 0
        return max(0, layers - 1 - (step - self.freeze_steps) // self.unfreeze_every)

    def build_task(self) -> Task:
        """The fine-tuning task (imports torch)."""
        from linnet.models.wav2vec2.task import Wav2Vec2CtcTask

        return Wav2Vec2CtcTask(self)
