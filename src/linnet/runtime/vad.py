"""Where somebody speaks: Silero's voice activity detector and an energy rule, as a stream.

A frame is 32 ms (512 samples at 16 kHz). The energy rule answers for frames that are silent to any ear and brings quiet
recordings to the level Silero knows; Silero gives the probability of speech; hysteresis turns probabilities into
regions. The thresholds were chosen on single spoken digits (0.15…0.6 s, some of them a whole file) against white, pink
and brown noise, hum, clicks and recorded noise: `tests/runtime/test_vad.py` holds both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.runtime.silero import FRAME, Silero

FloatArray = npt.NDArray[np.float32]
SAMPLE_RATE_HZ = 16_000

ENTER, LEAVE = 0.5, 0.35
"""Probability at which a region may start, and below which it may end."""
SURE = 0.6
"""A region is believed once it has had a frame of this probability …"""
MIN_FRAMES = 2
"""… and this many frames of at least ENTER. Noise gives single frames up to 0.55, the faintest digit two of 0.57."""
HANGOVER_FRAMES = 13
"""A pause shorter than this (0.42 s) does not end a region."""
PAD_FRAMES = 8
"""Frames (0.26 s) kept on both sides: soft onsets, and fricatives at the end, are heard late and lost early."""

SILENCE_RMS = 3e-5  # −90 dBFS, one step of 16 bits: nobody is heard there
_LEVEL_RMS = 0.01  # −40 dBFS: from here up Silero needs no help
_MAX_GAIN = 10.0  # speech down to −65 dBFS is still found; more gain makes speech of faint noise
_LEVEL_DECAY = 0.999  # per frame: the loudness heard is forgotten in about half a minute
_SILENT_FRAMES = 64  # longer silence is not given to Silero: it costs time and makes it hear the next onset later
_LEAD_FRAMES = 8  # silence that Silero hears before the first sample, so that speech at once is an onset


class SpeechDetector:
    """Probability of speech, frame by frame, for one recording at a time."""

    def __init__(self) -> None:
        self._silero = Silero()
        self.reset()

    def reset(self) -> None:
        """Forget the recording; call it before each new one."""
        self._level = 0.0
        self._silent_frames = 0
        self._silero.reset()
        self._silero(np.zeros((_LEAD_FRAMES, FRAME), np.float32))

    def __call__(self, frames: FloatArray) -> list[float]:
        """Probabilities of speech for the next frames [n, 512]; the state goes on from call to call."""
        loudness = np.sqrt(np.mean(np.square(frames), axis=1))
        levels, heard = np.empty(len(frames), np.float32), np.empty(len(frames), np.bool_)
        for index, rms in enumerate(loudness.tolist()):
            levels[index] = self._level = max(self._level * _LEVEL_DECAY, rms)
            self._silent_frames = self._silent_frames + 1 if rms < SILENCE_RMS else 0
            heard[index] = self._silent_frames <= _SILENT_FRAMES
        gains = np.clip(_LEVEL_RMS / np.maximum(levels, SILENCE_RMS), 1.0, _MAX_GAIN)
        probabilities = np.zeros(len(frames), np.float32)
        probabilities[heard] = self._silero(frames[heard] * gains[heard, None].astype(np.float32))
        return np.where(loudness < SILENCE_RMS, 0.0, probabilities).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Region:
    """Speech from frame `start` to before frame `end`, without padding."""

    start: int
    end: int


class RegionTracker:
    """Hysteresis: takes one probability after the other, knows the regions that ended and the one that is open."""

    def __init__(self) -> None:
        self.open_start: int | None = None
        """First frame of the region that is open and believed."""
        self.last_speech = 0
        """Frame after the last one that belonged to speech, while a region is open."""
        self._frame = 0
        self._candidate: int | None = None
        self._strong, self._peak = 0, 0.0

    @property
    def is_undecided(self) -> bool:
        """Whether a region may have begun that is not believed yet."""
        return self._candidate is not None and self.open_start is None

    def push(self, probability: float) -> Region | None:
        """The region that has just been found to have ended, if any."""
        now = self._frame
        self._frame += 1
        if self._candidate is None:
            if probability < ENTER:
                return None
            self._candidate, self._strong, self._peak = now, 0, 0.0
        if probability >= LEAVE:
            self.last_speech = now + 1
            self._strong += probability >= ENTER
            self._peak = max(self._peak, probability)
            if self.open_start is None and self._strong >= MIN_FRAMES and self._peak >= SURE:
                self.open_start = self._candidate
        elif self._frame - self.last_speech >= HANGOVER_FRAMES or self.open_start is None:
            # A candidate that nobody believes ends with its first weak frame, so it cannot grow without bound …
            return self.finish()
        if self.open_start is None and now - self._candidate >= HANGOVER_FRAMES:
            self._candidate = None  # … nor by hovering between the thresholds.
        return None

    def finish(self) -> Region | None:
        """End of the recording or of the region: the open region, if there is one."""
        region = None if self.open_start is None else Region(self.open_start, self.last_speech)
        self.open_start = self._candidate = None
        return region
