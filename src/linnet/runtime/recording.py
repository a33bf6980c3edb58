"""The samples of whatever a recogniser is given, in blocks at the model's rate, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linnet.audio import audio_info, check_samples, resample, stream_audio
from linnet.runtime.base import AudioSource, Progress
from linnet.runtime.longform import Cut
from linnet.runtime.vad import SAMPLE_RATE_HZ

FloatArray = npt.NDArray[np.float32]
BLOCK_S = 30.0


class Recording:
    """The samples of one source as blocks at the model's rate; counts what has passed."""

    def __init__(self, audio: AudioSource, sample_rate_hz: int, progress: Progress | None) -> None:
        self._audio, self._rate_hz, self._progress = audio, sample_rate_hz, progress
        self._samples = 0
        self._done_s = self._expected_s = 0.0
        if isinstance(audio, np.ndarray):
            self._expected_s = audio.size / sample_rate_hz
        elif isinstance(audio, str | Path) and progress is not None and Path(audio).is_file():  # a pipe reads once
            self._expected_s = audio_info(audio).duration_s or 0.0

    @property
    def duration_s(self) -> float:
        """Seconds read so far; the whole recording after the last block."""
        return self._samples / SAMPLE_RATE_HZ

    def blocks(self) -> Iterator[FloatArray]:
        """Blocks of at most 30 s at 16 kHz; raises AudioError."""
        for block in self._source():
            self._samples += len(block)
            yield block

    def finished(self, cut: Cut) -> None:
        """Report that a cut has been recognised."""
        if self._progress is not None:
            self._done_s = max(self._done_s, cut.end / SAMPLE_RATE_HZ)
            self._progress(self._done_s, max(self._expected_s, self.duration_s))

    def _source(self) -> Iterator[FloatArray]:
        if not isinstance(self._audio, np.ndarray):
            yield from stream_audio(self._audio, sample_rate_hz=SAMPLE_RATE_HZ, block_s=BLOCK_S)
            return
        samples = check_samples(self._audio)
        if self._rate_hz != SAMPLE_RATE_HZ:
            samples = resample(samples, self._rate_hz, SAMPLE_RATE_HZ)
        step = round(BLOCK_S * SAMPLE_RATE_HZ)
        for start in range(0, len(samples), step):
            yield samples[start : start + step]
