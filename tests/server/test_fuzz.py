"""Whatever is sent, the answer is never a 500 and always in the envelope."""

from __future__ import annotations

import logging
import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import Running

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.sampled_from(
    ["file", "model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities[]",
     "timestamp_granularities", "include[]", "noise", "snr_db", "seed", "extra"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(["", "fake", "whisper-1", "en", "json", "verbose_json", "srt", "true", "word", "0", "1e999", "nan",
                     "-1", "pink", "5"]),
    st.text(max_size=40),
)  # fmt: skip
PATHS = st.sampled_from(["/v1/audio/transcriptions", "/v1/audio/noise"])


def check(status: int, body: dict[str, object]) -> None:
    assert status < 500, body
    if status != 200:
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


@FUZZ
@given(
    PATHS, st.lists(st.tuples(NAMES, VALUES), max_size=8), st.binary(max_size=300), st.booleans(), st.text(max_size=30)
)
def test_forms_of_any_fields(
    server: Running, wav: bytes, path: str, fields: list[tuple[str, str]], content: bytes, real: bool, name: str
) -> None:
    data: dict[str, list[str]] = {}
    for field, value in fields:
        data.setdefault(field, []).append(value)
    if real:  # mostly complete, so that the fields behind the first check are reached
        data = {"model": ["fake"], "noise": ["pink"], "snr_db": ["5"], **data}
    answer = server.http.post(path, data=data, files={"file": (name or "a", wav[:64_044] if real else content)})
    if answer.headers["content-type"].startswith("application/json"):
        check(answer.status_code, answer.json())
    else:
        assert answer.status_code == 200


@FUZZ
@given(
    PATHS,
    st.sampled_from(["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=",
                     "application/x-www-form-urlencoded", "text/plain",
                     "multipart/form-data; charset=utf-7; boundary=x"]),
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([
        b"--x\r\n", b"--x--\r\n", b"\r\n\r\n", b"\r\n", b'Content-Disposition: form-data; name="file"; filename="a"',
        b'Content-Disposition: form-data; name="model"', b"Content-Disposition: form-data", b"model=fake&file=a",
    ])), max_size=10),
)  # fmt: skip
def test_bodies_that_are_no_forms(server: Running, path: str, kind: str, pieces: list[bytes]) -> None:
    answer = server.http.post(path, content=b"".join(pieces), headers={"content-type": kind})
    check(answer.status_code, answer.json())


@FUZZ
@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
       st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]))  # fmt: skip
def test_any_path_and_method(server: Running, path: str, method: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(f"{method} /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        status = int(raw.recv(64).split()[1])
    assert 200 <= status < 500


def test_too_many_fields_files_and_long_fields_are_400(server: Running) -> None:
    url = "/v1/audio/transcriptions"
    for more in (
        {"data": {f"f{n}": "x" for n in range(40)}},
        {"files": [("file", ("a", b"x")), ("file", ("b", b"y"))]},
        {"data": {"prompt": "x" * 100_000}},
    ):
        answer = server.http.post(url, **{"files": {"file": ("a", b"x")}, **more})  # type: ignore[arg-type]
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_form"


def test_the_log_has_no_line_of_a_clients_making(server: Running, caplog) -> None:  # type: ignore[no-untyped-def]
    with caplog.at_level(logging.DEBUG, "linnet.server.access"):
        server.http.post("/v1/audio/transcriptions%0AINFO%20forged")
    assert "\nINFO forged" not in caplog.text
