"""Live sessions over a real WebSocket: the protocol, its limits, and that it says what the recogniser's stream says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Running, TalkingRecognizer, running, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from linnet.runtime.base import Recognizer
from linnet.runtime.streaming import StreamingTranscriber
from linnet.server.streaming import BUFFER_BYTES


@contextlib.contextmanager
def session(server: Running, **headers: str) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}/v1/audio/stream"
    with connect(url, additional_headers=headers, compression=None, close_timeout=2) as socket:
        yield socket


def pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def send_all(socket: ClientConnection, data: bytes, piece_bytes: int = 3200) -> None:
    for start in range(0, len(data), piece_bytes):
        socket.send(data[start : start + piece_bytes])
    socket.send(json.dumps({"type": "finish"}))


def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages until the server closes."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(socket.recv(timeout=30)))
    return messages


def test_finals_are_those_of_the_recognisers_own_stream(
    nano_server: Running, nano: Recognizer, speech: np.ndarray
) -> None:
    data = pcm(np.concatenate([speech, np.zeros(16_000, np.float32), speech[:48_000]]))
    stream = StreamingTranscriber(nano)
    events = stream.push(np.frombuffer(data, "<i2").astype(np.float32) / 32768) + stream.finish()
    expected = [(one.text, round(one.start_s, 3), round(one.end_s, 3)) for one in events if one.kind == "final"]
    with session(nano_server) as socket:
        sender = threading.Thread(target=send_all, args=(socket, data))
        sender.start()
        messages = rest(socket)
        sender.join()
    assert messages[0] == {"type": "ready", "model": "nano", "sample_rate_hz": 16_000}
    finals = [one for one in messages if one["type"] == "final"]
    assert [(one["text"], one["start_s"], one["end_s"]) for one in finals] == expected and len(expected) >= 2
    assert any(one["type"] == "partial" and one["text"] for one in messages)
    assert all(one["latency_s"] >= 0 and one["language"] for one in finals)
    assert messages[-1]["type"] == "done" and messages[-1]["duration_s"] == pytest.approx(len(data) / 32_000)
    assert socket.close_code == 1000


def test_language_and_context_reach_the_model(server: Running, talking: TalkingRecognizer, speech: np.ndarray) -> None:
    talking.heard.clear()
    with session(server) as socket:
        socket.send(json.dumps({"type": "start", "language": "zh", "context": "Kennedy"}))
        assert json.loads(socket.recv(timeout=30))["type"] == "ready"
        send_all(socket, pcm(speech[:64_000]), 64_000)
        rest(socket)
    assert talking.heard and {one[2:] for one in talking.heard} == {("zh", "Kennedy")}


def test_a_session_without_audio_is_done_at_once(server: Running) -> None:
    with session(server) as socket:
        socket.send('{"type": "finish"}')
        assert [one["type"] for one in rest(socket)] == ["ready", "done"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hello", None),
        ("[]", None),
        ('{"type": 3}', None),
        ('{"type": "restart"}', None),
        ('{"type": "start", "language": 7}', "language"),
        ('{"type": "start", "language": "klingon"}', "language"),
        ('{"type": "start", "context": "' + "x" * 2000 + '"}', None),
        ('{"type": "start", "context": "\\ud800"}', "context"),
        ("[" * 100_000, None),
        (b"abc", None),
    ],
)
def test_a_bad_message_is_named_and_ends_the_session(server: Running, message: str | bytes, param: str | None) -> None:
    with session(server) as socket:
        socket.send(message)
        *_, last = rest(socket)
    assert last["type"] == "error" and last["error"]["message"] and last["error"]["param"] == param
    assert socket.close_code == 1008


def test_a_second_start_is_an_error(server: Running) -> None:
    with session(server) as socket:
        socket.send('{"type": "start"}')
        socket.send('{"type": "start"}')
        assert [one["type"] for one in rest(socket)] == ["ready", "error"]


def test_a_message_above_the_limit_closes_with_1009(server: Running) -> None:
    with session(server) as socket:
        socket.send(bytes((1 << 20) + 2))
        rest(socket)
    assert socket.close_code == 1009


def test_pages_of_other_sites_are_refused(server: Running) -> None:
    with pytest.raises(InvalidStatus) as refused, session(server, Origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    with session(server, Origin=server.url) as socket:
        socket.send('{"type": "finish"}')
        assert rest(socket)[-1]["type"] == "done"


def test_keys_work_in_the_header_and_in_the_first_message(tmp_path: Path) -> None:
    with running(TalkingRecognizer(tmp_path / "bundle"), api_keys=("secret",)) as server:
        for first, headers in (
            ('{"type": "start", "api_key": "secret"}', {}),
            ('{"type": "start"}', {"Authorization": "Bearer secret"}),
        ):
            with session(server, **headers) as socket:
                socket.send(first)
                socket.send('{"type": "finish"}')
                assert rest(socket)[-1]["type"] == "done"
        half_a_pair = '{"type": "start", "api_key": "\\ud800"}'
        for wrong in ('{"type": "start", "api_key": "Secret"}', half_a_pair, '{"type": "start"}', b"\0\0"):
            with session(server) as socket:
                socket.send(wrong)
                assert rest(socket)[-1]["error"]["code"] == "invalid_api_key"


def test_sessions_above_the_limit_are_told_so(tmp_path: Path) -> None:
    with running(TalkingRecognizer(tmp_path / "bundle"), max_streams=1) as server, session(server) as first:
        first.send('{"type": "start"}')
        assert json.loads(first.recv(timeout=30))["type"] == "ready"
        with session(server) as second:
            second.send('{"type": "start"}')
            assert rest(second)[-1]["error"]["code"] == "queue_full"
        assert second.close_code == 1013
        first.send('{"type": "finish"}')
        assert rest(first)[-1]["type"] == "done"


def test_a_silent_client_is_let_go(tmp_path: Path) -> None:
    with running(TalkingRecognizer(tmp_path / "bundle"), upload_idle_s=0.2) as server, session(server) as socket:
        socket.send('{"type": "start"}')
        assert rest(socket)[-1]["error"]["code"] == "timeout"
        assert not server.state.streams


def test_a_client_that_vanishes_frees_its_place(server: Running, speech: np.ndarray) -> None:
    with session(server) as socket:
        socket.send(pcm(speech))
        assert json.loads(socket.recv(timeout=30))["type"] == "ready"
        socket.socket.close()
    with session(server) as socket:  # answered only if the server lives
        socket.send('{"type": "finish"}')
        assert rest(socket)[-1]["type"] == "done"


def test_a_failing_model_is_an_error_without_details(tmp_path: Path, speech: np.ndarray) -> None:
    talking = TalkingRecognizer(tmp_path / "bundle", failure=RuntimeError("secret detail"))
    with running(talking) as server, session(server) as socket:
        send_all(socket, pcm(speech), 64_000)
        last = rest(socket)[-1]
        assert last["error"]["code"] == "internal_error" and "secret" not in json.dumps(last)
    assert socket.close_code == 1011


def test_a_client_faster_than_the_model_is_slowed_down_and_loses_nothing(tmp_path: Path, speech: np.ndarray) -> None:
    """The model is held while ten minutes are sent. The server must stop reading, not collect them."""
    gate = threading.Event()
    talking = TalkingRecognizer(tmp_path / "bundle", gate=gate)
    data = pcm(np.concatenate([speech, np.zeros(16_000 * 589, np.float32)]))
    with running(talking) as server, session(server) as socket:
        sender = threading.Thread(target=send_all, args=(socket, data, 64_000))
        sender.start()
        wait_for(lambda: any(len(one._buffer) >= BUFFER_BYTES for one in server.state.streams))
        assert sender.is_alive()  # twenty megabytes do not fit into the buffers of two sockets
        (one,) = server.state.streams
        assert len(one._buffer) <= BUFFER_BYTES + 64_000
        gate.set()
        messages = rest(socket)
        sender.join(30)
    assert messages[-1]["duration_s"] == 600
    assert [one["end_s"] > 10 for one in messages if one["type"] == "final"][-1]  # pauses in it make several finals
