"""Which recording the model hears next: every one gets the same share of it, cut by cut, however long it is.

Start-time fair queueing (Goyal et al. 1996): each recording has a clock that runs with the seconds it was served, the
one that is furthest behind is next, and a newcomer starts where the others are. So a short recording does not wait for
the end of a long one, and a long one is never starved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from linnet.errors import LinnetError
from linnet.results import Segment, Transcription
from linnet.runtime.assemble import assemble
from linnet.runtime.base import CutRequest
from linnet.runtime.longform import Cut, CutPlanner
from linnet.runtime.recording import BLOCK_S, Recording
from linnet.runtime.vad import SAMPLE_RATE_HZ, SpeechDetector
from linnet.text import language_code

LISTENING_SHARE = 0.05
"""Looking for speech in a second of sound counts as this much of hearing it."""


@dataclass(eq=False)
class Job:
    """A recording that somebody waits for."""

    audio: BinaryIO
    """Closed by whoever reads it, and not by who waits: the model may be reading when they leave."""
    language: str | None = None
    context: str = ""
    on_segment: Callable[[Segment], None] = lambda segment: None
    """Hears of every segment in order, on the model's thread."""
    future: Future[Transcription] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits."""
        return not self.future.done()

    def finish(self, result: Transcription) -> None:
        """The answer, unless nobody waits any more."""
        with suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """The reason why there is none."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(eq=False)
class _Open:
    """A job in work."""

    job: Job
    clock: float
    recording: Recording
    cuts: Generator[Cut | None]
    started_at: float = field(default_factory=time.perf_counter)
    given: int = 0
    heard: dict[int, list[Segment]] = field(default_factory=dict)
    """Number of the cut → its segments, for cuts that were finished before an earlier one."""
    segments: list[Segment] = field(default_factory=list)
    told: int = 0
    exhausted: bool = False


class Schedule:
    """The recordings in work, as a CutSource. Everything but `Job.future` belongs to the model's thread."""

    def __init__(self, model: str, between: Callable[[], None]) -> None:
        """`between` is called between any two steps of the model."""
        self._model = model
        self.between = between
        self._open: list[_Open] = []
        self._out: dict[CutRequest, tuple[_Open, int]] = {}
        self._clock = 0.0

    def __len__(self) -> int:
        """Recordings that may have cuts left."""
        return len(self._open)

    def add(self, job: Job) -> None:
        """Take a recording into work."""
        recording = Recording(job.audio, SAMPLE_RATE_HZ, None)
        self._open.append(_Open(job, self._clock, recording, _cuts(recording)))

    def next(self) -> CutRequest | None:
        """The next cut of the recording that is furthest behind; None if none has any left."""
        while self._open:
            one = min(self._open, key=lambda each: each.clock)
            if not one.job.wanted:
                self._close(one)
                continue
            self._clock = one.clock
            try:
                cut = next(one.cuts)
            except StopIteration:
                self._close(one)
                one.exhausted = True
                self._finish(one)
            except Exception as error:  # of this recording; the others go on
                self._close(one)
                one.job.fail(error)
            else:
                if cut is not None:
                    return self._give(one, cut)
                one.clock += BLOCK_S * LISTENING_SHARE
                self.between()  # a long silence must not keep others waiting
        return None

    def wants(self, request: CutRequest) -> bool:
        """Whether anybody waits for the recording of a cut."""
        return self._out[request][0].job.wanted

    def done(self, request: CutRequest, result: list[Segment] | LinnetError) -> None:
        """Take what was heard in a cut; segments are told of as soon as all before them are known."""
        one, number = self._out.pop(request)
        if isinstance(result, LinnetError):
            one.job.fail(result)
            return
        one.heard[number] = result
        while one.told in one.heard:
            for segment in one.heard.pop(one.told):
                one.segments.append(segment)
                one.job.on_segment(segment)
            one.told += 1
        self._finish(one)

    def forget_unwanted(self) -> None:
        """Let go of cuts that were dropped."""
        self._out = {request: owner for request, owner in self._out.items() if owner[0].job.wanted}

    def fail_all(self, error: Exception) -> None:
        """The model failed: everybody in work hears of it."""
        for one in [*self._open, *(owner for owner, _ in self._out.values())]:
            one.job.fail(error)
        for one in list(self._open):
            self._close(one)
        self._out.clear()

    def _close(self, one: _Open) -> None:
        self._open.remove(one)
        one.cuts.close()
        one.job.audio.close()

    def _give(self, one: _Open, cut: Cut) -> CutRequest:
        request = CutRequest(cut, one.job.language, one.job.context)
        self._out[request] = one, one.given
        one.given += 1
        one.clock += cut.duration_s
        return request

    def _finish(self, one: _Open) -> None:
        if one.exhausted and one.told == one.given:
            now = time.perf_counter()
            one.job.finish(
                assemble(
                    one.segments,
                    duration_s=one.recording.duration_s,
                    model=self._model,
                    processing_s=now - one.started_at,
                    language=language_code(one.job.language) if one.job.language else None,
                )
            )


def _cuts(recording: Recording) -> Generator[Cut | None]:
    """The cuts of a recording, and None wherever a block of it brought none."""
    planner = CutPlanner(SpeechDetector())
    for block in recording.blocks():
        cut = None
        for cut in planner.feed(block):
            yield cut
        if cut is None:
            yield None
    yield from planner.finish()
