"""Errors as OpenAI's API words them: a status, and {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from linnet.errors import (
    AudioError,
    ConfigError,
    LanguageError,
    LinnetError,
    MissingExtraError,
)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer other than 200; `code` is for programs, `message` for people."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document."""
        kind = _TYPES.get(
            self.status,
            "invalid_request_error" if self.status < 500 else "server_error",
        )
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The answer, ready to be sent."""
        return JSONResponse(self.body, self.status, self.headers)


def busy(message: str, *, status: int = 429, retry_after_s: int = 1, code: str = "queue_full") -> ApiError:
    """429 or 503 with the header that tells clients when to come again."""
    return ApiError(status, message, code=code, headers={"Retry-After": str(retry_after_s)})


def going_down() -> ApiError:
    """503 while the server is going down."""
    return busy(
        "The server is shutting down; try again in a moment.",
        status=503,
        code="shutting_down",
    )


def from_linnet(error: LinnetError) -> ApiError:
    """What a client did wrong; errors that are not about its request become a 500 without details."""
    if isinstance(error, LanguageError):
        return ApiError(400, str(error), code="invalid_language", param="language")
    if isinstance(error, AudioError):
        return ApiError(400, str(error), code="invalid_audio", param="file")
    if isinstance(error, MissingExtraError):
        return ApiError(400, f"{error} (on the server)", code="unsupported_format", param="file")
    if isinstance(error, ConfigError):
        return ApiError(400, str(error), code="invalid_value")
    return internal()


def from_status(status: int, detail: str = "", headers: dict[str, str] | None = None) -> ApiError:
    """For what the framework refuses by itself: unknown paths, wrong methods, malformed forms."""
    phrase = HTTPStatus(status).phrase
    return ApiError(status, detail or phrase, code=phrase.lower().replace(" ", "_"), headers=headers)


def internal() -> ApiError:
    """500: the reason is in the log, under the request's id, and nowhere else."""
    return ApiError(
        500,
        "The server failed; its log has the reason under this request's id.",
        code="internal_error",
    )
