"""The model's thread: a queue of recordings in, segments and transcriptions out, one model.

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
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

from linnet.results import Segment, Transcription
from linnet.runtime.base import Recognizer
from linnet.server.envelope import ApiError, busy

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job:
    audio: BinaryIO
    language: str | None
    context: str
    on_segment: Callable[[Segment], None]
    future: Future[Transcription] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)


class Engine:
    """Owns a recogniser from `start` to `close`."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.draining = False
        self._work: queue.SimpleQueue[_Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="linnet-model", daemon=True)
        self._pending: set[_Job] = set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether work is accepted."""
        return self._thread.is_alive() and not self.draining

    @property
    def pending(self) -> int:
        """Recordings waiting or in work."""
        return len(self._pending)

    async def transcribe(
        self,
        audio: BinaryIO,
        *,
        language: str | None = None,
        context: str = "",
        on_segment: Callable[[Segment], None] = lambda segment: None,
    ) -> Transcription:
        """Recognise an open audio file; `on_segment` hears of each segment in order, on the event loop.

        Raises LinnetError for what is wrong with the request, ApiError 503 if the server is going down. Cancelling the
        caller takes the work off the model.
        """
        if not self.ready:
            raise busy("The server is shutting down.", status=503, code="shutting_down")
        loop = asyncio.get_running_loop()

        def tell(segment: Segment) -> None:
            loop.call_soon_threadsafe(on_segment, segment)

        job = _Job(audio, language, context, tell)
        self._pending.add(job)
        self._work.put(job)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            self._pending.discard(job)

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a short function on the model's thread, between other work."""
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:  # it belongs to the caller
                    future.set_exception(error)

        self._work.put(run)
        return await asyncio.wrap_future(future)

    def drain(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        self.draining = True

    def refuse_pending(self) -> None:
        """Answer everything that is still waiting with 503."""
        for job in list(self._pending):
            _fail(job.future, busy("The server is shutting down.", status=503, code="shutting_down"))

    def close(self) -> None:
        """Stop the thread and release the model."""
        self.draining = True
        self.refuse_pending()
        self._work.put(None)
        self._thread.join()
        self.recognizer.close()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if callable(work):
                work()
            elif work.future.set_running_or_notify_cancel():
                try:
                    result = self.recognizer.transcribe(work.audio, language=work.language, context=work.context)
                    for segment in result.segments:
                        work.on_segment(segment)
                    _finish(work.future, result)
                except Exception as error:
                    _fail(work.future, error)


def _finish(future: Future[Transcription], result: Transcription) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: Future[Transcription], error: Exception | ApiError) -> None:
    if not future.done():
        future.set_exception(error)
