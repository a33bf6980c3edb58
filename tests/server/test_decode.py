"""Hostile bytes: decoders run in processes that are limited, killed when late, and replaced."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import JFK

from linnet.audio import read_audio
from linnet.server import decode_worker
from linnet.server.decode import DecodePool
from linnet.server.envelope import ApiError


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(workers=1, max_duration_s=60, timeout_s=60)
    yield pool
    pool.close()


def decode(pool: DecodePool, content: bytes, name: str = "a.wav") -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        decoded = asyncio.run(pool.decode(file, name))
    with decoded.file:
        samples = read_audio(decoded.file)
    assert decoded.duration_s == len(samples) / 16_000
    return samples


def header(rate_hz: int, channels: int, frames: int, data: bytes) -> bytes:
    """A WAV file whose header says what it likes."""
    block = 2 * channels
    form = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate_hz, rate_hz * block & 0xFFFFFFFF, block & 0xFFFF, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + form
        + b"data" + struct.pack("<I", frames * block & 0xFFFFFFFF) + data
    )  # fmt: skip


def test_the_model_hears_exactly_what_the_command_line_would(pool: DecodePool) -> None:
    assert np.array_equal(decode(pool, JFK.read_bytes()), read_audio(JFK))


def test_what_is_not_audio_is_named_after_the_clients_file(pool: DecodePool) -> None:
    with pytest.raises(ApiError, match=r"talk\.wav .*text file") as refused:
        decode(pool, b"<html>not found</html>", "talk.wav")
    assert refused.value.status == 400


HOSTILE = {
    "one sample a second": header(1, 1, 1 << 20, bytes(1 << 21)),
    "a thousand channels": header(16_000, 1024, 1 << 9, bytes(1 << 20)),
    "no channels": header(16_000, 0, 100, bytes(200)),
    "no rate": header(0, 1, 100, bytes(200)),
    "four gigahertz": header(0xFFFFFFFF, 1, 100, bytes(200)),
    "promises four gigabytes": header(16_000, 1, 0x7FFFFFFF, bytes(200)),
    "only a header": header(16_000, 1, 0, b""),
    "not a number": b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0\x80\x3e\0\0\0\xfa\0\0\x04\0 \0data\x08\0\0\0"
    + b"\xff" * 8,
    "playlist behind a tag": b"ID3\x04\0\0\0\0\0\0#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "ogg pages of nothing": b"OggS\0\x04" + bytes(20) + b"\0" * 500,
    "a moving box": b"\0\0\0\x08ftyp" + b"\xff\xff\xff\xffmoov" * 50,
    "a deep box": b"".join(struct.pack(">I", 8 * n + 8) + b"moov" for n in range(2000, 0, -1)),
    "a zip file": b"PK\x03\x04" + bytes(500),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_or_decoded_within_the_limits(pool: DecodePool, content: bytes) -> None:
    try:
        samples = decode(pool, content)
    except ApiError as error:
        assert error.status == 400 and error.code in ("invalid_audio", "audio_too_long", "unsupported_format")
    else:
        assert len(samples) <= 60 * 16_000


def flac() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, read_audio(JFK)[:16_000], 16_000, format="FLAC")
    return file.getvalue()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20), st.data())
def test_damaged_files_of_every_kind_are_answered(
    pool: DecodePool, changes: list[tuple[float, int]], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for place, value in changes:
        content[int(place * len(content))] = value
    del content[data.draw(st.integers(1, len(content))) :]
    try:
        assert len(decode(pool, bytes(content))) > 0
    except ApiError as error:
        assert error.status == 400


def test_a_recording_may_not_be_longer_than_the_limit(pool: DecodePool) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000 * 61), 16_000, format="FLAC")
    with pytest.raises(ApiError, match="up to 60 s") as refused:
        decode(pool, file.getvalue())
    assert refused.value.code == "audio_too_long"


def process(pool: DecodePool) -> int:
    """The id of the pool's only process."""
    worker = pool._free.get()
    worker.ready()
    pool._free.put(worker)
    assert worker._process is not None
    return worker._process.pid


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_decoder_that_died_is_replaced_and_the_file_tried_again(pool: DecodePool) -> None:
    os.kill(process(pool), signal.SIGKILL)  # as the kernel does when memory runs out
    assert len(decode(pool, JFK.read_bytes())) > 0


def test_a_decoder_that_hangs_is_killed_at_its_time_limit(pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_timeout_s", 0.3)
    os.kill(hangs := process(pool), signal.SIGSTOP)
    with pytest.raises(ApiError, match=r"more than 0\.3 s") as refused:
        decode(pool, JFK.read_bytes())
    assert refused.value.status == 400
    assert_gone(hangs)


def test_a_decoder_is_stopped_when_nobody_waits_any_more(pool: DecodePool) -> None:
    os.kill(hangs := process(pool), signal.SIGSTOP)

    async def scenario(file: BinaryIO) -> None:
        waiting = asyncio.ensure_future(pool.decode(file, "a"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    with JFK.open("rb") as file:
        asyncio.run(scenario(file))
        assert len(decode(pool, JFK.read_bytes())) > 0  # long before its 60 s are over
    assert_gone(hangs)


def test_the_limits_of_the_process_are_set(tmp_path: Path) -> None:
    """In a process of its own: what it may write, and what memory it may take."""
    program = (
        "import sys; from linnet.server import decode_worker as w; w._limit_resources(max_file_bytes=1000)\n"
        "try: bytearray(w.MEMORY_BYTES + (1 << 28)); print('memory')\n"
        "except MemoryError: pass\n"
        "file = open(sys.argv[1], 'wb', buffering=0)\n"
        "try: file.write(bytes(5000)); file.write(bytes(5000)); print('file')\n"
        "except OSError: print('limited')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "limited\n"


def test_the_worker_answers_in_words_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr(decode_worker, "decode", fail)
    with JFK.open("rb") as file:
        reply = decode_worker.answer({"name": "a", "max_duration_s": 1}, file.fileno(), file.fileno())
    assert reply["error"] == "AudioDecodeError" and "memory" in reply["message"]


SEEDS = [flac(), JFK.read_bytes()[:60_000], header(16_000, 1, 8000, bytes(16_000))]
