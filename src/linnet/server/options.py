"""What can be set about a server, with its defaults."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from linnet.errors import ConfigError

# Browsers write schemes and hosts in lower case, and "null" for files.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\sA-Z]+")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Limits and access of one server; raises ConfigError for values that cannot work."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 lets the system choose."""
    api_keys: tuple[str, ...] = ()
    """Any of these opens the API; none means that everybody may use it."""
    public_without_key: bool = False
    """Listen on an address that others can reach although there is no key."""
    cors_origins: tuple[str, ...] = ()
    """Other sites (https://example.org) whose pages may use the API; "*" for all."""
    max_upload_mb: float = 200.0
    max_duration_s: float = 7200.0
    max_queue: int = 64
    """Requests that are uploaded, decoded, waiting or in work at a time; more are refused with 429."""
    max_streams: int = 8
    """Live sessions at a time."""
    decode_workers: int = 2
    decode_timeout_s: float = 120.0
    upload_idle_s: float = 20.0
    """An upload, or a live session, that sends nothing for this long is ended."""
    upload_timeout_s: float = 900.0
    """A whole upload may take this long."""
    grace_s: float = 30.0
    """After SIGTERM, work that was accepted may go on for this long."""

    def __post_init__(self) -> None:
        for name in (
            "max_upload_mb",
            "max_duration_s",
            "decode_timeout_s",
            "upload_idle_s",
            "upload_timeout_s",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")
        for name, least in (
            ("max_queue", 1),
            ("max_streams", 0),
            ("decode_workers", 1),
            ("grace_s", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, got {getattr(self, name)}.")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"A port is a number from 0 to 65535, got {self.port}.")
        if any(not key.strip() for key in self.api_keys):
            raise ConfigError("An API key is empty; give a long random one, or none at all.")
        for origin in self.cors_origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    "A CORS origin is * or what browsers send, such as https://example.org or http://localhost:3000, "
                    f"without a path or a slash at the end; got {origin!r}, which would match no page."
                )
        if not self.api_keys and not self.public_without_key and not is_loopback(self.host):
            raise ConfigError(
                f"Refusing to listen on {self.host} without an API key: everybody who reaches this machine could use "
                "it. Add --api-key KEY (or the environment variable LINNET_API_KEY), listen on 127.0.0.1, or, in a "
                "network where that is fine, add --public-without-key."
            )

    @property
    def max_upload_bytes(self) -> int:
        """`max_upload_mb` (10⁶ bytes) in bytes."""
        return round(self.max_upload_mb * 1e6)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; names other than localhost count as public."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
