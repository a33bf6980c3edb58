"""What every recogniser does, whatever the family: a recording in, a Transcription out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from linnet.bundle import Bundle
from linnet.results import Transcription

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
