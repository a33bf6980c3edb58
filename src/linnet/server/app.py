"""The application: all layers and endpoints around one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import linnet
from linnet.errors import LinnetError
from linnet.runtime.base import Recognizer
from linnet.server import noise_api, openai_api, site, streaming
from linnet.server.access import AccessLog
from linnet.server.decode import DecodePool
from linnet.server.engine import Engine
from linnet.server.envelope import ApiError, from_linnet, from_status, internal
from linnet.server.limits import Limits
from linnet.server.metrics import Metrics
from linnet.server.options import ServerOptions
from linnet.server.state import State


def build_state(recognizer: Recognizer, options: ServerOptions, base: Recognizer | None = None) -> State:
    """Engine and decoders for a model, and for its base if that is served beside it; not yet running."""
    decoder = DecodePool(
        workers=options.decode_workers,
        max_duration_s=options.max_duration_s,
        timeout_s=options.decode_timeout_s,
    )
    return State(Engine(recognizer), decoder, options, Metrics(), None if base is None else Engine(base))


def build_app(state: State) -> ASGIApp:
    """The whole application; its lifespan starts and stops the engine."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for engine in state.engines:
            engine.start()
        state.decoder.start()
        try:
            yield
        finally:
            state.decoder.close()
            for engine in state.engines:
                engine.close()

    app = FastAPI(
        title="Linnet",
        version=linnet.__version__,
        description="Speech recognition that fits small machines. OpenAI's clients work with base_url …/v1.",
        lifespan=lifespan,
        openapi_url=None,  # `site` serves both, without a CDN
        docs_url=None,
        redoc_url=None,
    )

    async def answer(_: Request, error: Exception) -> Response:
        failure = _api_error(error)
        state.numbers.errors(code=str(failure.code))
        return failure.response()

    for kind in (ApiError, LinnetError, HTTPException, ClientDisconnect, Exception):  # `access` logs the last kind
        app.add_exception_handler(kind, answer)
    app.include_router(openai_api.router(state))
    app.include_router(noise_api.router(state))
    app.include_router(streaming.router(state))
    app.include_router(site.router(state, app))
    layered: ASGIApp = Limits(_heads_as_gets(app), state.options, state.metrics, lambda: state.ready)
    if state.options.cors_origins:
        layered = CORSMiddleware(
            layered,
            allow_origins=state.options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After", "X-Gain"],
        )
    return AccessLog(layered, state.metrics)


def _heads_as_gets(app: ASGIApp) -> ASGIApp:
    """HEAD gets the answer to GET, as curl -I and monitors expect; uvicorn leaves the body out."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        await app({**scope, "method": "GET"} if head else scope, receive, send)

    return answer


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, LinnetError):
        return from_linnet(error)
    if isinstance(error, HTTPException):
        return from_status(error.status_code, error.detail, dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        return ApiError(499, "The client went away.", code="client_closed")
    return internal()
