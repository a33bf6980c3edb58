"""Which noise is laid under which utterance of an evaluation: a function of seed and utterance, nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from linnet import noise as noises
from linnet.audio import FloatArray, read_audio, stream_audio
from linnet.errors import AudioError, ConfigError, MissingExtraError
from linnet.manifest import Utterance, read_manifest

KINDS = ("white", "pink", "brown", "hum", "babble")
BABBLE_VOICES = 6
_VOICE_S = 30.0  # of each voice at most; shorter ones are looped


@dataclass(frozen=True)
class NoiseSource:
    """Gives the noise for an utterance; the same one however often it is asked."""

    name: str
    seed: int
    make: Callable[[Utterance, int, np.random.Generator], FloatArray]

    def noise_for(self, utterance: Utterance, n_samples: int) -> FloatArray:
        """Noise of any length and level for an utterance of `n_samples`; AudioError if a noise cannot be read."""
        return self.make(utterance, n_samples, self.generator(utterance, "noise"))

    def generator(self, utterance: Utterance, purpose: str) -> np.random.Generator:
        """A random generator that depends on the seed, the utterance's id and the purpose."""
        return generator(self.seed, utterance, purpose)


def generator(seed: int, utterance: Utterance, purpose: str) -> np.random.Generator:
    """A random generator that depends on the seed, the utterance's id and the purpose."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{utterance.id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def make_source(noise: str | Path, utterances: Sequence[Utterance], *, rate_hz: int, seed: int) -> NoiseSource:
    """The source for one of KINDS, or for the path of a manifest of noises; `utterances` are the voices of babble."""
    kind = str(noise)
    if kind == "babble":
        if len({utterance.audio_path for utterance in utterances}) < 4:
            raise ConfigError("Babble needs at least 3 other utterances in the manifest; use pink noise, or add some.")
        return NoiseSource(kind, seed, partial(_babble, utterances, rate_hz))
    if kind in KINDS:
        return NoiseSource(kind, seed, partial(_generated, kind, rate_hz))
    if not Path(kind).exists():
        raise ConfigError(f"There is no noise {kind!r}; accepted: {', '.join(KINDS)}, or the path of a manifest.")
    recordings = [utterance.audio_path for utterance in read_manifest(kind)]
    return NoiseSource(Path(kind).stem, seed, partial(_recorded, recordings, rate_hz))


def generate(kind: str, n_samples: int, *, rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Noise [N] of one of KINDS that needs no voices (all but babble), −20 dBFS."""
    if kind == "white":
        return noises.white(n_samples, rng=rng)
    make = {"pink": noises.pink, "brown": noises.brown, "hum": noises.hum}[kind]
    return make(n_samples, rate_hz=rate_hz, rng=rng)


def _generated(kind: str, rate_hz: int, _: Utterance, n_samples: int, rng: np.random.Generator) -> FloatArray:
    return generate(kind, n_samples, rate_hz=rate_hz, rng=rng)


def _recorded(
    recordings: list[Path], rate_hz: int, _: Utterance, n_samples: int, rng: np.random.Generator
) -> FloatArray:
    return _read_noise(recordings[int(rng.integers(len(recordings)))], rate_hz)


@lru_cache(maxsize=32)
def _read_noise(path: Path, rate_hz: int) -> FloatArray:
    return read_audio(path, sample_rate_hz=rate_hz)


def _babble(
    utterances: Sequence[Utterance], rate_hz: int, target: Utterance, n_samples: int, rng: np.random.Generator
) -> FloatArray:
    voices: list[FloatArray] = []
    for candidate in _candidates(utterances, target, rng):
        voice = _voice(candidate, rate_hz)
        if voice is not None:
            voices.append(voice)
        if len(voices) == BABBLE_VOICES:
            break
    return noises.babble(voices, n_samples, rate_hz=rate_hz, rng=rng)


def _candidates(utterances: Sequence[Utterance], target: Utterance, rng: np.random.Generator) -> list[Utterance]:
    """All other utterances in random order: first one of each other speaker, then the rest of other speakers."""
    shuffled = [utterances[index] for index in rng.permutation(len(utterances))]
    heard: set[str] = set()
    ranked: list[tuple[int, Utterance]] = []
    paths = {target.audio_path}
    for utterance in shuffled:
        if utterance.audio_path in paths:
            continue
        paths.add(utterance.audio_path)
        speaker = utterance.speaker or f"unknown speaker of {utterance.audio_path}"
        rank = 2 if speaker == target.speaker else 1 if speaker in heard else 0
        heard.add(speaker)
        ranked.append((rank, utterance))
    return [utterance for _, utterance in sorted(ranked, key=lambda pair: pair[0])]


def _voice(utterance: Utterance, rate_hz: int) -> FloatArray | None:
    """The first seconds of an utterance, or None if it cannot be read or is silent."""
    try:
        wave = next(stream_audio(utterance.audio_path, sample_rate_hz=rate_hz, block_s=_VOICE_S))
        noises.active_level_db(wave, rate_hz)
    except (AudioError, MissingExtraError):
        return None
    return wave
