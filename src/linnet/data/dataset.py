"""Training examples: one or several clips of one speaker, augmented with a randomness that follows from their key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from linnet.audio import SAMPLE_RATE_HZ
from linnet.data.augment import AugmentConfig, augment_mel, augment_samples
from linnet.data.batching import Key
from linnet.data.clips import Clips
from linnet.features import FeatureSpec, log_mel
from linnet.manifest import Utterance

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """What a model trains on: log-mel [n_mels, F], the words, and the language code."""

    mel: FloatArray
    text: str
    language: str | None
    context: str = ""
    """Hot words as a user might give them; some of them are said, some are not."""


@dataclass(frozen=True)
class Part:
    """One example before decoding: the clips that are played one after another."""

    clips: tuple[int, ...]
    duration_s: float


class SpeechDataset(Dataset[Example]):
    """Log-mel and text of (epoch, index) keys; `augment=None` gives the clips as they are.

    After `clean_epochs` epochs without any, augmentation grows evenly to its full strength over `ramp_epochs`.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        clips: Clips,
        parts: Sequence[Part],
        *,
        features: FeatureSpec,
        augment: AugmentConfig | None,
        seed: int,
        clean_epochs: int = 0,
        ramp_epochs: int = 0,
        context_probability: float = 0.0,
        gap_s: tuple[float, float] = (0.02, 0.25),
        min_duration_s: float = 0.5,
    ) -> None:
        self.utterances, self.clips, self.parts = utterances, clips, parts
        self.features, self.augment, self.seed = features, augment, seed
        self.clean_epochs, self.ramp_epochs = clean_epochs, ramp_epochs
        self.context_probability = context_probability
        self.gap_s, self.min_duration_s = gap_s, min_duration_s

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, key: Key) -> Example:
        epoch, index = key
        part, rng = self.parts[index], np.random.default_rng([self.seed, epoch, index])
        samples = self._samples(part, rng)
        augment = self.augment
        if augment and epoch < self.clean_epochs + self.ramp_epochs:
            augment = augment.weakened(max(0.0, (epoch - self.clean_epochs + 1) / (self.ramp_epochs + 1)))
        if augment:
            samples = augment_samples(samples, augment, rng, rate_hz=SAMPLE_RATE_HZ, pick_speech=self._pick_speech)
        mel = log_mel(samples, self.features)
        if augment:
            mel = augment_mel(mel, augment, rng)
        first = self.utterances[part.clips[0]]
        between = "" if first.language == "zh" else " "
        text = between.join(self.utterances[clip].text or "" for clip in part.clips)
        context = ""
        if self.context_probability and rng.random() < self.context_probability:
            context = self._hot_words(text, rng)
        return Example(mel, text, first.language, context)

    def _samples(self, part: Part, rng: np.random.Generator) -> FloatArray:
        pieces: list[FloatArray] = []
        for position, clip in enumerate(part.clips):
            if position:
                pieces.append(np.zeros(int(rng.uniform(*self.gap_s) * SAMPLE_RATE_HZ), dtype=np.float32))
            pieces.append(self.clips[clip])
        samples = np.concatenate(pieces)
        missing = int(self.min_duration_s * SAMPLE_RATE_HZ) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 else samples

    def _hot_words(self, text: str, rng: np.random.Generator) -> str:
        """One to five words of this text and of two others, in random order."""
        others = [self.utterances[int(rng.integers(len(self.utterances)))].text or "" for _ in range(2)]
        words = sorted({word for known in (text, *others) for word in known.lower().split()})
        chosen = rng.permutation(len(words))[: int(rng.integers(1, 6))]
        return " ".join(words[int(i)] for i in chosen)

    def _pick_speech(self, rng: np.random.Generator) -> FloatArray:
        return self.clips[int(rng.integers(len(self.clips)))]


def single_parts(clips: Clips) -> list[Part]:
    """One example per clip."""
    return [Part((index,), clips.duration_s(index)) for index in range(len(clips))]


def joined_parts(
    utterances: Sequence[Utterance], clips: Clips, *, corpus: str, count: int, most: int, seed: int
) -> list[Part]:
    """`count` examples of 2…`most` random clips of one speaker of `corpus`: digit strings from single digits, say."""
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for index, utterance in enumerate(utterances):
        if utterance.corpus == corpus:
            by_speaker[utterance.speaker or ""].append(index)
    speakers = sorted(by_speaker)
    if not speakers:
        return []
    rng = np.random.default_rng([seed, 0x701])
    parts = []
    for _ in range(count):
        pool = by_speaker[speakers[int(rng.integers(len(speakers)))]]
        chosen = tuple(int(pool[i]) for i in rng.integers(len(pool), size=int(rng.integers(2, most + 1))))
        parts.append(Part(chosen, sum(clips.duration_s(clip) for clip in chosen) + 0.14 * (len(chosen) - 1)))
    return parts
