"""The process that decodes what clients send: `python -m linnet.server.decode_worker SOCKET_FD`.

It gets open files, never paths: one to read, one to write mono float32 WAV into. Decoders are large C libraries that
meet hostile files here, so this process has a memory limit, a limit on what it may write, and a parent (`decode.py`)
that kills it when it takes too long. It ends when its parent does.
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any, BinaryIO, cast

import soundfile

from linnet.audio import SAMPLE_RATE_HZ, audio_info, stream_audio
from linnet.errors import AudioContentError, LinnetError

MEMORY_BYTES = 1 << 30
"""May be allocated on top of what the process has when it starts."""
BLOCK_S = 10.0
MAX_CHANNELS = 64


class TooLong(LinnetError):
    """The recording is longer than the server takes."""


def decode(source: BinaryIO, target: int, max_duration_s: float) -> float:
    """Decode an open file into the file descriptor `target`; returns seconds. LinnetError, MemoryError or OSError."""
    info = audio_info(source)
    if info.channels > MAX_CHANNELS:
        raise AudioContentError(f"The recording has {info.channels} channels; up to {MAX_CHANNELS} are accepted.")
    announced_s = info.duration_s
    if announced_s is not None and announced_s > max_duration_s:
        raise TooLong(_too_long(f"is {announced_s:.0f} s long", max_duration_s))
    written = 0
    with soundfile.SoundFile(
        target, "w", SAMPLE_RATE_HZ, 1, subtype="FLOAT", format="WAV", closefd=False
    ) as out:  # the same samples that `linnet transcribe` would see
        for block in stream_audio(source, block_s=BLOCK_S):
            written += len(block)
            if written > max_duration_s * SAMPLE_RATE_HZ:
                raise TooLong(_too_long("goes on", max_duration_s))
            out.write(block)
    return written / SAMPLE_RATE_HZ


def _too_long(what: str, max_duration_s: float) -> str:
    return f"The recording {what}; this server takes up to {max_duration_s:g} s. Cut it into parts."


def answer(request: dict[str, Any], source_fd: int, target_fd: int) -> dict[str, Any]:
    """The reply to one request; every failure is put into words."""
    raw = io.FileIO(source_fd, closefd=False)
    raw.name = request["name"]  # what error messages call the file
    try:
        raw.seek(0)
        seconds = decode(cast(BinaryIO, io.BufferedReader(raw)), target_fd, request["max_duration_s"])
    except LinnetError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        message = f"{request['name']} takes more than {MEMORY_BYTES >> 20} MiB of memory to decode; convert it first."
        return {"error": "AudioDecodeError", "message": message}
    except Exception as error:  # a decoder's own trouble with hostile bytes; the parent logs it
        return {
            "error": "unexpected",
            "message": f"{type(error).__name__}: {error}",
            "errno": getattr(error, "errno", 0),
        }
    return {"duration_s": seconds}


def main() -> None:
    """Answer requests until the parent hangs up."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    _limit_resources(max_file_bytes=int(sys.argv[2]))
    connection.sendall(b"ready\n")
    while True:
        message, fds, _, _ = socket.recv_fds(connection, 1 << 16, 2)
        if not message:
            return
        try:
            reply = answer(json.loads(message), *fds)
        finally:
            for fd in fds:
                os.close(fd)
        connection.sendall(json.dumps(reply).encode() + b"\n")


def _limit_resources(*, max_file_bytes: int) -> None:
    os.nice(5)  # answering others comes first
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the limit is not enforced
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, now + MEMORY_BYTES))


if __name__ == "__main__":
    main()
