"""WS /v1/audio/stream: PCM in, partial and final texts out. docs/serve.md has the protocol.

Two tasks per session: one reads the socket into a small buffer, one gives what is there to the model. When the model is
slower than the client, the buffer fills, reading stops, and the connection itself slows the client down.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from linnet.audio import FloatArray
from linnet.errors import LinnetError
from linnet.runtime.streaming import StreamEvent, StreamingTranscriber
from linnet.runtime.vad import SAMPLE_RATE_HZ
from linnet.server.access import note
from linnet.server.envelope import ApiError, from_linnet, going_down, internal
from linnet.server.limits import check_key
from linnet.server.openai_api import MAX_PROMPT_CHARS
from linnet.server.state import State

BUFFER_BYTES = 5 * SAMPLE_RATE_HZ * 2
"""Audio that waits for the model; above this the socket is not read."""
PUSH_BYTES = SAMPLE_RATE_HZ * 2
"""Most audio given to the model at once: other sessions and recordings come in between."""
FIRST_MESSAGE_S = 20.0
_CLOSE_CODES = {429: 1013, 500: 1011, 503: 1012}


def router(state: State) -> APIRouter:
    """The endpoint."""
    api = APIRouter(prefix="/v1")

    @api.websocket("/audio/stream")
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        session = _Session(state, websocket)
        try:
            await session.run()
        except WebSocketDisconnect:
            pass
        except (ApiError, LinnetError) as error:
            await _close(
                state,
                websocket,
                error if isinstance(error, ApiError) else from_linnet(error),
            )
        except Exception:
            await _close(state, websocket, internal())
            raise
        finally:
            state.streams.discard(session)
            note(websocket.scope)(
                audio_s=round(session.received_s, 2),
                model_s=round(session.processing_s, 3),
            )

    return api


async def end_sessions(state: State, timeout_s: float) -> None:
    """Have every live session give its last texts; returns when all have, or after `timeout_s`."""
    for session in list(state.streams):
        session.end()
    end = time.monotonic() + timeout_s
    while state.streams and time.monotonic() < end:
        await asyncio.sleep(0.05)


class _Session:
    """One connection."""

    def __init__(self, state: State, websocket: WebSocket) -> None:
        self._state, self._websocket = state, websocket
        self.received_s = self.processing_s = 0.0
        self._buffer = bytearray()
        self._changed = asyncio.Condition()
        self._finished = False  # no more audio comes
        self._ended = False  # because the server goes down
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=4096)
        """(seconds of audio received, when), for the latency of finals."""

    async def run(self) -> None:
        """The whole session; ApiError and LinnetError are for the client."""
        state, websocket = self._state, self._websocket
        authorized = not state.options.api_keys
        if not authorized and (header := websocket.headers.get("authorization")) is not None:
            check_key(header, state.options.api_keys)
            authorized = True
        message = await self._receive(FIRST_MESSAGE_S)
        start = _command(message["text"]) if isinstance(message.get("text"), str) else {"type": "start"}
        if not authorized:
            check_key(f"Bearer {start.get('api_key')}", state.options.api_keys)
        if start["type"] not in ("start", "finish"):
            raise _bad(f"The first message is of type {start['type']!r}; accepted: start, or audio.")
        if not state.engine.ready:
            raise going_down()
        if len(state.streams) >= state.options.max_streams:
            raise ApiError(
                429,
                f"{len(state.streams)} live sessions are going on; try again later.",
                code="queue_full",
            )
        state.streams.add(self)
        transcriber = await state.engine.call(
            StreamingTranscriber,
            state.engine.recognizer,
            language=_text(start, "language") or None,
            context=_text(start, "context"),
        )
        name = state.engine.recognizer.bundle.name
        await websocket.send_json({"type": "ready", "model": name, "sample_rate_hz": SAMPLE_RATE_HZ})
        self._finished = start["type"] == "finish"
        if message.get("bytes"):
            await self._take(message["bytes"])
        await self._both(transcriber)

    def end(self) -> None:
        """Finish as if the client had asked for it: the server goes down."""
        self._ended = True
        task = asyncio.ensure_future(self._finish())
        self._end_task = task  # kept, or it may be collected before it ran

    async def _both(self, transcriber: StreamingTranscriber) -> None:
        reader = asyncio.ensure_future(self._read())
        writer = asyncio.ensure_future(self._write(transcriber))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                reader.result()  # raises if the client went away or broke the protocol; else all audio is here
            await writer
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self) -> None:
        while not self._finished:
            message = await self._receive(self._state.options.upload_idle_s)
            if message.get("bytes") is not None:
                await self._take(message["bytes"])
                continue
            command = _command(message.get("text") or "")
            if command["type"] != "finish":
                raise _bad(f"A message of type {command['type']!r} came in mid-session; accepted: finish, or audio.")
            await self._finish()

    async def _write(self, transcriber: StreamingTranscriber) -> None:
        call = self._state.engine.call
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._buffer or self._finished)
                taken = bytes(self._buffer[:PUSH_BYTES])
                del self._buffer[: len(taken)]
                self._changed.notify_all()
            if not taken:
                break
            await self._tell(await call(self._timed, transcriber.push, _samples(taken)))
        await self._tell(await call(self._timed, transcriber.finish))
        done = {
            "type": "done",
            "duration_s": self.received_s,
            "processing_s": round(self.processing_s, 4),
        }
        with suppress(RuntimeError):  # the client may be gone
            await self._websocket.send_json(done)
            await self._websocket.close(1012 if self._ended else 1000)

    def _timed(self, function: Any, *arguments: Any) -> list[StreamEvent]:
        """On the model's thread."""
        started = time.perf_counter()
        events: list[StreamEvent] = function(*arguments)
        self.processing_s += time.perf_counter() - started
        return events

    async def _take(self, data: bytes) -> None:
        if len(data) % 2:
            raise _bad(f"A piece of audio has {len(data)} bytes; 16-bit samples come in even numbers of bytes.")
        seconds = len(data) / 2 / SAMPLE_RATE_HZ
        self.received_s += seconds
        self._arrivals.append((self.received_s, time.monotonic()))
        self._state.numbers.audio_s(seconds, kind="live")
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._buffer) < BUFFER_BYTES)
            self._buffer += data
            self._changed.notify_all()

    async def _finish(self) -> None:
        async with self._changed:
            self._finished = True
            self._changed.notify_all()

    async def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                message = dict(await self._websocket.receive())
        except TimeoutError as error:
            raise ApiError(408, f"Nothing came for {timeout_s:g} s.", code="timeout") from error
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        return message

    async def _tell(self, events: list[StreamEvent]) -> None:
        for event in events:
            document: dict[str, Any] = {
                "type": event.kind,
                "start_s": round(event.start_s, 3),
                "end_s": round(event.end_s, 3),
                "text": event.text,
                "confidence": event.confidence,
            }
            if event.kind == "final":
                document |= {"language": event.language, "flags": list(event.flags)}
                if (latency_s := self._latency_s(event.end_s)) is not None:
                    document["latency_s"] = round(latency_s, 3)
                    self._state.numbers.latency_s(latency_s)
            await self._websocket.send_json(document)

    def _latency_s(self, end_s: float) -> float | None:
        """Seconds since the sound at `end_s` arrived; None if that is too long ago to be known."""
        if not self._arrivals or (self._arrivals[0][0] > end_s and len(self._arrivals) == self._arrivals.maxlen):
            return None
        while len(self._arrivals) > 1 and self._arrivals[0][0] < end_s:
            self._arrivals.popleft()
        return time.monotonic() - self._arrivals[0][1]


def _samples(data: bytes) -> FloatArray:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def _command(text: str) -> dict[str, Any]:
    try:
        command = json.loads(text)
    except (ValueError, RecursionError):
        command = None
    if not isinstance(command, dict) or not isinstance(command.get("type"), str):
        raise _bad(f'A text message has to be a JSON object such as {{"type": "finish"}}, got {text[:80]!r}.')
    return command


def _text(command: dict[str, Any], name: str) -> str:
    value = command.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_PROMPT_CHARS:
        raise _bad(f"{name} takes text of at most {MAX_PROMPT_CHARS} characters.", param=name)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _bad(f"{name} holds half a surrogate pair (\\ud800 to \\udfff); send whole characters.", param=name)
    return value


def _bad(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, code="invalid_message", param=param)


async def _close(state: State, websocket: WebSocket, error: ApiError) -> None:
    state.numbers.errors(code=str(error.code))
    with suppress(RuntimeError):  # already closed
        await websocket.send_json({"type": "error", **error.body})
        await websocket.close(_CLOSE_CODES.get(error.status, 1008))
