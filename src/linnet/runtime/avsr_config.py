"""The shape of an audio-visual recogniser and its vocabulary: what training, export and runtime must agree on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linnet.errors import BundleCorruptError, ConfigError
from linnet.features import FeatureSpec
from linnet.text import normalize

Fusion = Literal["simple", "weighted", "attention", "adaptive"]
FUSIONS: tuple[Fusion, ...] = ("simple", "weighted", "attention", "adaptive")
MAX_PARAMETERS = 5_000_000
CLOCK_HZ = 25.0
"""CTC steps, video frames and a quarter of the mel frames come at this rate. Speech has 12–16 letters a second."""
MEL_PER_STEP = 4


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of the CTC head, blank first; its size is the size of the head."""

    symbols: tuple[str, ...] = ("<blank>", " ", *"abcdefghijklmnopqrstuvwxyz", "'")

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def blank_id(self) -> int:
        """Index of the blank."""
        return 0

    def encode(self, text: str) -> list[int]:
        """Indices of the text as scoring sees it (lower case, no punctuation).

        Raises ConfigError naming the characters that the vocabulary lacks (digits, accents, other scripts).
        """
        index = {symbol: number for number, symbol in enumerate(self.symbols) if number != self.blank_id}
        plain = normalize(text, "en")
        if unknown := sorted(set(plain) - index.keys()):
            raise ConfigError(
                f"The transcript {text[:60]!r} has characters the vocabulary lacks: {' '.join(unknown)}; accepted: "
                "a–z, apostrophe, space. Spell numbers out and remove accents."
            )
        return [index[symbol] for symbol in plain]

    def decode(self, labels: Sequence[int]) -> str:
        """The text of labels without blanks."""
        return "".join(self.symbols[label] for label in labels)


@dataclass(frozen=True, kw_only=True)
class AVSRConfig:
    """Numbers of the network; presets keep it below MAX_PARAMETERS."""

    fusion: Fusion = "adaptive"
    n_mels: int = 40
    video_px: int = 32
    """Side of the mouth pictures; a multiple of 16."""
    audio_channels: tuple[int, int, int] = (16, 32, 48)
    video_channels: tuple[int, int, int] = (16, 32, 48)
    width: int = 128
    """Features per step, in both streams and after their fusion."""
    stream_blocks: int = 2
    """Temporal blocks of each stream before fusion."""
    joint_blocks: int = 3
    kernel: int = 9
    """Steps that a temporal block sees at once; odd."""
    attention_heads: int = 4

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ConfigError(f"Unknown fusion {self.fusion!r}; accepted: {', '.join(FUSIONS)}.")
        if self.video_px < 16 or self.video_px % 16:
            raise ConfigError(f"video_px must be a multiple of 16, got {self.video_px}; try 32, 48 or 64.")
        if self.n_mels % 8 or self.n_mels < 8:
            raise ConfigError(f"n_mels must be a multiple of 8, got {self.n_mels}; 40 is usual.")
        if self.kernel % 2 == 0 or self.kernel < 1 or self.width % self.attention_heads:
            raise ConfigError(
                f"kernel must be odd and width a multiple of attention_heads, got kernel={self.kernel}, "
                f"width={self.width}, attention_heads={self.attention_heads}."
            )

    @property
    def features(self) -> FeatureSpec:
        """The log-mel that the audio encoder reads."""
        return FeatureSpec(n_mels=self.n_mels)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        plain: dict[str, Any] = {**dataclasses.asdict(self)}
        return plain | {key: list(value) for key, value in plain.items() if isinstance(value, tuple)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AVSRConfig:
        """The configuration that `to_dict` wrote; raises TypeError or ConfigError for anything else."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


def steps(mel_frames: int, video_frames: int) -> int:
    """CTC steps of a clip: those of the longer stream."""
    return max(audio_steps(mel_frames), video_frames)


def audio_steps(mel_frames: int) -> int:
    """CTC steps of the sound alone: two convolutions of stride 2, both rounding up."""
    halved = (mel_frames + 1) // 2
    return (halved + 1) // 2


def attention_slopes(heads: int) -> npt.NDArray[np.float32]:
    """How fast each head's interest falls with distance in steps (ALiBi, Press et al. 2022): near to far sighted."""
    return (2.0 ** -np.linspace(0, 4, heads)).astype(np.float32)


def read_model(model: Mapping[str, Any]) -> tuple[AVSRConfig, Vocabulary]:
    """The `model` of a bundle's description; raises BundleCorruptError if it is not an audio-visual recogniser's."""
    try:
        return AVSRConfig.from_dict(model["shape"]), Vocabulary(tuple(model["vocabulary"]))
    except (KeyError, TypeError, AttributeError, ConfigError) as problem:
        raise BundleCorruptError(
            f"The bundle's description is not one of an audio-visual recogniser ({problem}). Export it again."
        ) from problem
