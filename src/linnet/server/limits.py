"""Who may use the API, and how much of it: keys, origins, size and pace of uploads, requests at a time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linnet.server.envelope import ApiError, busy, going_down
from linnet.server.metrics import Metrics
from linnet.server.options import ServerOptions

PROTECTED = ("/v1/", "/metrics")
UPLOADS = ("/v1/audio/transcriptions", "/v1/audio/noise")


def key_is_valid(given: str, accepted: Iterable[str]) -> bool:
    """Compares with every key, in a time that does not depend on what is equal."""
    valid = False
    for key in accepted:
        # JSON may bring half a surrogate pair, which UTF-8 has no bytes for: a wrong key, no fault of the server's.
        valid |= hmac.compare_digest(given.encode(errors="surrogatepass"), key.encode(errors="surrogatepass"))
    return valid


class Limits:
    """ASGI layer; refuses before a body has been read."""

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics, accepting: Callable[[], bool]) -> None:
        """`accepting` says whether the server takes work: not while it goes down."""
        self._app, self._options, self._accepting = app, options, accepting
        self.active = 0
        """Uploads that were let in and are not answered yet."""
        self._refused = metrics.counter("linnet_refused_total", "Requests refused before work began, by reason.")
        metrics.gauge(
            "linnet_requests_active",
            "Recordings being uploaded, waiting or in work.",
            lambda: self.active,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or session, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        upload = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in UPLOADS
        try:
            self._check(scope, headers, upload=upload)
        except ApiError as error:
            self._refused(reason=str(error.code))
            await _refuse(error, scope, receive, send)
            return
        if not upload:
            await self._app(scope, receive, send)
            return
        self.active += 1
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self.active -= 1

    def _check(self, scope: Scope, headers: dict[str, str], *, upload: bool) -> None:
        options = self._options
        changes = scope["type"] == "websocket" or scope["method"] not in (
            "GET",
            "HEAD",
            "OPTIONS",
        )
        if changes and (origin := headers.get("origin")) is not None:
            self._check_origin(origin, headers.get("host", ""))
        # Browsers cannot set headers on a WebSocket: `streaming` also takes the key in the first message.
        if options.api_keys and scope["path"].startswith(PROTECTED) and scope["type"] == "http":
            check_key(headers.get("authorization"), options.api_keys)
        if not upload:
            return
        if not self._accepting():
            raise going_down()
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > options.max_upload_bytes:
            raise too_large(options)
        if self.active >= options.max_queue:
            raise busy(f"The server is busy with {self.active} recordings; try again soon.")

    def _check_origin(self, origin: str, host: str) -> None:
        allowed = self._options.cors_origins
        if _host(origin) != host and "*" not in allowed and origin not in allowed:
            raise ApiError(
                403,
                f"Pages of {origin[:200]} may not use this server. Whoever runs it can allow them: --cors-origin",
                code="origin_not_allowed",
            )

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that keeps count of the body, and of how long it takes."""
        options, size, complete = self._options, 0, False
        end = asyncio.get_running_loop().time() + options.upload_timeout_s

        async def limited() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(min(end, asyncio.get_running_loop().time() + options.upload_idle_s)):
                    message = await receive()
            except TimeoutError as error:
                raise ApiError(
                    408,
                    f"The upload stopped or was too slow: {size} bytes came. Send it again.",
                    code="upload_timeout",
                    headers={"Connection": "close"},
                ) from error
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > options.max_upload_bytes:
                raise too_large(options)
            return message

        return limited


def check_key(authorization: str | None, accepted: Iterable[str]) -> None:
    """Raises ApiError 401 unless an Authorization header holds one of the keys."""
    scheme, _, key = (authorization or "").partition(" ")
    if not key_is_valid(key.strip() if scheme.lower() == "bearer" else "", accepted):
        what = "Incorrect API key provided." if authorization else "You did not provide an API key."
        raise ApiError(
            401,
            f"{what} Send it as a header: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as http://[
        return None


def too_large(options: ServerOptions) -> ApiError:
    """413 with the limit."""
    return ApiError(
        413,
        f"The upload is larger than the {options.max_upload_mb:g} MB that this server takes. Compress the recording "
        "(flac, opus, mp3) or cut it into parts.",
        code="upload_too_large",
        param="file",
    )


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":  # before the handshake is answered, so that the client sees the HTTP status
        await send(
            {
                "type": "websocket.http.response.start",
                "status": error.status,
                "headers": [],
            }
        )
        await send({"type": "websocket.http.response.body", "body": error.response().body})
    else:
        await error.response()(scope, receive, send)
