"""Qwen3-ASR training configuration: the network's shape, the data, the recipe. Presets are in `models/presets.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.data.augment import AugmentConfig
from linnet.errors import ConfigError
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig
from linnet.train.config import TrainConfig

if TYPE_CHECKING:
    from linnet.train.task import Task

# Positions restart with every chunk. The published models use chunks of 1 s inside attention windows of 8 s, so that
# eight tokens of a window share each position; from a few hours of speech that cannot be learned (docs/log.md). One
# chunk per window keeps positions unique.
NANO_SHAPE = Qwen3ASRConfig(
    chunk_frames=800,
    window_tokens=100,
    conv_channels=32,
    d_model=192,
    encoder_layers=6,
    encoder_heads=4,
    encoder_ffn_dim=768,
    output_dim=192,
    vocab_size=768,  # the tokenizer may come out smaller; the rest stays unused
    hidden_size=192,
    decoder_layers=3,
    decoder_heads=3,
    decoder_kv_heads=1,
    head_dim=64,
    intermediate_size=512,
    audio_token_id=0,  # special-token ids are filled in from the trained tokenizer
    audio_start_token_id=0,
    audio_end_token_id=0,
    eos_token_ids=(0,),
    beam_size=4,
)


@dataclass(frozen=True, kw_only=True)
class Qwen3ASRTrainConfig(TrainConfig):
    """Train or fine-tune a Qwen3-ASR recogniser on manifests of audio and text."""

    family: Literal["qwen3_asr"] = "qwen3_asr"
    shape: Qwen3ASRConfig = NANO_SHAPE
    init_from: Path | None = None
    """Checkpoint folder (official layout) to start from; its shape and tokenizer replace `shape`."""

    added_decoder_layers: int = 0
    """Decoder layers to put behind those of `init_from`. They begin as identity, so nothing that was learned is lost
    (Net2Net: Chen et al. 2016, arXiv:1511.05641)."""

    train_manifests: tuple[Path, ...] = ()
    dev_manifests: tuple[Path, ...] = ()
    corpora: dict[str, float] = field(default_factory=dict)
    """How often one epoch draws each utterance of a corpus (0.3: three in ten). Empty: every utterance once.
    A corpus that is not named is left out, so that nothing with an unclear licence slips into a model that ships."""

    joined: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Corpus → (count, most): add `count` examples of 2…`most` clips of one speaker in a row, e.g. digit strings."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch_audio_s: float = 200.0
    """Audio per batch (padding included); the number of clips follows from their length."""

    prompt_cost_s: float = 1.0
    """What the prompt and answer of one clip cost, counted as seconds of audio when batches are filled."""

    max_duration_s: float = 20.0
    ctc_weight: float = 0.3
    """Share of the auxiliary CTC loss on the encoder; it teaches alignment long before the decoder can."""

    token_ctc_weight: float = 0.0
    """Weight of a CTC loss on the text's tokens through the tied embedding table: the audio then looks like words to
    the decoder, which finds its alignment sooner."""

    lexicon: Path | None = None
    """Table of words and phonemes (`linnet.data.corpora.lexicon`): CTC then hears sounds instead of letters."""

    encoder_warmup_steps: int = 0
    """Updates in which the encoder learns from CTC alone, without running the decoder. From scratch, the decoder would
    learn a language model that ignores the sound, and its gradient would hold the encoder back (docs/log.md)."""

    clean_epochs: int = 0
    ramp_epochs: int = 0
    """Augmentation begins after `clean_epochs` and grows to its full strength over `ramp_epochs`: alignment is learned
    sooner from clean speech."""

    context_probability: float = 0.0
    """Share of clips whose prompt carries hot words, so that a context is no surprise and not a transcript either."""

    drop_path: float = 0.1
    """Stochastic depth: share of residual branches left out per clip."""

    history_noise: float = 0.0
    """Share of the answer's tokens that the decoder reads wrongly while it predicts the next: what came before is then
    a bad guide, and the sound a better one (word dropout: Bowman et al. 2016, arXiv:1511.06349)."""

    label_smoothing: float = 0.1
    attention: Literal["windowed", "full"] = "windowed"
    dev_utterances: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.added_decoder_layers < 0 or (self.added_decoder_layers and not self.init_from):
            raise ConfigError(
                f"added_decoder_layers is {self.added_decoder_layers}; accepted: 0, or more beside a checkpoint in "
                "init_from that they are added to. From scratch, set the shape's decoder_layers instead."
            )

    def build_task(self) -> Task:
        """The training task (imports torch)."""
        from linnet.models.qwen3_asr.task import Qwen3ASRTask

        return Qwen3ASRTask(self)
