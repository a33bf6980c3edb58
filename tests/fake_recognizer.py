"""A recogniser that answers from a table, for tests of what is built on recognisers. It does read the audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.audio import read_audio
from linnet.bundle import Bundle, write_bundle
from linnet.features import WHISPER_128
from linnet.results import Segment, Transcription
from linnet.runtime.base import AudioSource, Progress


def make_bundle(folder: Path, *, name: str = "fake", provenance: Mapping[str, Any] | None = None) -> Bundle:
    """A bundle that opens; its one file is no model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_bytes(b"none")
    return write_bundle(
        folder,
        name=name,
        family="fake",
        model={},
        features=WHISPER_128,
        precision={"encoder": "int8"},
        languages=["en", "zh"],
        provenance={"licence": "CC0", **(provenance or {})},
        parity={},
    )


class FakeRecognizer:
    """Answers by the stem of the file; samples get the answer of the file before them, as `evaluate` orders them."""

    times_words = False

    def __init__(self, folder: Path, answers: Mapping[str, str | Exception]) -> None:
        self.bundle = make_bundle(folder)
        self.answers = answers
        self.heard: list[npt.NDArray[np.floating]] = []
        self.options: list[tuple[str | None, str]] = []
        self.closed = False
        self._last = ""

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int = 16_000,
        language: str | None = None,
        context: str = "",
        progress: Progress | None = None,
    ) -> Transcription:
        samples = audio if isinstance(audio, np.ndarray) else read_audio(audio)
        if isinstance(audio, str | Path):
            self._last = Path(audio).stem
        self.heard.append(samples)
        self.options.append((language, context))
        answer = self.answers.get(self._last, "")
        if isinstance(answer, Exception):
            raise answer
        duration_s = len(samples) / sample_rate_hz
        if progress is not None:
            progress(duration_s, duration_s)
        segments = (Segment(answer, 0.0, duration_s, "en", 0.5),) if answer else ()
        return Transcription(answer, "en" if answer else None, duration_s, segments, "fake", duration_s / 4)

    def close(self) -> None:
        self.closed = True
