"""The model's thread: recordings in, segments and transcriptions out. One model, several recordings side by side.

The event loop hands over work and waits; it never computes. Live sessions come in between as short calls.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO, TypeVar

from linnet.errors import LinnetError
from linnet.results import Segment, Transcription
from linnet.runtime.base import (
    BatchRecognizer,
    CutRecognizer,
    CutRequest,
    CutSource,
    Recognizer,
)
from linnet.runtime.vad import SAMPLE_RATE_HZ
from linnet.server.envelope import going_down
from linnet.server.schedule import Job, Schedule

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Engine:
    """Owns a recogniser from `start` to `close`."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.draining = False
        self.busy_s = 0.0
        """Seconds that the model has worked on recordings."""
        self._inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._schedule = Schedule(recognizer.bundle.name, self._between)
        self._refusing = self._closing = False
        self._jobs: set[Job] = set()
        self._thread = threading.Thread(target=self._run, name="linnet-model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether new requests are let in."""
        return self._thread.is_alive() and not self.draining

    @property
    def pending(self) -> int:
        """Recordings waiting or in work."""
        return len(self._jobs)

    async def transcribe(
        self,
        audio: BinaryIO,
        *,
        language: str | None = None,
        context: str = "",
        on_segment: Callable[[Segment], None] = lambda segment: None,
    ) -> Transcription:
        """Recognise an open audio file, which is closed when the model has let go of it; this may be later than the
        end of this call. `on_segment` hears of each segment in order, on the event loop.

        Raises LinnetError for what is wrong with the request, ApiError 503 if the server is going down. Cancelling the
        caller takes the work off the model.
        """
        if self._refusing or not self._thread.is_alive():
            audio.close()
            raise going_down()
        loop = asyncio.get_running_loop()

        def tell(segment: Segment) -> None:
            with suppress(RuntimeError):  # the loop may have ended
                loop.call_soon_threadsafe(on_segment, segment)

        job = Job(audio, language, context, tell)
        self._jobs.add(job)
        self._inbox.put(job)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            self._jobs.discard(job)

    async def call(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Run a short function on the model's thread, between the steps of other work; its errors are raised here."""
        if not self._thread.is_alive():
            raise going_down()
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments, **options))
                except BaseException as error:  # it belongs to the caller
                    future.set_exception(error)

        self._inbox.put(run)
        return await asyncio.wrap_future(future)

    def drain(self) -> None:
        """Let nobody in any more (`limits` asks `ready`); whoever is in is served."""
        self.draining = True

    def refuse_pending(self) -> None:
        """Answer everything that is waiting, in work or still to come with 503."""
        self._refusing = True
        for job in list(self._jobs):
            job.fail(going_down())

    def close(self) -> None:
        """Stop the thread and release the model."""
        self.draining = True
        self.refuse_pending()
        self._inbox.put(None)
        self._thread.join()
        self.recognizer.close()

    def _run(self) -> None:
        while not self._closing:
            self._take(self._inbox.get())
            if not len(self._schedule):
                continue
            started = time.perf_counter()
            try:
                _recognize(self.recognizer, self._schedule)
            except Exception as error:
                log.exception("the model failed; everything in work is answered with an error")
                self._schedule.fail_all(error)
            self._schedule.forget_unwanted()
            self.busy_s += time.perf_counter() - started
        self._between()  # what came after the last step
        self._schedule.fail_all(going_down())

    def _take(self, work: Job | Callable[[], None] | None) -> None:
        if work is None:
            self._closing = True
        elif isinstance(work, Job):
            try:
                _check(self.recognizer, work)
            except Exception as error:
                work.fail(error)
                work.audio.close()
            else:
                self._schedule.add(work)
        else:
            work()

    def _between(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._take(self._inbox.get_nowait())


def _recognize(recognizer: Recognizer, source: CutSource) -> None:
    """Recognise all that a source gives, in batches if the model gains from them."""
    if isinstance(recognizer, BatchRecognizer):
        recognizer.recognize_from(source)
        return
    while (request := source.next()) is not None:
        source.between()
        if source.wants(request):
            try:
                result = _one_cut(recognizer, request)
            except LinnetError as error:
                source.done(request, error)
            else:
                source.done(request, result)


def _one_cut(recognizer: Recognizer, request: CutRequest) -> list[Segment]:
    """Segments of a cut, at their place in its recording."""
    cut = request.cut
    if isinstance(recognizer, CutRecognizer):
        return recognizer.recognize([cut], language=request.language, context=request.context)
    result = recognizer.transcribe(cut.samples, language=request.language, context=request.context)
    return [_moved(segment, cut.start / SAMPLE_RATE_HZ) for segment in result.segments]


def _moved(segment: Segment, by_s: float) -> Segment:
    words = tuple(
        word
        if word.start_s is None or word.end_s is None
        else replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s)
        for word in segment.words
    )
    return replace(segment, start_s=segment.start_s + by_s, end_s=segment.end_s + by_s, words=words)


def _check(recognizer: Recognizer, job: Job) -> None:
    """Raises LinnetError for a language or context that cannot work, also where nobody speaks."""
    if isinstance(recognizer, CutRecognizer):
        recognizer.recognize([], language=job.language, context=job.context)
