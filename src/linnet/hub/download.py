"""Download a repository's files into a folder: resumed after any interruption, and never taken as complete unchecked.

A file in work is `<name>.part`; it gets its name when size and checksum are those of the listing. Whoever finds a file
without `.part` may trust it, and a part only ever saves time: what cannot be continued is fetched again.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from linnet.errors import DownloadError
from linnet.hub.connection import BrokenConnectionError, open_url
from linnet.hub.repository import ATTEMPTS, RemoteFile

Progress = Callable[[float, float], None]
BLOCK_BYTES = 1 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    token: str | None = None,
    progress: Progress | None = None,
    pause: Callable[[float], None] | None = None,
) -> None:
    """Fetch `files` into `folder`; what is there already, complete, is kept, and half a file is continued.

    `progress` is called with the bytes done and in all. Raises DownloadError: no connection after several tries, wrong
    size or checksum twice in a row, no space (known before the first byte if the file system says so).
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(file.size_bytes for file in files)
    _check_space(files, folder)
    done = 0
    for file in files:
        before = done

        def show(have: int, before: int = before) -> None:
            if progress is not None:
                progress(before + have, total)

        if _mismatch(folder / file.name, file) is not None:
            _download_one(file, folder / file.name, token, show, pause or time.sleep)
        done += file.size_bytes
        show(file.size_bytes)


def _download_one(
    file: RemoteFile, target: Path, token: str | None, show: Callable[[int], None], pause: Callable[[float], None]
) -> None:
    part = target.with_name(target.name + ".part")
    failures, fetched_whole = 0, False
    while True:
        before = _size(part)
        try:
            if before != file.size_bytes:
                fetched_whole |= _fetch(file, part, token, show)
        except BrokenConnectionError as problem:
            failures = failures + 1 if _size(part) - before < BLOCK_BYTES else 0
            if failures >= ATTEMPTS:
                raise DownloadError(
                    f"Could not download {file.name} from {file.url}: {problem}, after {ATTEMPTS} tries. "
                    f"{_size(part)} of {file.size_bytes} bytes are kept; the same command continues there."
                ) from problem
            pause(min(2.0**failures, 30.0))
            continue
        wrong = _mismatch(part, file)
        if wrong is None:
            os.replace(part, target)
            return
        part.unlink(missing_ok=True)
        if fetched_whole:  # a part of an earlier day may be damaged; what came in one piece just now may not
            raise DownloadError(
                f"{file.url} sent other data than its listing promises: {wrong}. It was deleted. Try again later, or "
                "another source: --source hf, --source modelscope, or HF_ENDPOINT."
            )


def _fetch(file: RemoteFile, part: Path, token: str | None, show: Callable[[int], None]) -> bool:
    """Append to `part` what is missing; True if the server started from the first byte."""
    have = _size(part)
    if have > file.size_bytes:
        part.unlink()
        have = 0
    with open_url(file.url, token=token, start=have) as response:
        if have and (response.status != 206 or not _starts_at(response, have)):
            have = 0  # this server does not continue: from the beginning
            if response.status == 206:
                part.unlink()
                raise BrokenConnectionError("it answered with another part of the file than was asked for")
        _check_length(response, file, have)
        begun = have
        with _appending(part, fresh=not have) as out:
            while have < file.size_bytes:
                try:
                    block = response.read(min(BLOCK_BYTES, file.size_bytes - have))
                except (OSError, http.client.HTTPException) as problem:
                    raise BrokenConnectionError(f"the connection broke off ({problem})") from problem
                if not block:
                    raise BrokenConnectionError(f"it stopped after {have} of {file.size_bytes} bytes")
                try:
                    out.write(block)
                except OSError as problem:
                    raise _no_space(part, file.size_bytes - have, problem) from problem
                have += len(block)
                show(have)
    return begun == 0


def _check_length(response: http.client.HTTPResponse, file: RemoteFile, have: int) -> None:
    promised = response.headers.get("Content-Length")
    if promised is not None and promised.isdigit() and int(promised) != file.size_bytes - have:
        raise BrokenConnectionError(
            f"it offers {have + int(promised)} bytes, the listing says {file.size_bytes} (a login page of a network, "
            "or a mirror that is out of date)"
        )


def _starts_at(response: http.client.HTTPResponse, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _appending(part: Path, *, fresh: bool) -> io.FileIO:
    try:
        return io.FileIO(part, "w" if fresh else "a")
    except OSError as problem:
        raise _no_space(part, 0, problem) from problem


def _mismatch(path: Path, file: RemoteFile) -> str | None:
    """In what a file differs from its listing; None if it is the one."""
    if not path.is_file():
        return "it is missing"
    if (size := _size(path)) != file.size_bytes:
        return f"{size} bytes instead of {file.size_bytes}"
    for expected, kind, start in (
        (file.sha256, "sha256", b""),
        (file.git_sha1, "sha1", b"blob %d\0" % file.size_bytes),
    ):
        if expected is not None:
            digest = hashlib.new(kind, start, usedforsecurity=kind == "sha256")
            with open(path, "rb") as content:
                while block := content.read(BLOCK_BYTES):
                    digest.update(block)
            if digest.hexdigest() != expected:
                return f"{kind.upper()} {digest.hexdigest()[:12]}… instead of {expected[:12]}…"
    return None


def _check_space(files: Sequence[RemoteFile], folder: Path) -> None:
    there = sum(_size(folder / name) for file in files for name in (file.name, file.name + ".part"))
    missing, free = sum(file.size_bytes for file in files) - there, shutil.disk_usage(folder).free
    if missing > free:
        raise DownloadError(
            f"{folder} has {free / 1e9:.2f} GB free, the download needs {missing / 1e9:.2f} GB more. Free some, "
            "or set LINNET_HOME to a folder on another disk."
        )


def _no_space(part: Path, missing: int, problem: OSError) -> DownloadError:
    if problem.errno in _DISK_FULL:
        return DownloadError(
            f"The disk is full: {missing} bytes of {part} could not be written ({problem.strerror}). What was "
            "downloaded is kept; free some space and run the same command again, or delete that file."
        )
    return DownloadError(f"{part} cannot be written: {problem}. Check the folder's permissions, or set LINNET_HOME.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
