"""The page and its files, health, metrics, and the description of the API: everything that needs no model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)

from linnet.server.envelope import from_status
from linnet.server.limits import UPLOADS
from linnet.server.metrics import CONTENT_TYPE
from linnet.server.state import State

WEB = Path(__file__).parent / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".txt": "text/plain; charset=utf-8",
}
_POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_DOCS_HEADERS = _PAGE_HEADERS | {  # Swagger UI sets styles on its elements
    "Content-Security-Policy": _PAGE_HEADERS["Content-Security-Policy"].replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    )
}
_DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Linnet API</title><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>
"""
_DOCS_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", validatorUrl: null});\n'


def router(state: State, app: FastAPI) -> APIRouter:
    """The endpoints; the page's files come last, as they take every path that is left."""
    api = APIRouter(include_in_schema=False)
    ready = APIRouter()
    pages = {path.relative_to(WEB).as_posix(): path for path in WEB.rglob("*") if path.suffix in _TYPES}

    @ready.get("/healthz", summary="Whether the process lives")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @ready.get("/readyz", summary="Whether it takes work")
    async def readyz() -> JSONResponse:
        ok = state.ready
        return JSONResponse({"status": "ready" if ok else "not ready"}, 200 if ok else 503)

    @ready.get("/metrics", summary="Numbers for Prometheus")
    async def metrics() -> Response:
        return Response(state.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    @api.get("/openapi.json")
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @api.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(_DOCS, headers=_DOCS_HEADERS)

    @api.get("/docs/start.js")
    async def docs_start() -> PlainTextResponse:
        return PlainTextResponse(_DOCS_START, media_type="text/javascript")

    @api.get("/docs/{name}")
    async def docs_file(name: str) -> FileResponse:
        if name not in ("swagger-ui.css", "swagger-ui-bundle.js"):
            raise from_status(404)
        found = Path(str(files("fastapi_swagger") / "resources" / name))
        return FileResponse(
            found,
            media_type=_TYPES[found.suffix],
            headers={"Cache-Control": "max-age=86400"},
        )

    @api.get("/{path:path}")
    async def page(path: str) -> FileResponse:
        found = pages.get(path or "index.html")  # a table, so no path of a client's ever reaches the disk
        if f"/{path}" in UPLOADS:
            raise from_status(405, f"/{path} takes a recording by POST; /docs describes it.", {"Allow": "POST"})
        if found is None:
            raise from_status(
                404,
                f"There is no {'/' + path[:100]!r} here; the API is described under /docs.",
            )
        return FileResponse(found, media_type=_TYPES[found.suffix], headers=_PAGE_HEADERS)

    ready.include_router(api)
    return ready
