"""What a server keeps in memory of an upload: pieces, never the whole, whatever its form."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from running import Running

URL = "/v1/audio/transcriptions"
HEADERS = {"content-type": "multipart/form-data; boundary=x"}
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
SIZE, PIECE = 24_000_000, bytes(60_000)


def pieces(head: bytes, tail: bytes = b"\r\n--x--\r\n") -> Iterator[bytes]:
    yield head
    for _ in range(SIZE // len(PIECE)):
        yield PIECE
    yield tail


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (FILE, "missing_model"),
        (b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n', "invalid_form"),  # a text field
        (b'--x\r\nContent-Disposition: form-data; name="', "invalid_form"),  # a header of a part
        (b"", "invalid_form"),  # no part at all
    ],
    ids=["file", "field", "header", "nothing"],
)
def test_memory_does_not_grow_with_an_upload(server: Running, head: bytes, code: str) -> None:
    tracemalloc.start()
    try:
        answer = server.http.post(URL, content=pieces(head), headers=HEADERS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 400 and answer.json()["error"]["code"] == code
    assert peak_bytes < SIZE / 4  # a megabyte before the file goes to disk, and what is under way between both ends
