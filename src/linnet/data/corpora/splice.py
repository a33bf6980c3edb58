"""New sentences in real voices: words of one speaker, cut from recordings at their boundaries and joined anew.

A few thousand read prompts are soon known by heart, and a decoder that knows the sentence need not listen. Runs of one
to three words of the same speaker in a random order keep the voice, the room and the microphone, and leave nothing to
guess (Lam et al., "On-the-fly aligned data augmentation for sequence-to-sequence ASR", Interspeech 2021). The words are
found by PocketSphinx's forced alignment (`pip install pocketsphinx`, which brings its English model).
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from linnet.audio import SAMPLE_RATE_HZ, read_audio
from linnet.errors import ConfigError
from linnet.manifest import Utterance, write_manifest

FRAME = SAMPLE_RATE_HZ // 100  # PocketSphinx counts in hundredths of a second
FADE = SAMPLE_RATE_HZ // 100  # of the seam between two runs
MAX_RUN, MIN_WORDS, MAX_WORDS, MIN_SPEAKER_WORDS = 3, 2, 8, 20
CLIPS_PER_FOLDER = 1000

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spoken:
    """One word of a recording: [start, stop) in samples."""

    word: str
    start: int
    stop: int


def align_words(samples: Samples, text: str) -> list[Spoken]:
    """Where the words of an English `text` are in `samples`, float32 [samples] at 16 kHz.

    Empty if a word is not in the dictionary or the recording does not fit the text. Raises ConfigError without
    PocketSphinx.
    """
    words = re.findall(r"[a-z']+", text.lower())
    decoder = _decoder()
    if not words or re.search(r"\d", text) or any(decoder.lookup_word(word) is None for word in words):
        return []
    decoder.set_align_text(" ".join(words))
    decoder.start_utt()
    decoder.process_raw(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return []
    found = [
        Spoken(re.sub(r"\(\d+\)$", "", segment.word), segment.start_frame * FRAME, (segment.end_frame + 1) * FRAME)
        for segment in decoder.seg()
        if not segment.word.startswith(("<", "["))  # silence and noise
    ]
    return found if [spoken.word for spoken in found] == words else []


def splice(
    out: Path,
    utterances: Iterable[Utterance],
    *,
    count: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `count` spliced sentences of 2–8 words, each of one speaker of `utterances`; returns the manifest.

    Clips are `<out>/<folder>/<index>.flac`, 16 kHz mono, of corpus `spliced_<corpus>`; `<out>/manifest.jsonl` is
    written last. Speakers with fewer than 20 aligned words are left out. The same call writes the same clips.
    `progress` gets (steps done, steps in all): an alignment or a clip is a step. Raises ConfigError if nobody is left.
    """
    known = [utterance for utterance in utterances if utterance.text and utterance.language == "en"]
    voices: dict[tuple[str, str], list[tuple[Samples, list[Spoken]]]] = defaultdict(list)
    for done, utterance in enumerate(known):
        samples = read_audio(utterance.audio_path)
        if spoken := align_words(samples, utterance.text or ""):
            voices[utterance.corpus or "", utterance.speaker or ""].append((samples, spoken))
        if progress is not None:
            progress(done + 1, len(known) + count)
    voices = {who: said for who, said in voices.items() if sum(len(s) for _, s in said) >= MIN_SPEAKER_WORDS}
    if not voices:
        raise ConfigError(
            f"no speaker of {len(known)} English utterances has {MIN_SPEAKER_WORDS} aligned words; "
            "splicing needs recordings with texts and speakers; check `text`, `speaker` and `language` of the manifest"
        )
    speakers, made = sorted(voices), []
    for index in range(count):
        rng = random.Random(f"{seed}/splice/{index}")  # a string seed is hashed the same way on every machine
        corpus, speaker = rng.choice(speakers)
        text, samples = sentence(voices[corpus, speaker], rng)
        path = out / f"{index // CLIPS_PER_FOLDER:03d}" / f"{index:06d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        made.append(
            Utterance(
                audio_path=path,
                duration_s=round(len(samples) / SAMPLE_RATE_HZ, 3),
                text=text,
                id=f"spliced_{index:06d}",
                speaker=speaker,
                language="en",
                corpus=f"spliced_{corpus}",
            )
        )
        if progress is not None:
            progress(len(known) + index + 1, len(known) + count)
    write_manifest(out / "manifest.jsonl", made)
    return out / "manifest.jsonl"


def sentence(said: Sequence[tuple[Samples, list[Spoken]]], rng: random.Random) -> tuple[str, Samples]:
    """One new sentence of a speaker's aligned recordings: its text and float32 [samples] with the recordings' edges."""
    words: list[str] = []
    runs: list[Samples] = []
    wanted = rng.randint(MIN_WORDS, MAX_WORDS)
    while len(words) < wanted:
        samples, spoken = rng.choice(said)
        first = rng.randrange(len(spoken))
        run = spoken[first : first + min(rng.randint(1, MAX_RUN), wanted - len(words))]
        words += [word.word for word in run]
        runs.append(samples[run[0].start : run[-1].stop])
    before, after = rng.choice(said), rng.choice(said)
    return " ".join(words), _crossfade([before[0][: before[1][0].start], *runs, after[0][after[1][-1].stop :]])


def _crossfade(runs: Iterable[Samples]) -> Samples:
    """The runs one after another, each faded into the next over FADE samples, so that no seam clicks."""
    joined = np.zeros(0, np.float32)
    for run in runs:
        length = min(FADE, len(joined), len(run))
        ramp = (np.arange(length, dtype=np.float32) + 0.5) / max(length, 1)
        seam = joined[len(joined) - length :] * (1 - ramp) + run[:length] * ramp
        joined = np.concatenate([joined[: len(joined) - length], seam, run[length:]])
    return joined


@cache
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise ConfigError(
            "Word boundaries need PocketSphinx, not installed; run `pip install pocketsphinx`."
        ) from error
    return Decoder(lm=None, loglevel="FATAL")
