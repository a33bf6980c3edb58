"""One HTTP request to a hub: redirects, ranges, proxies and errors that say what to do. Standard library only.

Proxies come from the usual variables (HTTPS_PROXY, NO_PROXY), as urllib reads them.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any

import linnet
from linnet.errors import DownloadError

TIMEOUT_S = 30.0
"""Longest silence of a server before the connection counts as broken."""
MAX_JSON_BYTES = 32 << 20
_REFUSED = {
    401: "it wants a login: set HF_TOKEN to a token that may read it",
    403: "access is denied: accept the model's conditions on its page and set HF_TOKEN",
    404: "there is no such model or file: check the name (organisation/model) and the source",
    410: "it was taken down",
    451: "it is not available for legal reasons",
}


class BrokenConnectionError(Exception):
    """The transfer did not work this time; a later try may."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Hubs redirect to storage on other hosts, which must not see the user's token."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and _origin(newurl) != _origin(req.full_url):
            following.remove_header("Authorization")
        return following


def open_url(url: str, *, token: str | None = None, start: int = 0) -> http.client.HTTPResponse:
    """Response to a GET, of the bytes from `start` on; the caller closes it.

    Raises DownloadError for what no second try can mend, BrokenConnectionError for what one may.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is no web address; accepted: https://… (or http:// inside your own network).")
    # identity: a compressed transfer would have another length than the file
    headers = {"User-Agent": f"linnet/{linnet.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as refused:
        with refused:
            if refused.code in _REFUSED:
                raise DownloadError(f"{url}: {_REFUSED[refused.code]} (HTTP {refused.code}).") from refused
            raise BrokenConnectionError(f"HTTP {refused.code} {refused.reason}") from refused
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise BrokenConnectionError(str(getattr(problem, "reason", "") or problem)) from problem
    assert isinstance(response, http.client.HTTPResponse)
    return response


def read_json(url: str, *, token: str | None = None) -> dict[str, Any]:
    """A JSON object; raises as `open_url`, and DownloadError if the answer is something else."""
    with open_url(url, token=token) as response:
        try:
            text = response.read(MAX_JSON_BYTES)
        except (OSError, http.client.HTTPException) as problem:
            raise BrokenConnectionError(str(problem)) from problem
    try:
        data = json.loads(text)
    except ValueError as problem:
        raise DownloadError(
            f"{url} did not answer with JSON but with {text[:40]!r}…. A login page of a network, or no hub: check "
            "HF_ENDPOINT and the proxy."
        ) from problem
    if not isinstance(data, dict):
        raise DownloadError(f"{url} answered with a {type(data).__name__}, expected an object; check HF_ENDPOINT.")
    return data


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc
