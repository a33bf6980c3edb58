"""OpenAI's endpoints: POST /v1/audio/transcriptions and GET /v1/models."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)

from linnet.errors import LinnetError
from linnet.results import Segment, Transcription
from linnet.runtime.assemble import join_texts
from linnet.server.access import note
from linnet.server.decode import Decoded
from linnet.server.engine import Engine
from linnet.server.envelope import ApiError, from_linnet, internal
from linnet.server.forms import Form, open_file, read_form, shown_name
from linnet.server.state import State
from linnet.writers import render

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("segment", "word")
ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
"""OpenAI's own names: clients that send one of them without asking get the model that is here."""
MAX_PROMPT_CHARS = 8000
_KEEP_ALIVE_S = 15.0
Result = TypeVar("Result")

FORM_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "model"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The recording.",
                        },
                        "model": {
                            "type": "string",
                            "description": f"As /v1/models says, or {', '.join(ALIASES)}.",
                        },
                        "language": {
                            "type": "string",
                            "description": "Code or name; left out, the model detects it.",
                        },
                        "prompt": {
                            "type": "string",
                            "maxLength": MAX_PROMPT_CHARS,
                            "description": "Names and terms that may occur.",
                        },
                        "response_format": {
                            "type": "string",
                            "enum": list(FORMATS),
                            "default": "json",
                        },
                        "temperature": {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 1,
                            "description": "Accepted and ignored: decoding is greedy.",
                        },
                        "timestamp_granularities[]": {
                            "type": "array",
                            "items": {"type": "string", "enum": list(GRANULARITIES)},
                            "description": "With verbose_json only.",
                        },
                        "stream": {"type": "boolean", "default": False},
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True)
class Options:
    """What a client asks for besides the recording."""

    engine: Engine
    language: str | None
    context: str
    format: str
    granularities: tuple[str, ...]
    stream: bool


def router(state: State) -> APIRouter:
    """The endpoints over one engine."""
    api = APIRouter(prefix="/v1")

    @api.get("/models", summary="The models that are served")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model(state, engine) for engine in state.engines]})

    @api.get("/models/{name:path}", summary="One model")
    async def model(name: str) -> JSONResponse:
        check_model(state, name)
        return JSONResponse(_model(state, state.engine_for(name)) | {"id": name})

    @api.post("/audio/transcriptions", summary="Speech to text", openapi_extra=FORM_SCHEMA)
    async def transcriptions(request: Request) -> Response:
        async with read_form(request) as form:
            options = read_options(state, form)
            upload = form.file()
            decoded = await while_connected(
                request,
                state.decoder.decode(await open_file(upload), shown_name(upload)),
            )
        note(request.scope)(audio_s=round(decoded.duration_s, 2))
        state.numbers.audio_s(decoded.duration_s, kind="upload")
        if options.stream:
            return StreamingResponse(
                _events(state, decoded, options),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )
        work = options.engine.transcribe(decoded.file, language=options.language, context=options.context)
        result = await while_connected(request, work)
        note(request.scope)(model_s=round(result.processing_s or 0, 3))
        _count_speed(state, result)
        return _document(result, options)

    return api


def _count_speed(state: State, result: Transcription) -> None:
    if result.processing_s is not None and result.duration_s > 0:
        state.numbers.rtf(result.processing_s / result.duration_s)


def _model(state: State, engine: Engine) -> dict[str, Any]:
    bundle = engine.recognizer.bundle
    main = engine is state.engine
    return {
        "id": bundle.name,
        "object": "model",
        "created": state.started_at,
        "owned_by": "linnet",
        "family": bundle.family,
        "languages": list(bundle.languages),
        "aliases": list(ALIASES) if main else [],
        # the page asks both and shows them side by side
        **({"base": state.base.recognizer.bundle.name} if main and state.base is not None else {}),
    }


def check_model(state: State, name: str) -> None:
    """Raises ApiError 404 for a model that is not served."""
    served = [engine.recognizer.bundle.name for engine in state.engines]
    if name not in served and name not in ALIASES:
        raise ApiError(
            404,
            f"The model {name[:80]!r} does not exist here; this server has {' and '.join(map(repr, served))} "
            f"(or {', '.join(ALIASES)}).",
            code="model_not_found",
            param="model",
        )


def read_options(state: State, form: Form) -> Options:
    """The form's fields, checked. Raises ApiError 400 or 404."""
    model = form.text("model")
    if not model:
        raise ApiError(
            400,
            "You must provide a model parameter.",
            code="missing_model",
            param="model",
        )
    check_model(state, model)
    form.number("temperature", 0.0, 0.0, 1.0)
    context = form.text("prompt")
    if len(context) > MAX_PROMPT_CHARS:
        raise ApiError(
            400, f"The prompt has {len(context)} characters; up to {MAX_PROMPT_CHARS} are accepted.",
            code="invalid_value", param="prompt",
        )  # fmt: skip
    if form.texts("include[]") or form.texts("include"):
        raise ApiError(400, "include is not supported: there are no logprobs here.", code="unsupported_value",
                       param="include")  # fmt: skip
    format = form.choice("response_format", "json", FORMATS)
    granularities = (
        *form.texts("timestamp_granularities[]"),
        *form.texts("timestamp_granularities"),
    )
    if any(granularity not in GRANULARITIES for granularity in granularities):
        raise ApiError(
            400, f"timestamp_granularities takes {' and '.join(GRANULARITIES)}, got {', '.join(granularities)[:80]!r}.",
            code="invalid_value", param="timestamp_granularities[]",
        )  # fmt: skip
    if granularities and format != "verbose_json":
        raise ApiError(
            400, f"timestamp_granularities needs response_format verbose_json, got {format}.",
            code="invalid_value", param="timestamp_granularities[]",
        )  # fmt: skip
    if "word" in granularities and not state.engine_for(model).recognizer.times_words:
        raise ApiError(
            400, "This model gives no times of words; leave 'word' out of timestamp_granularities.",
            code="unsupported_value", param="timestamp_granularities[]",
        )  # fmt: skip
    stream = form.flag("stream")
    if stream and format in ("srt", "vtt"):
        raise ApiError(400, f"stream=true goes with json, text and verbose_json, not with {format}.",
                       code="invalid_value", param="stream")  # fmt: skip
    return Options(state.engine_for(model), form.text("language") or None, context, format, granularities, stream)


def _document(result: Transcription, options: Options) -> Response:
    if options.format == "json":
        return JSONResponse({"text": result.text, "usage": _usage(result.duration_s)})
    if options.format == "verbose_json":
        return JSONResponse(verbose(result, options.granularities))
    return PlainTextResponse(render(result, {"text": "txt"}.get(options.format, options.format)))


def verbose(result: Transcription, granularities: tuple[str, ...]) -> dict[str, Any]:
    """OpenAI's verbose_json, with each segment's confidence, language and flags besides."""
    document: dict[str, Any] = json.loads(render(result, "verbose_json"))
    document["usage"] = _usage(result.duration_s)
    for record, segment in zip(document["segments"], result.segments, strict=True):
        record.update(_extras(segment))
    document.setdefault("words", [])
    if "word" in granularities and "segment" not in granularities:
        del document["segments"]
    if "word" not in granularities:
        del document["words"]
    return document


def _extras(segment: Segment) -> dict[str, Any]:
    """Fields that typed clients insist on although nothing is known (tokens, no_speech_prob), and ours."""
    return {
        "tokens": [],
        "no_speech_prob": 0.0,
        "confidence": segment.confidence,
        "language": segment.language,
        "flags": list(segment.flags),
        "words": [word.to_dict() for word in segment.words],
    }


def _usage(duration_s: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(duration_s)}


async def _events(state: State, decoded: Decoded, options: Options) -> AsyncIterator[bytes]:
    """Server-sent events: the text as it is recognised, then all of it. A client that leaves cancels this generator."""
    heard: asyncio.Queue[Segment | None] = asyncio.Queue()
    work = asyncio.ensure_future(
        options.engine.transcribe(
            decoded.file,
            language=options.language,
            context=options.context,
            on_segment=heard.put_nowait,
        )
    )
    work.add_done_callback(lambda _: heard.put_nowait(None))
    segments: list[Segment] = []
    try:
        while True:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_S):
                    segment = await heard.get()
            except TimeoutError:
                yield b": still at work\n\n"  # a comment; so that nobody in between hangs up
                continue
            if segment is None:
                break
            before = len(join_texts(segments))
            segments.append(segment)
            yield _event(
                {
                    "type": "transcript.text.delta",
                    "delta": join_texts(segments)[before:],
                }
            )
            if options.format == "verbose_json":
                yield _event(_segment_event(len(segments) - 1, segment))
        result = await work
        _count_speed(state, result)
        done: dict[str, Any] = {"type": "transcript.text.done", "text": result.text}
        if options.format == "verbose_json":
            done |= verbose(result, options.granularities) | {"processing_s": result.processing_s}
        yield _event(done | {"usage": _usage(result.duration_s)})
    except ApiError as error:
        yield _event(error.body)
    except LinnetError as error:
        yield _event(from_linnet(error).body)
    except Exception:
        yield _event(internal().body)
        raise
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await work


def _segment_event(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "type": "transcript.text.segment",
        "id": str(number),
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "speaker": "",
        **_extras(segment),
    }


def _event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Await something, but give it up when the client goes away (the answer would reach nobody)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "The client went away.", code="client_closed")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
