"""Load and faults: `linnet serve` as a process, with clients, overload, kill -9, hostile and huge files and a long day.

    python benchmarks/server.py                     # everything; half an hour on two quiet cores
    python benchmarks/server.py --requests 200 --seconds 5 --hostile 40 --live-minutes 10

Clients run on the same machine and cost some of it. The answer goes to stdout and to results/server.json; the exit code
is 1 if a promise was broken: a 5xx, an accepted request without an answer, a process left behind, growing memory.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import soundfile
from server_upload import uploads
from websockets.asyncio.client import connect

from linnet.audio import read_audio
from linnet.environment import provenance

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "samples" / "en-jfk.flac"
DIGIT = ROOT / "samples" / "en-digit-seven.flac"
URL = "/v1/audio/transcriptions"
FORM = {"model": "nano"}
PARTS = ["load", "overload", "kill_9", "hostile", "upload", "live", "memory"]
Result = TypeVar("Result")


class Server:
    """`linnet serve` in a process of its own."""

    def __init__(self, *options: str, port: int = 0, spool: str | None = None) -> None:
        """`spool`: folder for its temporary files."""
        command = [sys.executable, "-m", "linnet.cli", "serve", "--port", str(port), "--quiet", *options]
        environment = os.environ | ({"TMPDIR": spool} if spool else {})
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        found = re.search(r":(\d+)  ", self.process.stderr.readline())
        assert found, "the server did not start"
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def processes(self) -> list[int]:
        """The server and its decoders."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [self.process.pid, *(int(pid) for task in tasks for pid in task.read_text().split())]

    def memory_mb(self) -> float:
        """Resident memory of the server's own process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1000 if found else 0.0


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    server = Server(*options)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


def http(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=200))


async def post(client: httpx.AsyncClient, content: bytes, name: str = "a.flac") -> tuple[int, float]:
    """Status and seconds of one request."""
    started = time.perf_counter()
    answer = await client.post(URL, data=FORM, files={"file": (name, content)})
    return answer.status_code, time.perf_counter() - started


def percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}_s": round(float(np.percentile(seconds, p)), 4) for p in (50, 95, 99)}


async def load(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` that send the 11 s clip again as soon as they have their answer."""
    content, end = SPEECH.read_bytes(), time.perf_counter() + seconds
    answers: list[tuple[int, float]] = []

    async def one(client: httpx.AsyncClient) -> None:
        while time.perf_counter() < end:
            answers.append(await post(client, content))

    async with http(server) as client:
        await post(client, content)
        started = time.perf_counter()
        await asyncio.gather(*(one(client) for _ in range(clients)))
        wall_s = time.perf_counter() - started
    duration_s = len(read_audio(SPEECH)) / 16_000
    return {
        "clients": clients,
        "requests": len(answers),
        "statuses": dict(Counter(str(status) for status, _ in answers)),
        "requests_per_s": round(len(answers) / wall_s, 3),
        "audio_s_per_s": round(len(answers) * duration_s / wall_s, 2),
        **percentiles([spent for _, spent in answers]),
    }


async def overload(clients: int, max_queue: int) -> dict[str, Any]:
    """More clients at once than the queue takes: refusals are quick, and everything accepted is answered."""
    with serving("--max-queue", str(max_queue)) as server:
        async with http(server) as client:
            answers = await asyncio.gather(*(post(client, SPEECH.read_bytes()) for _ in range(clients)))
    refused = [spent for status, spent in answers if status in (429, 503)]
    return {
        "clients": clients,
        "max_queue": max_queue,
        "statuses": dict(Counter(str(status) for status, _ in answers)),
        "refused": percentiles(refused) if refused else None,
        "accepted": percentiles([spent for status, spent in answers if status == 200]),
    }


async def kill_and_restart() -> dict[str, Any]:
    """kill -9 while requests are in work; what is left behind, and how long until a new server answers."""
    with tempfile.TemporaryDirectory() as spool:
        return await _kill_and_restart(spool)


async def _kill_and_restart(spool: str) -> dict[str, Any]:
    server = Server(spool=spool)
    async with http(server) as client:
        await post(client, DIGIT.read_bytes())
        before = set(os.listdir(spool))  # ONNX Runtime leaves a file of its own there, always the same one
        work = [asyncio.ensure_future(post(client, SPEECH.read_bytes())) for _ in range(8)]
        while f"linnet_requests_active {len(work)}\n" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)
        processes = server.processes
        server.process.send_signal(signal.SIGKILL)
        cut_off = await asyncio.gather(*work, return_exceptions=True)
        server.process.wait()
    started = time.perf_counter()
    again = Server(port=server.port)
    async with http(again) as client:
        status, _ = await post(client, DIGIT.read_bytes())
    restart_s = time.perf_counter() - started
    left = [pid for pid in processes if _runs(pid)]
    again.process.terminate()
    again.process.wait(60)
    return {
        "requests_cut_off": sum(isinstance(one, Exception) for one in cut_off),
        "processes_left": len(left),
        "temporary_files_left": len(set(os.listdir(spool)) - before),
        "first_answer_after_s": round(restart_s, 2),
        "its_status": status,
    }


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def hostile_files(count: int) -> Iterator[bytes]:
    """Damaged, lying, packed and foreign files; the same ones every time."""
    rng = random.Random(0)
    clean = [SPEECH.read_bytes(), DIGIT.read_bytes()]
    for suffix in ("WAV", "OGG", "MP3"):
        file = io.BytesIO()
        soundfile.write(file, read_audio(SPEECH)[:48_000], 16_000, format=suffix)
        clean.append(file.getvalue())
    bomb = io.BytesIO()
    soundfile.write(bomb, np.zeros(16_000 * 8000), 16_000, format="FLAC")  # longer than the limit of two hours
    special = [b"", b"\0" * 100_000, b"<html></html>", bomb.getvalue(), b"ID3\x04\0\0\0\0\0\0#EXTM3U\nfile:///etc/passwd",
               clean[2][:44], b"RIFF" + b"\xff" * 500, b"fLaC" + bytes(5000), b"\0\0\0\x08ftyp" * 1000]  # fmt: skip
    for number in range(count):
        if number % 10 == 0:
            yield special[number // 10 % len(special)]
            continue
        content = bytearray(rng.choice(clean))
        for _ in range(rng.randint(1, 30)):
            content[rng.randrange(min(len(content), rng.choice((64, 4096, 1 << 30))))] = rng.randrange(256)
        yield bytes(content[: rng.randint(1, len(content))]) if rng.random() < 0.5 else bytes(content)


async def hostile(server: Server, count: int) -> dict[str, Any]:
    """Hostile uploads, four at a time, and a good one at the end."""
    answers: list[tuple[int, float]] = []
    files = hostile_files(count)

    async def one(client: httpx.AsyncClient) -> None:
        for content in files:
            answers.append(await post(client, content))

    async with http(server) as client:
        await asyncio.gather(*(one(client) for _ in range(4)))
        after, _ = await post(client, DIGIT.read_bytes())
    return {
        "files": len(answers),
        "statuses": dict(Counter(str(status) for status, _ in answers)),
        "slowest_s": round(max(spent for _, spent in answers), 2),
        "a_good_file_afterwards": after,
    }


async def memory(server: Server, requests: int) -> dict[str, Any]:
    """Resident memory over many short requests; a tenth of them warm up."""
    content, samples = DIGIT.read_bytes(), []
    statuses: Counter[str] = Counter()
    async with http(server) as client:
        for start in range(0, requests, 20):
            done = await asyncio.gather(*(post(client, content) for _ in range(min(20, requests - start))))
            statuses.update(str(status) for status, _ in done)
            samples.append(server.memory_mb())
    warm = samples[len(samples) // 10 :]
    slope = float(np.polyfit(np.arange(len(warm)) * 20, warm, 1)[0]) if len(warm) > 2 else 0.0
    return {
        "requests": requests,
        "statuses": dict(statuses),
        "after_warm_up_mb": round(warm[0], 1),
        "at_the_end_mb": round(warm[-1], 1),
        "highest_mb": round(max(warm), 1),
        "growth_mb_per_1000_requests": round(slope * 1000, 2),
    }


async def live(server: Server, minutes: float) -> dict[str, Any]:
    """Speech with pauses through the socket as fast as it goes, then eleven seconds at the pace of a microphone."""
    speech = read_audio(SPEECH)
    pieces = (np.concatenate([speech, np.zeros(32_000, np.float32)]) * 32767).astype("<i2").tobytes()
    rounds = max(1, round(minutes * 60 * 32_000 / len(pieces)))
    before_mb, started = server.memory_mb(), time.perf_counter()
    highest_mb = before_mb
    async with connect(f"ws://127.0.0.1:{server.port}/v1/audio/stream", compression=None, max_size=None) as socket:

        async def send() -> None:
            nonlocal highest_mb
            for _ in range(rounds):
                for at in range(0, len(pieces), 32_000):
                    await socket.send(pieces[at : at + 32_000])
                highest_mb = max(highest_mb, server.memory_mb())
            await socket.send('{"type": "finish"}')

        sender = asyncio.ensure_future(send())
        messages = [json.loads(message) async for message in socket]
        await sender
    wall_s = time.perf_counter() - started
    done = messages[-1]
    finals = [one for one in messages if one["type"] == "final"]
    paced = await _paced(server, pieces)
    return {
        "audio_s": round(done["duration_s"], 1),
        "wall_s": round(wall_s, 1),
        "real_time_factor": round(wall_s / done["duration_s"], 4),
        "finals": len(finals),
        "finals_in_order": all(a["end_s"] <= b["start_s"] + 0.6 for a, b in pairwise(finals)),
        "memory_before_mb": round(before_mb, 1),
        "memory_highest_mb": round(highest_mb, 1),
        "final_text_after_speech_s": paced,
    }


async def _paced(server: Server, pieces: bytes) -> list[float]:
    """Seconds from the end of speech to its final text, at the pace of a microphone (100 ms pieces)."""
    async with connect(f"ws://127.0.0.1:{server.port}/v1/audio/stream", compression=None) as socket:

        async def send() -> None:
            start = time.perf_counter()
            for number, at in enumerate(range(0, len(pieces), 3200)):
                await asyncio.sleep(max(0.0, start + number * 0.1 - time.perf_counter()))
                await socket.send(pieces[at : at + 3200])
            await socket.send('{"type": "finish"}')

        sender = asyncio.ensure_future(send())
        messages = [json.loads(message) async for message in socket]
        await sender
    return [one["latency_s"] for one in messages if one["type"] == "final" and "latency_s" in one]


def broken_promises(report: dict[str, Any]) -> list[str]:
    """What must not happen and did."""
    found = []
    for name, part in report.items():
        for piece in part if isinstance(part, list) else [part]:
            statuses = piece.get("statuses", {}) if isinstance(piece, dict) else {}
            allowed = {"200", "400", "413", "429", "503"} if name in ("overload", "hostile") else {"200"}
            found += [f"{name}: status {status}" for status in statuses if status not in allowed]
    if (over := report.get("overload")) and sum(over["statuses"].values()) != over["clients"]:
        found.append("overload: requests without an answer")
    if (kill := report.get("kill_9")) and (kill["processes_left"] or kill["temporary_files_left"]):
        found.append("kill -9 left something behind")
    for piece in report.get("upload", []):
        if piece["peak_while_uploading_mb"] > piece["memory_before_mb"] + 30:
            found.append("memory of an upload grows with its size")
    if (held := report.get("memory")) and held["requests"] >= 500 and held["growth_mb_per_1000_requests"] > 5:
        found.append("memory grows")
    return found


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for, one after the other, each with the load of the machine before it."""
    parts: dict[str, Callable[[], Awaitable[Any]]] = {
        "overload": lambda: overload(64, 8),
        "kill_9": kill_and_restart,
        "load": lambda: all_loads(options),
        "hostile": lambda: with_server(options, lambda server: hostile(server, options.hostile)),
        "upload": lambda: with_server(
            options, lambda s: uploads(s.port, SPEECH, pids=s.processes, upload_mb=options.upload_mb)
        ),
        "live": lambda: with_server(options, lambda server: live(server, options.live_minutes)),
        "memory": lambda: with_server(options, lambda server: memory(server, options.requests)),
    }
    report: dict[str, Any] = {}
    for name in options.parts:
        started, load_average = time.perf_counter(), os.getloadavg()[0]
        report[name] = await parts[name]()
        sys.stderr.write(f"{name}: {time.perf_counter() - started:.0f} s\n{json.dumps(report[name])}\n")
        report.setdefault("load_average_before", {})[name] = round(load_average, 1)
    return report


async def with_server(options: argparse.Namespace, part: Callable[[Server], Awaitable[Result]]) -> Result:
    """A part of the report that has a server of its own."""
    with serving("--threads", str(options.threads)) as server:
        return await part(server)


async def all_loads(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The load with each number of clients, on one server."""
    with serving("--threads", str(options.threads)) as server:
        return [await load(server, clients, options.seconds) for clients in options.clients]


def main() -> int:
    """Measure, write, print; the exit code says whether all promises were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each number of clients")
    parser.add_argument("--requests", type=int, default=2000, help="for the measurement of memory")
    parser.add_argument("--hostile", type=int, default=200)
    parser.add_argument("--upload-mb", type=float, default=199.0, help="the size of the large upload")
    parser.add_argument("--live-minutes", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=2, help="of the server's model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as they are in --out")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "server.json")
    options = parser.parse_args()
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    loads = report.get("load_average_before", {})
    new = asyncio.run(measure(options))
    report |= new | {"load_average_before": loads | new["load_average_before"]}
    report = {name: report[name] for name in (*PARTS, "load_average_before") if name in report}
    broken = broken_promises(report)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "parts")}
    text = (
        json.dumps({**report, "broken_promises": broken, "settings": settings, "provenance": provenance()}, indent=2)
        + "\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
