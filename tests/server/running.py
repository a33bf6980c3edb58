"""A server on a real socket, in a thread of the test's process, and a recogniser that does as it is told."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import uvicorn

from fake_recognizer import make_bundle
from linnet.errors import ConfigError, LanguageError, LinnetError
from linnet.results import Segment, Transcription
from linnet.runtime.base import AudioSource, CutSource, Progress, Recognizer
from linnet.runtime.longform import Cut
from linnet.server.app import build_app, build_state
from linnet.server.options import ServerOptions
from linnet.server.run import WS_MAX_BYTES
from linnet.server.state import State

RATE_HZ = 16_000
JFK = Path(__file__).parents[2] / "samples" / "en-jfk.flac"


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    state: State
    http: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def running(recognizer: Recognizer, *, base: Recognizer | None = None, **options: Any) -> Iterator[Running]:
    """Serve a recogniser, and its base if there is one, until the block ends."""
    state = build_state(recognizer, ServerOptions(**{"decode_workers": 1, **options}), base)
    config = uvicorn.Config(
        build_app(state), http="h11", ws="websockets-sansio", ws_max_size=WS_MAX_BYTES, ws_per_message_deflate=False,
        log_config=None, lifespan="on", timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    started = threading.Event()

    async def serve() -> None:
        task = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        started.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(30) and server.started
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(
            base_url=url, timeout=60, verify=False, limits=httpx.Limits(max_keepalive_connections=0)
        ) as http:
            yield Running(url, state, http)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@dataclass
class TalkingRecognizer:
    """Hears "w1 w2 …", a word for each second of a cut that has begun. `gate`, if given, holds every cut back.

    Knows English and Chinese. `heard` keeps (start_s, duration_s, language, context) of every cut.
    """

    folder: Path
    gate: threading.Event | None = None
    failure: Exception | None = None
    heard: list[tuple[float, float, str | None, str]] = field(default_factory=list)
    before: Callable[[Cut], None] = lambda cut: None
    closed: bool = False
    times_words: bool = False
    name: str = "fake"

    def __post_init__(self) -> None:
        self.bundle = make_bundle(self.folder, name=self.name)

    def recognize(self, cuts: Iterable[Cut], *, language: str | None = None, context: str = "") -> list[Segment]:
        if language not in (None, "en", "zh"):
            raise LanguageError(f"no language {language!r}; accepted: en, zh")
        if len(context) > 1000:
            raise ConfigError("Shorten the context.")
        return [segment for cut in cuts for segment in self._one(cut, language, context)]

    def recognize_from(self, source: CutSource) -> None:
        while True:
            source.between()
            if (request := source.next()) is None:
                return
            if not source.wants(request):
                continue
            result: list[Segment] | LinnetError
            try:
                result = self.recognize([request.cut], language=request.language, context=request.context)
            except LinnetError as error:
                result = error
            source.done(request, result)

    def draft(
        self,
        cut: Cut,
        previous: Any = None,
        *,
        language: str | None = None,
        context: str = "",
    ) -> Any:
        text = " ".join(segment.text for segment in self._one(cut, language, context))
        return Draft(text, 0.5)

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int = RATE_HZ,
        language: str | None = None,
        context: str = "",
        progress: Progress | None = None,
    ) -> Transcription:
        raise AssertionError("the server plans the cuts itself")

    def close(self) -> None:
        self.closed = True

    def _one(self, cut: Cut, language: str | None, context: str) -> list[Segment]:
        self.before(cut)
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        start_s = cut.speech_start / RATE_HZ
        self.heard.append((start_s, cut.duration_s, language, context))
        text = " ".join(f"w{n}" for n in range(1, int(cut.duration_s) + 2))
        return [Segment(text, start_s, cut.speech_end / RATE_HZ, language or "en", 0.5)]


@dataclass(frozen=True)
class Draft:
    text: str
    confidence: float
    has_ended: bool = True
    has_ended: bool = True


def to_wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
