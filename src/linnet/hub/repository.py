"""What a hub offers under a model's name: files, sizes and checksums.

Hugging Face (or a mirror named by HF_ENDPOINT):
    {endpoint}/api/models/{name}?blobs=true → {"sha": commit, "siblings": [{rfilename, size, blobId, lfs: {sha256}}]}
    {endpoint}/{name}/resolve/{commit}/{file}
ModelScope (or MODELSCOPE_ENDPOINT), with api = {endpoint}/api/v1/models:
    {api}/{name}/repo/files?Revision=master&Recursive=true → {"Data": {"Files": [{Path, Size, Sha256, Type}]}}
    {api}/{name}/repo?Revision=master&FilePath={file}

Large files are listed with their SHA-256, small ones of Hugging Face with Git's own checksum of their content.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from linnet.errors import DownloadError
from linnet.hub.connection import BrokenConnectionError, read_json

Hub = Literal["hf", "modelscope"]
HUGGING_FACE = "https://huggingface.co"
MODELSCOPE = "https://modelscope.cn"
ATTEMPTS = 5
"""Tries in a row without progress before a transfer is given up."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a repository; those of a Repository have at least one checksum."""

    name: str
    size_bytes: int
    url: str
    sha256: str | None = None
    git_sha1: str | None = None
    """SHA-1 of "blob <size>\\0" and the content, as Git names its objects."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """The files of one model that a conversion needs."""

    name: str
    revision: str
    """Commit if the hub names one, else the branch."""
    licence: str | None
    small: tuple[RemoteFile, ...]
    """Configuration and tokenizer: what tells whether the weights are worth downloading."""
    weights: tuple[RemoteFile, ...]
    token: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in (*self.small, *self.weights))


def open_repository(name: str, hub: Hub = "hf", *, pause: Callable[[float], None] | None = None) -> Repository:
    """Ask a hub for the files of `name` ("Qwen/Qwen3-ASR-0.6B").

    Raises DownloadError: malformed or unknown name, no network, no checksums, no safetensors weights.
    """
    if not NAME.fullmatch(name):
        raise DownloadError(f"{name!r} is no model's name; accepted: organisation/model, as Qwen/Qwen3-ASR-0.6B.")
    if hub == "hf":
        endpoint, token = os.environ.get("HF_ENDPOINT") or HUGGING_FACE, os.environ.get("HF_TOKEN") or None
        endpoint = endpoint.rstrip("/")
        url = f"{endpoint}/api/models/{name}?blobs=true"
    else:
        endpoint, token = os.environ.get("MODELSCOPE_ENDPOINT") or MODELSCOPE, None
        endpoint = endpoint.rstrip("/")
        url = f"{endpoint}/api/v1/models/{name}/repo/files?Revision=master&Recursive=true"
    listing = _ask(url, token, pause or time.sleep)
    try:
        files, revision, licence = (_hugging_face if hub == "hf" else _modelscope)(listing, endpoint, name)
        small = tuple(file for file in files if file.name in _SMALL)
        weights = tuple(file for file in files if _WEIGHTS.fullmatch(file.name))
        for file in (*small, *weights):
            if file.sha256 is None and file.git_sha1 is None:
                raise ValueError(f"no checksum for {file.name}")
    except (KeyError, TypeError, ValueError) as problem:
        raise DownloadError(
            f"{url} did not answer as a hub does ({problem!r}); mirrors have to pass the listing on with sizes and "
            "checksums. Try another mirror, or download the folder by other means: linnet pull FOLDER"
        ) from problem
    if not weights:
        raise DownloadError(
            f"{name} on {endpoint} has no model.safetensors; it has {', '.join(file.name for file in files[:8])}. "
            "Name the original checkpoint, not a GGUF, ONNX or MLX version of it: Qwen/Qwen3-ASR-0.6B."
        )
    return Repository(name=name, revision=revision, licence=licence, small=small, weights=weights, token=token)


def _ask(url: str, token: str | None, pause: Callable[[float], None]) -> dict[str, Any]:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read_json(url, token=token)
        except BrokenConnectionError as problem:
            if attempt == ATTEMPTS:
                raise DownloadError(
                    f"{url} cannot be reached after {ATTEMPTS} tries: {problem}. Check the network and the proxy; a "
                    "mirror is set with HF_ENDPOINT, another hub with --source modelscope."
                ) from problem
            pause(2.0**attempt)
    raise AssertionError("unreachable")


def _hugging_face(listing: Mapping[str, Any], endpoint: str, name: str) -> tuple[list[RemoteFile], str, str | None]:
    revision = str(listing.get("sha") or "main")
    files = []
    for entry in listing["siblings"]:
        lfs = entry.get("lfs") or {}
        file = RemoteFile(
            name=str(entry["rfilename"]),
            size_bytes=int(lfs.get("size", entry["size"])),
            url=f"{endpoint}/{name}/resolve/{revision}/{quote(str(entry['rfilename']))}",
            sha256=_digest(lfs.get("sha256"), 64),
            git_sha1=None if lfs else _digest(entry["blobId"], 40),
        )
        files.append(file)
    licence = (listing.get("cardData") or {}).get("license")
    return files, revision, str(licence) if licence else None


def _modelscope(listing: Mapping[str, Any], endpoint: str, name: str) -> tuple[list[RemoteFile], str, str | None]:
    place = f"{endpoint}/api/v1/models/{name}/repo?Revision=master&FilePath="
    files = [
        RemoteFile(
            name=str(entry["Path"]),
            size_bytes=int(entry["Size"]),
            url=place + quote(str(entry["Path"]), safe=""),
            sha256=_digest(entry["Sha256"], 64),
        )
        for entry in listing["Data"]["Files"]
        if entry.get("Type", "blob") == "blob"
    ]
    return files, "master", None


def _digest(value: object, digits: int) -> str | None:
    """A checksum in hexadecimal, None if there is none; ValueError if it is something else."""
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value):
        raise ValueError(f"checksum {value!r}")
    return value.lower()
