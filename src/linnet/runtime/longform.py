"""Cut a recording of any length into pieces a model can hear at once: at pauses if there are any, never above 30 s.

Blocks of samples come in, cuts go out as soon as they are settled; memory holds one block and one cut. Silence and
noise are in no cut, every sample of detected speech is in exactly one. Positions count samples from the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from linnet.runtime.silero import FRAME
from linnet.runtime.vad import HANGOVER_FRAMES, PAD_FRAMES, SAMPLE_RATE_HZ, RegionTracker

FloatArray = npt.NDArray[np.float32]
MAX_CUT_S = 30.0
MAX_PAUSE_S = 1.0
"""A longer pause ends a cut; a shorter one stays inside, since context helps the model."""
STEADY_DB = 2.5
"""Sound whose level stays within this (80 % of its frames) is hum, whose onset Silero takes for a vowel. Measured: hum
and pure tones, with and without noise, up to 2.0 dB; of 1200 real clips, single digits among them, 3.1 dB at least."""
_PAD = PAD_FRAMES * FRAME
_UNDECIDED = (2 * HANGOVER_FRAMES + PAD_FRAMES) * FRAME  # speech found now may have started this many samples ago
_HOP, _SMOOTH = 160, 10  # energy is looked at every 10 ms, over 100 ms: shorter dips are inside words


class Detector(Protocol):
    """Probabilities of speech for frames [n, 512], in order."""

    def __call__(self, frames: FloatArray) -> list[float]: ...


@dataclass(frozen=True, eq=False)
class Cut:
    """Samples `start` to before `end` of the recording, with the bounds of the speech in them."""

    samples: FloatArray
    start: int
    speech_start: int
    speech_end: int

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.start + len(self.samples)

    @property
    def duration_s(self) -> float:
        """Length, padding included."""
        return len(self.samples) / SAMPLE_RATE_HZ

    def split(self) -> tuple[Cut, Cut]:
        """Two cuts, at the quietest point of the middle half."""
        quarter = len(self.samples) // 4
        middle = self.start + quietest_point(self.samples, quarter, len(self.samples) - quarter)
        return self._part(self.start, middle), self._part(middle, self.end)

    def _part(self, start: int, end: int) -> Cut:
        return Cut(
            self.samples[start - self.start : end - self.start],
            start,
            min(max(self.speech_start, start), end),
            min(max(self.speech_end, start), end),
        )


def plan_cuts(
    blocks: Iterable[FloatArray],
    detector: Detector,
    *,
    max_cut_s: float = MAX_CUT_S,
    max_pause_s: float = MAX_PAUSE_S,
) -> Iterator[Cut]:
    """Cuts of a recording that comes in blocks [n] of any sizes, at 16 kHz, in order."""
    planner = CutPlanner(detector, max_cut_s=max_cut_s, max_pause_s=max_pause_s)
    for block in blocks:
        yield from planner.feed(block)
    yield from planner.finish()


def quietest_point(samples: FloatArray, low: int, high: int) -> int:
    """Index in low…high around which 100 ms of `samples` hold the least energy; the last one if several do."""
    span = samples[low : low + (high - low) // _HOP * _HOP]
    if len(span) < _HOP * _SMOOTH:
        return (low + high) // 2
    energy = np.square(span, dtype=np.float64).reshape(-1, _HOP).sum(axis=1)
    smooth = np.convolve(energy, np.ones(_SMOOTH), "valid")
    quietest = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
    return low + quietest * _HOP + _HOP * _SMOOTH // 2


def is_steady(cut: Cut) -> bool:
    """Whether the level of the cut's speech hardly moves, as no voice's does."""
    heard = cut.samples[cut.speech_start - cut.start : cut.speech_end - cut.start]
    frames = heard[: len(heard) // FRAME * FRAME].reshape(-1, FRAME)
    if len(frames) == 0:
        return False
    level_db = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-10)
    low, high = np.percentile(level_db, [10, 90])
    return bool(high - low < STEADY_DB)


class CutPlanner:
    """`plan_cuts` for a stream that is pushed: the samples not yet given away, and the span that is being collected."""

    def __init__(self, detector: Detector, *, max_cut_s: float = MAX_CUT_S, max_pause_s: float = MAX_PAUSE_S) -> None:
        self._detector = detector
        self._max_cut, self._max_pause = round(max_cut_s * SAMPLE_RATE_HZ), round(max_pause_s * SAMPLE_RATE_HZ)
        self._tracker = RegionTracker()
        self._buffer = np.empty(0, np.float32)
        self._base = 0  # position of the buffer's first sample
        self._now = 0  # position up to which frames were judged
        self._floor = 0  # end of the last cut
        # The span: one region of speech or several with short pauses between them.
        self._start: int | None = None
        self._end = 0  # padded end of the last region in it that has ended
        self._speech_start = self._speech_end = 0
        self._open: int | None = None  # padded start of the region that is still going on, and its speech's start
        self._open_speech = 0
        self._continued = False  # the span is the rest of a longer one

    def feed(self, block: FloatArray) -> Iterator[Cut]:
        """Cuts that the next block [n] settles."""
        self._buffer = np.concatenate([self._buffer, block])
        judged = self._now - self._base
        whole = (len(self._buffer) - judged) // FRAME * FRAME
        yield from self._judge(self._buffer[judged : judged + whole])
        keep = self._now - _UNDECIDED if self._start is None else min(self._start, self._now - _UNDECIDED)
        if keep > self._base:
            self._buffer = self._buffer[keep - self._base :].copy()
            self._base = keep

    def finish(self) -> Iterator[Cut]:
        """The last cuts: the stream has ended."""
        rest = self._buffer[self._now - self._base :]
        if len(rest):
            yield from self._judge(np.pad(rest, (0, FRAME - len(rest))))
        if (region := self._tracker.finish()) is not None:
            self._close(region.end * FRAME)
        if self._start is not None:
            yield from self._settle()

    def open_cut(self) -> Cut | None:
        """What the next cut holds so far, speech that is still going on included; None where nobody speaks."""
        if self._start is None:
            return None
        speaking = self._open is not None
        end = min(self._now, self._total) if speaking else self._end
        if end <= self._start:
            return None
        samples = self._buffer[self._start - self._base : end - self._base]
        return Cut(samples, self._start, max(self._start, self._speech_start), end if speaking else self._speech_end)

    @property
    def _total(self) -> int:
        """Samples seen; frames at the end are padded beyond it."""
        return self._base + len(self._buffer)

    def _judge(self, samples: FloatArray) -> Iterator[Cut]:
        for probability in self._detector(samples.reshape(-1, FRAME)):
            region = self._tracker.push(probability)
            self._now += FRAME
            if region is not None:
                self._close(region.end * FRAME)
            elif self._tracker.open_start is not None:
                if self._open is None:
                    yield from self._join(self._tracker.open_start * FRAME)
                while self._start is not None and min(self._now, self._total) - self._start >= self._max_cut:
                    yield self._split()
            elif self._start is not None:
                # What is not believed yet may have begun a while ago; other speech begins now, its padding earlier.
                reach = _UNDECIDED if self._tracker.is_undecided else _PAD
                if self._now - self._end > self._max_pause + reach:
                    yield from self._settle()

    def _join(self, speech_start: int) -> Iterator[Cut]:
        """A region has started: it joins the span, or the span ends and the region starts the next one."""
        start = max(speech_start - _PAD, self._floor)
        if self._start is not None and start - self._end > self._max_pause:
            yield from self._settle()
        if self._start is None:
            self._start, self._end, self._speech_start = start, start, speech_start
        self._open, self._open_speech = max(start, self._end), speech_start

    def _close(self, speech_end: int) -> None:
        """The region has ended."""
        assert self._start is not None
        self._open = None
        if speech_end <= self._start:  # a split took all the speech; what follows it is padding
            self._start, self._continued = None, False
            return
        self._end = min(speech_end + _PAD, self._total)
        self._speech_end = min(speech_end, self._total)

    def _split(self) -> Cut:
        """The span has reached the ceiling while somebody speaks: cut at the quietest point of its last third."""
        assert self._start is not None and self._open is not None
        start, offset, open_start = self._start, self._start - self._base, self._open
        point = self._base + quietest_point(self._buffer, offset + self._max_cut * 2 // 3, offset + self._max_cut)
        self._continued = True
        if self._end <= point <= open_start and self._end > start:  # in a pause: leave the pause out
            cut = self._emit(self._end, self._speech_end)
            self._start = self._end = open_start
            self._speech_start = self._open_speech
        else:
            cut = self._emit(point, point)
            self._start = self._end = point
            self._speech_start, self._open = max(point, self._speech_start), max(point, open_start)
        return cut

    def _settle(self) -> Iterator[Cut]:
        """The span has ended by itself: its cut, unless it is one steady sound."""
        cut, continued = self._emit(self._end, self._speech_end), self._continued
        self._continued = False
        if continued or not is_steady(cut):
            yield cut

    def _emit(self, end: int, speech_end: int) -> Cut:
        """The cut from the span's start to `end`; the span is gone."""
        assert self._start is not None
        samples = self._buffer[self._start - self._base : end - self._base].copy()
        cut = Cut(samples, self._start, max(self._start, self._speech_start), speech_end)
        self._start, self._floor = None, end
        return cut
