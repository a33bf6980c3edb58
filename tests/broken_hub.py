"""A hub on this machine that speaks both APIs and can be told to fail in every way networks do."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAME = "Qwen/Tiny-ASR"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The files of one repository and what goes wrong with them; `seen` lists the requests for files."""

    folder: Path
    url: str = ""
    break_after: int | None = None
    """Close the connection after this many bytes of a file."""
    ignore_ranges: bool = False
    wrong_range: bool = False
    corrupt: Counter[str] = field(default_factory=Counter)
    """name → how many answers have a wrong byte in the middle."""
    length_lie: int = 0
    """Added to Content-Length."""
    listed_lie: int = 0
    """Added to the listed sizes."""
    statuses: list[int] = field(default_factory=list)
    """Answers before the first real one."""
    redirect_to: str | None = None
    """Origin that files are redirected to, as hubs do with their storage."""
    listing: Any = None
    """Instead of the true one."""
    login_page: bool = False
    large: int = 1000
    """Files from this size on are listed as LFS."""
    seen: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """(file, Range, Authorization)"""

    def hugging_face(self) -> dict[str, Any]:
        siblings = []
        for path in sorted(self.folder.iterdir()):
            data = path.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, Any] = {"rfilename": path.name, "size": len(data) + self.listed_lie, "blobId": git}
            if len(data) >= self.large:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": entry["size"], "pointerSize": 1}
            siblings.append(entry)
        return {"id": NAME, "sha": COMMIT, "cardData": {"license": "apache-2.0"}, "siblings": siblings}

    def modelscope(self) -> dict[str, Any]:
        files = [
            {
                "Path": p.name,
                "Size": p.stat().st_size,
                "Sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
                "Type": "blob",
            }
            for p in sorted(self.folder.iterdir())
        ]
        return {"Code": 200, "Data": {"Files": [*files, {"Path": "assets", "Type": "tree", "Size": 0, "Sha256": ""}]}}


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends; `hub.url` is its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(place.query).items()}
            if hub.statuses:
                self.send_error(hub.statuses.pop(0))
            elif hub.login_page:
                self.answer(b"<html>Welcome to our hotel</html>")
            elif place.path == f"/api/models/{NAME}" and query.get("blobs") == "true":
                self.answer(json.dumps(hub.listing or hub.hugging_face()).encode())
            elif place.path == f"/api/v1/models/{NAME}/repo/files" and query.get("Recursive") == "true":
                self.answer(json.dumps(hub.listing or hub.modelscope()).encode())
            elif place.path == f"/api/v1/models/{NAME}/repo":
                self.file(query["FilePath"])
            elif place.path.startswith((f"/{NAME}/resolve/{COMMIT}/", "/storage/")):
                self.file(place.path.rpartition("/")[2])
            else:
                self.send_error(404)

        def file(self, name: str) -> None:
            hub.seen.append((name, self.headers.get("Range"), self.headers.get("Authorization")))
            if hub.redirect_to and not self.path.startswith("/storage/"):
                self.send_response(302)
                self.send_header("Location", f"{hub.redirect_to}/storage/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = bytearray((hub.folder / name).read_bytes())
            if hub.corrupt[name]:
                hub.corrupt[name] -= 1
                data[len(data) // 2] ^= 1
            start = 0
            if (asked := self.headers.get("Range")) and not hub.ignore_ranges:
                start = int(asked.removeprefix("bytes=").rstrip("-")) + hub.wrong_range
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            body = bytes(data[start:])
            self.send_header("Content-Length", str(len(body) + hub.length_lie))
            self.end_headers()
            self.wfile.write(body if hub.break_after is None else body[: hub.break_after])

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Tests print nothing."""

    return Handler
