"""`linnet serve` as a process: started, used, stopped, killed."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from linnet.audio import read_audio

CLIP = Path(__file__).parents[2] / "samples" / "en-jfk.flac"


@contextmanager
def serving(*options: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "linnet.cli", "serve", "--port", str(port), "--threads", "1", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://[^\s:]+:(\d+)", line)
        assert found, line
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=60) as client:
            wait_until_ready(client)
            yield process, client
        process.kill()
        reader.join(20)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_until_ready(client: httpx.Client) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            assert client.get("/readyz").status_code == 200
            return
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.05)


def post(client: httpx.Client, file: bytes | None = None) -> httpx.Response:
    files = {"file": file or CLIP.read_bytes()}
    return client.post("/v1/audio/transcriptions", data={"model": "nano"}, files=files)


def test_sigterm_lets_accepted_work_finish_and_leaves_no_process_behind() -> None:
    with serving() as (process, client):
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(post(client))) for _ in range(4)]
        for thread in threads:
            thread.start()
        while "linnet_requests_active 4\n" not in client.get("/metrics").text:
            time.sleep(0.01)
        children = child_processes(process.pid)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert [answer.status_code for answer in answers] == [200] * 4
        assert process.wait(60) == 0
        assert children and not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_second_ctrl_c_refuses_what_is_in_work_and_stops() -> None:
    file = io.BytesIO()  # an hour: far longer to recognise than this test takes
    soundfile.write(file, np.resize(read_audio(CLIP), 3600 * 16_000), 16_000, format="WAV", subtype="PCM_16")
    with serving() as (process, client):
        answers: list[httpx.Response] = []
        work = threading.Thread(target=lambda: answers.append(post(client, file.getvalue())))
        work.start()
        while "linnet_recordings 1\n" not in client.get("/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None and work.is_alive()  # the first one waits for it
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0  # 0.1 s for the refusals, no more than a step of the model for the rest
        work.join(30)
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "shutting_down")


def test_after_kill_9_in_mid_job_a_new_server_starts_and_nothing_is_left() -> None:
    with serving() as (process, client):
        cut_off = threading.Thread(target=expect_to_be_cut_off, args=(client,))
        cut_off.start()
        while "linnet_requests_active 1\n" not in client.get("/metrics").text:
            time.sleep(0.01)
        children = child_processes(process.pid)
        port = client.base_url.port
        assert port is not None
        process.kill()
        cut_off.join(20)
    end = time.monotonic() + 20
    while any(running(child) for child in children):  # they see that their parent is gone
        assert time.monotonic() < end
        time.sleep(0.05)
    with serving(port=port) as (_, client):
        assert post(client).json()["text"]


def test_a_public_address_without_a_key_is_refused() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LINNET_API_KEY"}
    command = [sys.executable, "-m", "linnet.cli", "serve", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 1 and "--public-without-key" in done.stderr and "Traceback" not in done.stderr


def expect_to_be_cut_off(client: httpx.Client) -> None:
    with pytest.raises(httpx.TransportError):
        post(client)


def child_processes(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for child in (task / "children").read_text().split()
    ]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
