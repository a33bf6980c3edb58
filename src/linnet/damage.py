"""What an evaluation does to speech besides noise at a level: rooms and codecs. A function of seed and utterance."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from linnet import noise as noises
from linnet.audio import FloatArray, check_samples, read_audio, resample
from linnet.errors import ConfigError
from linnet.manifest import Utterance, read_manifest
from linnet.noise_source import generator

CODECS = ("telephone", "gsm", "opus", "mp3")
"""telephone: µ-law at 8 kHz (G.711). gsm: full rate at 8 kHz, 13 kbit/s. opus, mp3: the lowest rate that libsndfile's
encoders offer for mono at 16 kHz."""

ROOM = "reverb"
ROOM_RT60_S = 0.8
KINDS = (ROOM, *CODECS)


@dataclass(frozen=True)
class Damage:
    """Damages the samples [N] of an utterance, always in the same way; AudioError if a room cannot be read."""

    name: str
    apply: Callable[[Utterance, FloatArray], FloatArray]


def make_damage(kind: str | Path, *, rate_hz: int, seed: int) -> Damage:
    """`reverb` (a synthetic room of RT60 0.8 s), a codec, or the path of a manifest of room impulse responses."""
    name = str(kind)
    if name == ROOM:
        return Damage(f"{ROOM} {ROOM_RT60_S:g} s", partial(_synthetic_room, rate_hz, seed))
    if name in CODECS:
        return Damage(name, lambda utterance, samples: through_codec(samples, rate_hz, codec=name))
    if not Path(name).exists():
        raise ConfigError(
            f"There is no damage {name!r}; accepted: {', '.join(KINDS)}, or a manifest of room responses."
        )
    responses = [utterance.audio_path for utterance in read_manifest(name)]
    return Damage(Path(name).stem, partial(_recorded_room, responses, rate_hz, seed))


def _synthetic_room(rate_hz: int, seed: int, utterance: Utterance, samples: FloatArray) -> FloatArray:
    rng = generator(seed, utterance, "room")
    response = noises.synthetic_rir(ROOM_RT60_S, direct_to_reverberant_db=0.0, rate_hz=rate_hz, rng=rng)
    return noises.reverberate(samples, response)


def _recorded_room(
    responses: Sequence[Path], rate_hz: int, seed: int, utterance: Utterance, samples: FloatArray
) -> FloatArray:
    chosen = responses[int(generator(seed, utterance, "room").integers(len(responses)))]
    return noises.reverberate(samples, np.asarray(read_audio(chosen, sample_rate_hz=rate_hz)))


def through_codec(samples: npt.ArrayLike, sample_rate_hz: int, *, codec: str) -> FloatArray:
    """Mono samples [N] after a lossy codec (one of CODECS) and back, float32 [N]; ConfigError for another name."""
    if codec not in CODECS:
        raise ConfigError(f"There is no codec {codec!r}; accepted: {', '.join(CODECS)}.")
    samples = np.clip(check_samples(samples), -1.0, 1.0)
    container, subtype, rate_hz, options = {
        "telephone": ("WAV", "ULAW", 8_000, {}),
        "gsm": ("WAV", "GSM610", 8_000, {}),
        "opus": ("OGG", "OPUS", 16_000, {"compression_level": 1.0}),
        "mp3": ("MP3", "MPEG_LAYER_III", 16_000, {"compression_level": 0.95}),  # 1.0 is refused by libsndfile
    }[codec]
    file = io.BytesIO()
    soundfile.write(
        file, resample(samples, sample_rate_hz, rate_hz), rate_hz, format=container, subtype=subtype, **options
    )
    file.seek(0)
    decoded, decoded_hz = soundfile.read(file, dtype="float32")
    damaged = resample(decoded, decoded_hz, sample_rate_hz)[: samples.size]
    return np.pad(damaged, (0, samples.size - damaged.size))
