"""Untrusted bytes become samples: a pool of decoding processes, each killed and replaced when it takes too long."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from linnet import errors
from linnet.audio import SAMPLE_RATE_HZ
from linnet.server.envelope import ApiError, busy, from_linnet

log = logging.getLogger(__name__)
_START_S = 60.0
_POLL_S = 0.1
_JOBS_PER_WORKER = 500  # then a fresh one, whatever the libraries may have leaked


@dataclass(frozen=True)
class Decoded:
    """A recording as mono float32 WAV at 16 kHz in an unnamed temporary file."""

    file: BinaryIO
    duration_s: float


class DecodePool:
    """`workers` processes that are started when first needed."""

    def __init__(self, *, workers: int, max_duration_s: float, timeout_s: float) -> None:
        self._max_duration_s, self._timeout_s = max_duration_s, timeout_s
        self._threads = ThreadPoolExecutor(workers, "linnet-decode")
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        file_bytes = round(max_duration_s + 60) * SAMPLE_RATE_HZ * 4
        for _ in range(workers):
            self._free.put(_Worker(file_bytes))

    def start(self) -> None:
        """Start the processes without waiting for them, so that the first request need not."""
        workers = [self._free.get() for _ in range(self._free.qsize())]
        for worker in workers:
            self._threads.submit(self._start_one, worker)

    async def decode(self, file: BinaryIO, name: str) -> Decoded:
        """Decode an uploaded file. Raises ApiError: 400 for what is wrong with the file, 503 if the disk is full.

        When the caller is cancelled the process is stopped.
        """
        gone = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, file, name, gone)
        finally:
            gone.set()

    def close(self) -> None:
        """Stop all processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._free.empty():
            self._free.get().stop()

    def _start_one(self, worker: _Worker) -> None:
        try:
            worker.ready()
        except (OSError, errors.LinnetError):
            log.exception("a decoding process does not start")
        finally:
            self._free.put(worker)

    def _decode(self, file: BinaryIO, name: str, gone: threading.Event) -> Decoded:
        worker = self._free.get()
        target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (the caller's)
        try:
            request = {"name": name, "max_duration_s": self._max_duration_s}
            reply = worker.ask(request, (file.fileno(), target.fileno()), self._timeout_s, gone)
            if "error" in reply:
                raise _failure(reply, name)
            target.seek(0)
            return Decoded(target, reply["duration_s"])
        except BaseException:
            target.close()
            raise
        finally:
            self._free.put(worker)


class _Worker:
    """One process, started when it is first asked and again after it had to be killed."""

    def __init__(self, max_file_bytes: int) -> None:
        self._max_file_bytes = max_file_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs = 0

    def ask(
        self,
        request: dict[str, Any],
        fds: tuple[int, int],
        timeout_s: float,
        gone: threading.Event,
    ) -> dict[str, Any]:
        """The process's reply; a dead or late one is replaced by words about that."""
        # A process may have died of something else, such as the machine's lack of memory: then a new one tries again.
        for _ in range(2):
            reply = self._ask_once(request, fds, timeout_s, gone)
            if reply.get("error") != "crash":
                break
        return reply

    def _ask_once(
        self, request: dict[str, Any], fds: tuple[int, int], timeout_s: float, gone: threading.Event
    ) -> dict[str, Any]:
        self.ready()
        self._jobs += 1
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(fds))
            line = self._line(timeout_s, gone)
        except TimeoutError:
            self.stop()
            return {
                "error": "timeout",
                "message": f"took more than {timeout_s:g} s to decode",
            }
        except OSError:
            line = b""
        if not line:
            self.stop()
            return {"error": "crash", "message": "broke the decoder"}
        return cast(dict[str, Any], json.loads(line))

    def ready(self) -> None:
        """Start the process unless it runs."""
        if self._process is None or self._process.poll() is not None or self._jobs >= _JOBS_PER_WORKER:
            self.stop()
            self._start()

    def stop(self) -> None:
        """Kill the process if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._socket.close()
            self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        command = [
            sys.executable,
            "-m",
            "linnet.server.decode_worker",
            str(fd),
            str(self._max_file_bytes),
        ]
        # One thread in NumPy: others would only reserve memory, which is limited.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment.pop("LINNET_API_KEY", None)
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[fd], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server, which lets accepted work finish
            )  # fmt: skip
        self._socket, self._jobs = ours, 0
        if self._line(_START_S, threading.Event()) != b"ready":
            self.stop()
            raise errors.LinnetError("The decoding process does not start; its message is above in the log.")

    def _line(self, timeout_s: float, gone: threading.Event) -> bytes:
        """The next line, or b"" when the process has died; TimeoutError, at once if nobody waits any more."""
        end, received = time.monotonic() + timeout_s, b""
        self._socket.settimeout(_POLL_S)
        while not received.endswith(b"\n"):
            try:
                if not (part := self._socket.recv(1 << 16)):
                    return b""
                received += part
            except TimeoutError:
                if time.monotonic() > end or gone.is_set():
                    raise
        return received.rstrip(b"\n")


def _failure(reply: dict[str, Any], name: str) -> ApiError:
    kind, message = reply["error"], reply["message"]
    if kind == "TooLong":
        return ApiError(400, message, code="audio_too_long", param="file")
    if kind in ("timeout", "crash"):
        log.warning("decoding %r %s", name, message)
        return ApiError(
            400,
            f"{name} {message}; convert it to wav or flac and send that.",
            code="invalid_audio",
            param="file",
        )
    if kind == "unexpected":
        log.warning("decoding %r failed: %s", name, message)
        if reply.get("errno") == errno.ENOSPC:
            return busy(
                "The server has no disk space left; try again later.",
                status=503,
                code="no_space",
            )
        return ApiError(
            400,
            f"{name} cannot be decoded; convert it to wav.",
            code="invalid_audio",
            param="file",
        )
    if kind == "MissingExtraError":
        return ApiError(400, f"{message} (on the server)", code="unsupported_format", param="file")
    return from_linnet(getattr(errors, kind)(message))
