"""Times of words by Qwen3's forced aligner: text and audio in, begin and end of every word out, in one pass.

The words stand behind the audio, each followed by two `<timestamp>` tokens; what the network says at those is a class
of 80 ms each. Classes that go back in time are repaired as the official code does it, then every word gets at least
40 ms. Source: qwen-asr 0.0.6, `qwen3_forced_aligner.py`. Two differences: words keep their punctuation, and Japanese
and Korean are split by character and by spaces, not by a morphological dictionary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.audio import check_samples
from linnet.bundle import Bundle, read_bundle
from linnet.errors import BundleCorruptError, BundleError, ConfigError
from linnet.results import Segment, Transcription, Word
from linnet.runtime.base import AudioSource
from linnet.runtime.encoder import Encoder, clip_features
from linnet.runtime.loader import resolve
from linnet.runtime.prompt import encode_plain
from linnet.runtime.providers import open_session
from linnet.runtime.qwen3_asr import _open_tokenizer, _read_config
from linnet.runtime.recording import Recording
from linnet.runtime.vad import SAMPLE_RATE_HZ
from linnet.runtime.words import sounds, split_words
from linnet.text import language_name

FloatArray = npt.NDArray[np.float32]
DEFAULT = "qwen3-forcedaligner-0.6b"
MAX_CLIP_S = 180.0
"""The official limit."""
MIN_WORD_S = 0.04
PAD_S = 0.25
"""Sound around a segment that the aligner may hear as well, half of the gap to the next one at most."""


class Aligner:
    """An opened aligner bundle."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Raises BundleError if the bundle is another family's or does not fit together."""
        if bundle.family != "qwen3_aligner":
            raise BundleError(
                f"Bundle {bundle.path} is of family {bundle.family!r}; times of words need one of family "
                "'qwen3_aligner'. Get it with: linnet pull Qwen/Qwen3-ForcedAligner-0.6B"
            )
        self.bundle = bundle
        numbers = dict(bundle.model)
        try:
            self._class_s = numbers.pop("class_ms") / 1000
            self._timestamp_id, self._classes = numbers.pop("timestamp_token_id"), numbers.pop("classes")
        except KeyError as missing:
            raise BundleCorruptError(f"Bundle {bundle.path} lacks {missing}. Export it again.") from missing
        self._config = _read_config(dataclasses.replace(bundle, model=numbers))
        self._tokenizer = _open_tokenizer(bundle)
        bundle.file("encoder_conv.onnx")
        self._encoder = Encoder(bundle.file("encoder.onnx").parent, self._config, threads=threads)
        self._session: Any = open_session(bundle.file("aligner.onnx"), threads=threads)

    def align(self, samples: npt.ArrayLike, text: str, *, language: str | None = None) -> list[Word]:
        """The words of `text` with their times in mono samples [N] at 16 kHz; no words for a text without any.

        `language` is a code. Raises ConfigError for more than 180 s, a language the aligner was not made for or a
        closed aligner, LanguageError for a code of no language, AudioContentError.
        """
        clip = check_samples(samples)
        duration_s = len(clip) / SAMPLE_RATE_HZ
        if duration_s > MAX_CLIP_S:
            raise ConfigError(
                f"The aligner takes at most {MAX_CLIP_S:g} s at once, got {duration_s:.1f} s. Align segment by segment."
            )
        if language is not None and not self.knows(language):
            known = ", ".join(language_name(code) for code in self.bundle.languages)
            raise ConfigError(f"The aligner does not know {language_name(language)}; accepted: {known}.")
        if self._session is None:
            raise ConfigError("The aligner is closed. Load it again to use it.")
        words = [word for word in split_words(text) if sounds(word)]
        if not words:
            return []
        classes = self._classify(clip, words)
        times_s = [value * self._class_s for value in repair(classes)]
        spans = separate([(times_s[2 * i], times_s[2 * i + 1]) for i in range(len(words))], duration_s)
        return [Word(word, start_s, end_s) for word, (start_s, end_s) in zip(words, spans, strict=True)]

    def knows(self, language: str | None) -> bool:
        """Whether it was made for the language (a code); True if nobody knows which it is."""
        return language is None or language in self.bundle.languages

    def close(self) -> None:
        """Release the model's memory; further calls are errors."""
        self._encoder.close()
        self._session = None

    def _classify(self, clip: FloatArray, words: Sequence[str]) -> list[int]:
        """The class at both timestamps of every word, as the network says it."""
        audio = self._encoder(clip_features(clip, self.bundle.features))
        config, ids = self._config, list[int]()
        for word in words:
            ids += [*encode_plain(self._tokenizer, sounds(word)), self._timestamp_id, self._timestamp_id]
        before = np.array([config.audio_start_token_id], np.int64)
        after = np.array([config.audio_end_token_id, *ids], np.int64)
        total = len(before) + len(audio) + len(after)
        places = len(before) + len(audio) + np.flatnonzero(after == self._timestamp_id)
        rates = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
        angles = np.outer(np.arange(total), rates)
        feeds = {
            "before": before,
            "audio": audio,
            "after": after,
            "last": places[None, :, None],
            "lengths": np.array([total - 1], np.int32),
            "total": np.array([total], np.int32),
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
        }
        logits: FloatArray = self._session.run(["logits"], feeds)[0]
        found: list[int] = logits[0].argmax(axis=1).tolist()
        return found


def load_aligner(name_or_path: str | Path = DEFAULT, *, threads: int | None = None) -> Aligner:
    """Open an aligner: a pulled model's name or a bundle folder. Raises BundleError."""
    return Aligner(read_bundle(resolve(name_or_path)), threads=threads)


def align_transcription(aligner: Aligner, audio: AudioSource, transcription: Transcription) -> Transcription:
    """The transcription with times for the words of every segment that has none and whose language the aligner knows.

    Reads the recording once more, in bounded memory. Words keep their confidence.
    """
    segments = list(transcription.segments)
    untimed = [index for index, one in enumerate(segments) if one.text and not one.has_word_times]
    wanted = [index for index in untimed if aligner.knows(segments[index].language)]
    for index, (start_s, clip) in zip(wanted, _clips(audio, segments, wanted), strict=True):
        words = [_later(word, start_s) for word in aligner.align(clip, segments[index].text)]
        known = segments[index].words
        if [word.text for word in known] == [word.text for word in words]:
            words = [dataclasses.replace(w, confidence=k.confidence) for w, k in zip(words, known, strict=True)]
        segments[index] = dataclasses.replace(segments[index], words=tuple(words))
    return dataclasses.replace(transcription, segments=tuple(segments))


def _later(word: Word, seconds: float) -> Word:
    assert word.start_s is not None and word.end_s is not None
    return dataclasses.replace(word, start_s=word.start_s + seconds, end_s=word.end_s + seconds)


def _clips(
    audio: AudioSource, segments: Sequence[Segment], wanted: Sequence[int]
) -> Iterator[tuple[float, FloatArray]]:
    """For each wanted segment the start of its clip in seconds, and the clip: the segment with some sound around it."""
    blocks = Recording(audio, SAMPLE_RATE_HZ, None).blocks()
    buffer, base = np.empty(0, np.float32), 0
    for index in wanted:
        one = segments[index]
        before_s = segments[index - 1].end_s if index else 0.0
        after_s = segments[index + 1].start_s if index + 1 < len(segments) else one.end_s + 2 * PAD_S
        low_s = one.start_s - min(PAD_S, max(0.0, one.start_s - before_s) / 2)
        high_s = one.end_s + min(PAD_S, max(0.0, after_s - one.end_s) / 2)
        low, high = max(0, round(low_s * SAMPLE_RATE_HZ)), round(high_s * SAMPLE_RATE_HZ)
        while base + len(buffer) < high and (block := next(blocks, None)) is not None:
            keep = min(max(0, low - base), len(buffer))
            buffer, base = np.concatenate([buffer[keep:], block]), base + keep
        yield low / SAMPLE_RATE_HZ, buffer[low - base : high - base]


def repair(classes: Sequence[int]) -> list[float]:
    """The classes without those that go back in time: what is not in the longest rising run is put between its
    neighbours, one or two at the nearer one, more in even steps."""
    kept = _longest_rising(classes)
    if not kept:
        return []
    fixed = [float(value) for value in classes]
    fixed[: kept[0]] = [fixed[kept[0]]] * kept[0]
    fixed[kept[-1] + 1 :] = [fixed[kept[-1]]] * (len(fixed) - kept[-1] - 1)
    for left, right in pairwise(kept):
        missing = right - left - 1
        for step in range(1, missing + 1):
            if missing <= 2:
                fixed[left + step] = fixed[left if step <= missing + 1 - step else right]
            else:
                fixed[left + step] = fixed[left] + (fixed[right] - fixed[left]) * step / (missing + 1)
    return fixed


def _longest_rising(values: Sequence[int]) -> list[int]:
    """Indices of a longest subsequence that never falls; of several the one that the official code takes."""
    lengths, before = [1] * len(values), [-1] * len(values)
    for index, value in enumerate(values):
        for earlier in range(index):
            if values[earlier] <= value and lengths[earlier] + 1 > lengths[index]:
                lengths[index], before[index] = lengths[earlier] + 1, earlier
    run, index = [], lengths.index(max(lengths)) if lengths else -1
    while index >= 0:
        run.append(index)
        index = before[index]
    return run[::-1]


def separate(spans: Sequence[tuple[float, float]], duration_s: float) -> list[tuple[float, float]]:
    """Spans in order that do not overlap, lie within the clip and last 40 ms at least, or as long as there is room for
    all of them; what is long enough already moves only as far as it must."""
    shortest = min(MIN_WORD_S, duration_s / max(len(spans), 1))
    after, moved = 0.0, list[tuple[float, float]]()
    for start_s, end_s in spans:
        start_s = max(start_s, after)
        after = max(end_s, start_s + shortest)
        moved.append((start_s, after))
    limit = duration_s
    for index in range(len(moved) - 1, -1, -1):
        start_s, end_s = moved[index]
        if end_s <= limit:
            break
        moved[index] = (min(start_s, limit - shortest), limit)
        limit = moved[index][0]
    return moved
