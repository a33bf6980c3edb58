"""Multipart forms, read with little memory and checked field by field."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from linnet.server.envelope import ApiError

MAX_FIELDS = 32
MAX_FIELD_BYTES = 64 << 10
_SHOWN_NAME = re.compile(r"[^\w .()\[\]-]")


@dataclass(frozen=True)
class Form:
    """A form that was read completely; the file is on disk if it is larger than a megabyte."""

    data: FormData

    def file(self) -> UploadFile:
        """The one uploaded file."""
        found = self.data.get("file")
        if not isinstance(found, UploadFile):
            raise ApiError(
                400,
                "The form has no file in its field 'file'.",
                code="missing_file",
                param="file",
            )
        return found

    def text(self, name: str, default: str = "") -> str:
        """A field's text, or the default if it is missing or empty."""
        values = self.texts(name)
        return values[-1] if values and values[-1] else default

    def texts(self, name: str) -> list[str]:
        """All values of a field."""
        values = self.data.getlist(name)
        if any(not isinstance(value, str) for value in values):
            raise ApiError(
                400,
                f"The field '{name}' holds a file; it takes text.",
                code="invalid_value",
                param=name,
            )
        return cast(list[str], values)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from low to high."""
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ApiError(
                400, f"{name} takes a number from {low:g} to {high:g}, got {text[:40]!r}.",
                code="invalid_value", param=name,
            )  # fmt: skip
        return value

    def flag(self, name: str) -> bool:
        """true or false, as form fields spell them."""
        text = self.text(name, "false").lower()
        if text not in ("true", "false", "1", "0"):
            raise ApiError(
                400,
                f"{name} takes true or false, got {text[:40]!r}.",
                code="invalid_value",
                param=name,
            )
        return text in ("true", "1")

    def choice(self, name: str, default: str, accepted: tuple[str, ...]) -> str:
        """One of several words."""
        text = self.text(name, default)
        if text not in accepted:
            raise ApiError(
                400,
                f"{name} takes one of {', '.join(accepted)}; got {text[:40]!r}.",
                code="invalid_value",
                param=name,
            )
        return text


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[Form]:
    """The request's form; its files are gone afterwards.

    Raises ApiError 400 if it is none, 413 and 408 from the limits on uploads.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            400, f"Send the recording as multipart/form-data (curl -F file=@talk.wav), got {kind[:60] or 'no body'!r}.",
            code="invalid_content_type",
        )  # fmt: skip
    try:
        data = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except ClientDisconnect:
        raise
    except HTTPException as error:
        raise ApiError(400, f"The form cannot be read: {error.detail}", code="invalid_form") from error
    try:
        yield Form(data)
    finally:
        await data.close()


async def open_file(upload: UploadFile) -> BinaryIO:
    """The upload as a file that has a descriptor."""
    await run_in_threadpool(upload.file.fileno)  # writes it to disk if it was still in memory
    return upload.file


def shown_name(upload: UploadFile) -> str:
    """What to call the upload in messages: the client's file name without what could do harm."""
    name = re.split(r"[/\\]", upload.filename or "")[-1]
    return _SHOWN_NAME.sub("_", name)[:80] or "the upload"
