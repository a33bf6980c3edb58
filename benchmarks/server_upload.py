"""Memory of a server while one recording near the limit of size is uploaded; a part of benchmarks/server.py."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from linnet.audio import read_audio

BOUNDARY = "linnet-upload"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nnano\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="long.wav"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def write_long_recording(path: Path, clip: Path, *, size_bytes: int) -> None:
    """The clip again and again as 48 kHz, 24 bit, stereo: little speech in many bytes."""
    speech = np.repeat(read_audio(clip), 3)  # 48 kHz; no filter, since only the size matters here
    pieces = np.stack([speech, speech], axis=1)
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_24", format="WAV") as file:
        for _ in range(size_bytes // (pieces.size * 3)):
            file.write(pieces)


def peak_mb(pid: int) -> float:
    """The most resident memory that a process had since `forget_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return round(int(found[1]) / 1000, 1) if found else 0.0


def forget_peak(pid: int) -> None:
    """Start the peak again from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def upload(port: int, path: Path, *, pids: list[int], mb_per_s: float | None, piece_bytes: int) -> dict[str, Any]:
    """Send one file as a form, in pieces, at a pace or as fast as it goes. `pids`: the server's own process first."""
    for pid in pids:
        forget_peak(pid)
    before_mb, size, sent = peak_mb(pids[0]), path.stat().st_size, 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(HEAD) + size + len(TAIL)}\r\n\r\n".encode()
    )
    writer.write(HEAD)
    started = time.perf_counter()
    with path.open("rb") as file:
        while piece := file.read(piece_bytes):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            if mb_per_s and (ahead_s := sent / (mb_per_s * 1e6) - (time.perf_counter() - started)) > 0.01:
                await asyncio.sleep(ahead_s)
    uploading_mb, upload_s = peak_mb(pids[0]), time.perf_counter() - started
    writer.write(TAIL)
    await writer.drain()
    status = (await reader.read()).split(b" ", 2)[1].decode()
    writer.close()
    return {
        "upload_mb": round(size / 1e6, 1),
        "piece_bytes": piece_bytes,
        "upload_s": round(upload_s, 1),
        "answer_s": round(time.perf_counter() - started, 1),
        "statuses": {status: 1},
        "memory_before_mb": before_mb,
        "peak_while_uploading_mb": uploading_mb,
        "peak_until_answered_mb": peak_mb(pids[0]),
        "peak_of_a_decoder_mb": max((peak_mb(pid) for pid in pids[1:]), default=0.0),
    }


async def uploads(port: int, clip: Path, *, pids: list[int], upload_mb: float) -> list[dict[str, Any]]:
    """A small file, the large one as fast as it goes, and the large one slowly in pieces of 4 KB."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.wav", Path(folder) / "large.wav"
        write_long_recording(small, clip, size_bytes=4_000_000)
        write_long_recording(large, clip, size_bytes=int(upload_mb * 1e6))
        return [
            await upload(port, small, pids=pids, mb_per_s=None, piece_bytes=1 << 16),
            await upload(port, large, pids=pids, mb_per_s=None, piece_bytes=1 << 16),
            await upload(port, large, pids=pids, mb_per_s=10.0, piece_bytes=1 << 12),
        ]
