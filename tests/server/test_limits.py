"""Who may use the API and how much of it: keys, origins, sizes, pace, numbers. And what a request leaves behind."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from running import Running, TalkingRecognizer, running, wait_for

from linnet.errors import ConfigError
from linnet.server.limits import key_is_valid
from linnet.server.options import ServerOptions, is_loopback
from linnet.server.run import check_address

URL = "/v1/audio/transcriptions"


def post(server: Running, file: bytes, **more: object) -> httpx.Response:
    return server.http.post(URL, data={"model": "fake"}, files={"file": ("a.wav", file)}, **more)


@contextlib.contextmanager
def served(tmp_path: Path, **options: object) -> Iterator[tuple[Running, TalkingRecognizer]]:
    talking = TalkingRecognizer(tmp_path / "bundle")
    with running(talking, **options) as server:
        yield server, talking


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_public_address_needs_a_key_or_a_word(host: str) -> None:
    with pytest.raises(ConfigError, match="without an API key"):
        ServerOptions(host=host)
    ServerOptions(host=host, api_keys=("k",))
    ServerOptions(host=host, public_without_key=True)


def test_this_machines_own_addresses_do_not() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"))
    ServerOptions(host="::1")


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"api_keys": (" ",)}, {"max_queue": 0}, {"max_upload_mb": 0}, {"max_duration_s": -1}]
)
def test_options_that_cannot_work_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ServerOptions(**wrong)  # type: ignore[arg-type]


def test_a_port_in_use_or_an_unknown_address_is_named() -> None:
    check_address("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(ConfigError, match=f"{host}, port {port}: Address already in use.*--port"):
                check_address(host, port)
    check_address("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"192[.]0[.]2[.]1"):
        check_address("192.0.2.1", 0)  # set aside for examples, nobody has it


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://App.example", "https://a/b", ""])
def test_an_origin_that_no_browser_would_send_is_named(origin: str) -> None:
    with pytest.raises(ConfigError, match="CORS origin"):
        ServerOptions(cors_origins=("https://app.example:8443", "http://[::1]:3000", "*", origin))


def test_keys_are_compared_whole() -> None:
    assert key_is_valid("b", ("a", "b")) and key_is_valid("ключ", ("ключ",))
    assert not any(key_is_valid(given, ("abc",)) for given in ("", "ab", "abcd", "ABC"))
    assert not key_is_valid("\ud800", ("key",))
    assert not key_is_valid("", ())


def test_without_the_key_nothing_but_health_and_the_page(tmp_path: Path, wav: bytes) -> None:
    with served(tmp_path, api_keys=("secret", "other")) as (server, _):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = post(server, wav, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert server.http.get("/v1/models", headers=headers).status_code == 401
            assert server.http.get("/metrics", headers=headers).status_code == 401
        for key in ("secret", "other"):
            assert post(server, wav, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert all(server.http.get(path).status_code == 200 for path in ("/healthz", "/readyz", "/docs"))


def test_pages_of_other_sites_may_use_it_only_if_named(tmp_path: Path, wav: bytes) -> None:
    other = {"Origin": "https://app.example"}
    with served(tmp_path) as (server, _):
        assert post(server, wav, headers=other).status_code == 403
        assert post(server, wav, headers={"Origin": "null"}).status_code == 403
        assert post(server, wav, headers={"Origin": server.url}).status_code == 200
        assert "access-control-allow-origin" not in server.http.get("/v1/models", headers=other).headers
    with served(tmp_path / "2", cors_origins=("https://app.example",)) as (server, _):
        answer = post(server, wav, headers=other)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://app.example"
        assert post(server, wav, headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "http://\xe9", ""])
def test_an_origin_that_is_no_address_is_refused_like_any_other(server: Running, wav: bytes, origin: str) -> None:
    answer = post(server, wav, headers={"Origin": origin.encode("latin-1")})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"


def test_an_upload_above_the_limit_is_413_whether_announced_or_not(tmp_path: Path) -> None:
    with served(tmp_path, max_upload_mb=0.1) as (server, talking):
        assert post(server, bytes(200_000)).status_code == 413

        def chunks() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(20):
                yield bytes(10_000)
            yield b"\r\n--x--\r\n"

        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = server.http.post(URL, content=chunks(), headers=headers)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "upload_too_large"
        assert talking.heard == []


def test_an_upload_that_stops_is_408_and_frees_its_place(tmp_path: Path) -> None:
    with served(tmp_path, upload_idle_s=0.2) as (server, _):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            slow.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            assert b" 408 " in slow.recv(4096).splitlines()[0]
        assert "linnet_requests_active 0\n" in server.http.get("/metrics").text


def test_a_recording_above_the_limit_is_400_even_if_it_does_not_say_its_length(tmp_path: Path) -> None:
    packed = io.BytesIO()
    soundfile.write(packed, np.zeros(16_000 * 100), 16_000, format="FLAC")  # a bomb: 1000 to 1
    mp3 = io.BytesIO()
    soundfile.write(mp3, np.zeros(16_000 * 100), 16_000, format="MP3")
    with served(tmp_path, max_duration_s=60.0) as (server, talking):
        for bomb in (packed.getvalue(), mp3.getvalue()):
            answer = post(server, bomb)
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "audio_too_long"
        assert talking.heard == []


def test_when_the_queue_is_full_more_is_429_at_once_and_what_was_accepted_is_answered(
    tmp_path: Path, wav: bytes
) -> None:
    with served(tmp_path, max_queue=3) as (server, talking):
        talking.gate = threading.Event()
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(post(server, wav))) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: server.state.engine.pending == 3)
        refused = post(server, wav)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert server.http.get("/healthz").status_code == 200  # the event loop is free
        talking.gate.set()
        for thread in threads:
            thread.join(30)
        assert [answer.status_code for answer in answers] == [200] * 3
        assert post(server, wav).status_code == 200


def test_on_the_way_down_nobody_is_let_in_and_whoever_is_in_is_answered(tmp_path: Path, wav: bytes) -> None:
    with served(tmp_path) as (server, talking):
        talking.gate = threading.Event()
        answers: list[httpx.Response] = []
        accepted = threading.Thread(target=lambda: answers.append(post(server, wav)))
        accepted.start()
        wait_for(lambda: "linnet_requests_active 1\n" in server.http.get("/metrics").text)
        server.state.engine.drain()
        refused = post(server, wav)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "shutting_down"
        assert server.http.get("/readyz").status_code == 503 and server.http.get("/healthz").status_code == 200
        talking.gate.set()
        accepted.join(30)
        assert answers[0].status_code == 200


def test_a_client_that_hangs_up_takes_its_work_with_it(
    tmp_path: Path, long_wav: Callable[[float], bytes], wav: bytes
) -> None:
    with served(tmp_path) as (server, talking):
        talking.gate = threading.Event()
        with pytest.raises(httpx.ReadTimeout):
            post(server, long_wav(40), timeout=httpx.Timeout(20, read=1.5))
        wait_for(lambda: server.state.engine.pending == 0)
        talking.gate.set()
        assert post(server, wav).status_code == 200
        assert len(talking.heard) <= 2  # the cut that was in work, and that of the other recording


def test_a_client_that_leaves_a_stream_takes_its_work_with_it(
    tmp_path: Path, long_wav: Callable[[float], bytes]
) -> None:
    with served(tmp_path) as (server, talking):
        talking.gate = threading.Event()
        form = {"model": "fake", "stream": "true"}
        with server.http.stream("POST", URL, data=form, files={"file": ("a", long_wav(40))}) as answer:
            assert answer.status_code == 200
            wait_for(lambda: server.state.engine.pending == 1)
        wait_for(lambda: server.state.engine.pending == 0)
        talking.gate.set()


def test_a_failing_model_is_500_without_a_stack_trace_and_the_log_has_it_under_the_id(
    tmp_path: Path, wav: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with served(tmp_path) as (server, talking), caplog.at_level(logging.INFO):
        talking.failure = RuntimeError("secret detail")
        answer = post(server, wav, headers={"X-Request-ID": "my-id.1"})
        talking.failure = None
        assert answer.status_code == 500 and answer.headers["x-request-id"] == "my-id.1"
        assert "secret" not in answer.text and "Traceback" not in answer.text
        assert answer.json()["error"]["type"] == "server_error"
        wait_for(lambda: "my-id.1 POST" in caplog.text)
        assert "secret detail" in caplog.text and "my-id.1 failed" in caplog.text


def test_ids_that_could_forge_a_log_line_are_replaced(server: Running) -> None:
    answer = server.http.get("/healthz", headers={"X-Request-ID": "a b\tINFO x"})
    assert answer.headers["x-request-id"].startswith("req_")


def test_metrics_count_requests_audio_and_errors(tmp_path: Path, wav: bytes) -> None:
    with served(tmp_path) as (server, _):
        post(server, wav)
        post(server, b"nothing")
        wait_for(lambda: 'status="400"' in server.http.get("/metrics").text)
        page = server.http.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        for line in (
            'linnet_requests_total{method="POST",route="/v1/audio/transcriptions",status="200"} 1',
            'linnet_requests_total{method="POST",route="/v1/audio/transcriptions",status="400"} 1',
            'linnet_audio_seconds_total{kind="upload"} 11',
            'linnet_errors_total{code="invalid_audio"} 1',
            "linnet_real_time_factor_count 1",
            'linnet_real_time_factor_bucket{le="+Inf"} 1',
            "linnet_ready 1",
            "linnet_requests_active 0",
        ):
            assert f"\n{line}\n" in page.text, line


def test_paths_of_clients_do_not_become_metrics(server: Running) -> None:
    for number in range(3):
        assert server.http.get(f"/nothing-{number}").status_code == 404
    assert "nothing" not in server.http.get("/metrics").text
