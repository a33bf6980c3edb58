"""What every recogniser does, whatever the family: a recording in, a Transcription out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from linnet.bundle import Bundle
from linnet.errors import ConfigError, LinnetError
from linnet.results import Segment, Transcription

if TYPE_CHECKING:
    from linnet.runtime.longform import Cut

AudioSource = str | Path | BinaryIO | npt.NDArray[np.floating]
"""A file, an open binary stream, or mono samples [N] in −1…1."""
Progress = Callable[[float, float], None]
"""Called with the seconds done and the seconds in all (an estimate until the end, if the file does not say)."""


class Recognizer(Protocol):
    """One opened bundle that turns speech into text."""

    @property
    def bundle(self) -> Bundle:
        """The bundle it was loaded from."""
        ...

    @property
    def times_words(self) -> bool:
        """Whether it says when each word was said, or only each segment (an aligner can add the words)."""
        ...

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int = 16_000,
        language: str | None = None,
        context: str = "",
        progress: Progress | None = None,
    ) -> Transcription:
        """Recognise a recording of any length in bounded memory; no speech gives an empty text.

        `sample_rate_hz` describes an array's samples; files say it themselves. `language` (code or name) forces the
        language, None lets the model detect it. `context` is plain text that helps with names and terms.
        Raises AudioError, LanguageError or ConfigError.
        """
        ...

    def close(self) -> None:
        """Release the model's memory; further calls are errors."""
        ...


@runtime_checkable
class AudioVisualRecognizer(Recognizer, Protocol):
    """A recogniser that also looks; recordings with pictures are given as files."""

    modality: str
    """What it uses: auto (what there is), both, audio or video."""

    def watch(self, video: Path | None, *, audio_duration_s: float | None = None) -> None:
        """Look at this file while samples are given, until the next call; None: at nothing. Raises VideoError."""
        ...


def with_modality(recognizer: Recognizer, modality: str) -> Recognizer:
    """The same recogniser, told what to use; ConfigError if it is asked to look and cannot."""
    if isinstance(recognizer, AudioVisualRecognizer):
        recognizer.modality = modality
    elif modality in ("video", "both"):
        recognizer.close()
        raise ConfigError(
            f"Model {recognizer.bundle.name!r} only hears, so the modality cannot be {modality!r}; use auto or audio."
        )
    return recognizer


@dataclass(frozen=True, eq=False)
class CutRequest:
    """A cut of some recording, and how it is to be recognised."""

    cut: Cut
    language: str | None = None
    context: str = ""


class CutSource(Protocol):
    """Several recordings at once, as a server has them: gives their cuts and takes what was recognised in each."""

    def next(self) -> CutRequest | None:
        """The next cut; None if there is none now."""
        ...

    def done(self, request: CutRequest, result: list[Segment] | LinnetError) -> None:
        """Takes the segments of a cut, in order, or what is wrong with its request."""
        ...

    def wants(self, request: CutRequest) -> bool:
        """Asked before every step; a cut that nobody wants any more is dropped and never done."""
        ...

    def between(self) -> None:
        """Called between any two steps; may use the recogniser itself."""
        ...


@runtime_checkable
class BatchRecognizer(Recognizer, Protocol):
    """A recogniser that gains from cuts of several recordings at a time."""

    def recognize_from(self, source: CutSource) -> None:
        """Recognise what the source gives, until it gives None and everything is done."""
        ...


class Draft(Protocol):
    """What a recogniser makes of speech that has not ended yet."""

    @property
    def text(self) -> str:
        """The words so far; the last of them may change."""
        ...

    @property
    def confidence(self) -> float:
        """Geometric mean of the token probabilities, 0…1."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether the answer came to an end by itself; one that did not was as expensive as an answer can be."""
        ...


@runtime_checkable
class CutRecognizer(Recognizer, Protocol):
    """A recogniser that takes cuts that were planned elsewhere."""

    def recognize(self, cuts: Iterable[Cut], *, language: str | None = None, context: str = "") -> list[Segment]:
        """Segments, in order, as `transcribe` gives them for the same cuts."""
        ...


@runtime_checkable
class StreamingRecognizer(CutRecognizer, Protocol):
    """A recogniser that `streaming.StreamingTranscriber` can drive."""

    def draft(
        self, cut: Cut, previous: Draft | None = None, *, language: str | None = None, context: str = ""
    ) -> Draft:
        """Words of a cut that still grows; `previous` is this recogniser's draft of its beginning."""
        ...
