"""The outermost layer: request ids, one log line and the metrics of each request, safe headers, no stack traces."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linnet.server.envelope import internal
from linnet.server.metrics import SECONDS, Metrics

log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
ROUTES = frozenset({
    "/v1/audio/transcriptions", "/v1/audio/noise", "/v1/audio/stream", "/v1/models", "/healthz", "/readyz", "/metrics",
    "/docs", "/openapi.json",
})  # fmt: skip


class AccessLog:
    """ASGI layer around everything else."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._count = metrics.counter("linnet_requests_total", "Requests by route, method and status.")
        self._observe = metrics.histogram("linnet_request_seconds", "Duration of /v1/audio requests.", SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or session."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        notes: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, notes=notes)
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message["headers"] = [
                    *message.get("headers", ()),
                    *_HEADERS,
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("%s failed", request_id)
            if status == 0 and scope["type"] == "http":
                await internal().response()(scope, receive, send_with_id)
        finally:
            self._write(scope, request_id, status, time.perf_counter() - started, notes)

    def _write(
        self,
        scope: Scope,
        request_id: str,
        status: int,
        seconds: float,
        notes: dict[str, Any],
    ) -> None:
        path: str = scope["path"]
        method = scope.get("method", "WS")
        route = path if path in ROUTES else "other"
        known = method if method in {"GET", "POST", "HEAD", "OPTIONS", "WS"} else "other"
        self._count(route=route, method=known, status=str(status))
        if route.startswith("/v1/audio") and method == "POST":
            self._observe(seconds)
        more = "".join(f" {name}={value}" for name, value in notes.items())
        level = logging.DEBUG if route == "other" or not route.startswith("/v1") else logging.INFO
        # A path is the client's: no line breaks or control characters of it get into the log.
        log.log(
            level,
            "%s %s %s %d %.3fs%s",
            request_id,
            method,
            ascii(path)[1:-1],
            status,
            seconds,
            more,
        )


def note(scope: Scope) -> Callable[..., None]:
    """A function add(**facts): what the log line of this request says besides."""
    notes: dict[str, Any] = scope.get("state", {}).get("notes", {})
    return lambda **facts: notes.update(facts)
