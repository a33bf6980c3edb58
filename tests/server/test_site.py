"""The page's files, the documentation, health: served from the package, without any other host."""

from __future__ import annotations

import re

import pytest
from running import Running

from linnet.server.site import _TYPES, WEB


def test_every_file_of_the_page_is_served_with_its_type(server: Running) -> None:
    files = [path for path in WEB.rglob("*") if path.is_file()]
    assert files
    for path in files:
        answer = server.http.get(f"/{path.relative_to(WEB).as_posix()}")
        assert answer.status_code == 200 and answer.content == path.read_bytes()
        assert answer.headers["content-type"] == _TYPES[path.suffix], path
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_may_load_nothing_from_elsewhere(server: Running) -> None:
    answer = server.http.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
    assert "microphone=(self)" in answer.headers["permissions-policy"]


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/web/../app.py", "//etc/passwd", "/etc/passwd", "/x.js"]
)
def test_nothing_but_the_page_can_be_read(server: Running, path: str) -> None:
    answer = server.http.get(f"{server.url}{path}")
    assert answer.status_code == 404 and set(answer.json()) == {"error"}


def test_the_documentation_needs_no_other_host(server: Running) -> None:
    page = server.http.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert not link.startswith(("http", "//"))
        answer = server.http.get(f"/{link}")
        assert answer.status_code == 200 and len(answer.content) > 50
    assert b"SwaggerUIBundle" in server.http.get("/docs/swagger-ui-bundle.js").content
    assert server.http.get("/docs/main.py").status_code == 404


def test_the_description_names_every_field_of_the_forms(server: Running) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    assert {"/v1/audio/transcriptions", "/v1/audio/noise", "/v1/models", "/healthz", "/readyz"} <= set(paths)
    form = paths["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {
        *("file", "model", "language", "prompt", "response_format", "temperature"),
        *("timestamp_granularities[]", "stream"),
    }


def test_health(server: Running) -> None:
    assert server.http.get("/healthz").json() == {"status": "ok"}
    assert server.http.get("/readyz").json() == {"status": "ready"}


def test_a_wrong_method_is_405_in_the_envelope(server: Running) -> None:
    answer = server.http.get("/v1/audio/transcriptions")
    assert (
        answer.status_code == 405 and answer.headers["allow"] == "POST" and "POST" in answer.json()["error"]["message"]
    )
    assert server.http.delete("/v1/models").status_code == 405


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/docs", "/v1/models", "/openapi.json", "/nothing"])
def test_head_is_get_without_the_body(server: Running, path: str) -> None:
    head, get = server.http.head(path), server.http.get(path)
    assert head.status_code == get.status_code and head.content == b"" != get.content
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
