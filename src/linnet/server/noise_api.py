"""POST /v1/audio/noise: a recording with noise laid under it at a signal-to-noise ratio, as WAV."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

import linnet
from linnet import noise
from linnet.audio import SAMPLE_RATE_HZ, FloatArray, read_audio, wav_bytes
from linnet.errors import LinnetError
from linnet.noise_source import KINDS, generate
from linnet.server.envelope import ApiError, from_linnet
from linnet.server.forms import open_file, read_form, shown_name
from linnet.server.openai_api import while_connected
from linnet.server.state import State

VOICES = Path(linnet.__file__).parent / "assets" / "babble"
"""Six readers of LibriSpeech (assets/babble/ATTRIBUTION.md), who talk at once."""
MAX_DURATION_S = 300.0
MIN_SNR_DB, MAX_SNR_DB = -30.0, 60.0

FORM_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "noise", "snr_db"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "Up to 300 s of speech.",
                        },
                        "noise": {"type": "string", "enum": list(KINDS)},
                        "snr_db": {
                            "type": "number",
                            "minimum": MIN_SNR_DB,
                            "maximum": MAX_SNR_DB,
                        },
                        "seed": {
                            "type": "integer",
                            "minimum": 0,
                            "maximum": 2**32 - 1,
                            "default": 0,
                        },
                    },
                }
            }
        },
    }
}


def router(state: State) -> APIRouter:
    """The endpoint."""
    api = APIRouter(prefix="/v1")

    @api.post("/audio/noise", summary="Lay noise under a recording", openapi_extra=FORM_SCHEMA)
    async def mix(request: Request) -> Response:
        async with read_form(request) as form:
            kind = form.choice("noise", "", KINDS)
            if not form.text("snr_db"):
                raise ApiError(
                    400,
                    "You must provide snr_db.",
                    code="missing_value",
                    param="snr_db",
                )
            snr_db = form.number("snr_db", 0.0, MIN_SNR_DB, MAX_SNR_DB)
            seed = int(form.number("seed", 0, 0, 2**32 - 1))
            upload = form.file()
            decoded = await while_connected(
                request,
                state.decoder.decode(await open_file(upload), shown_name(upload)),
            )
        with decoded.file:
            if decoded.duration_s > MAX_DURATION_S:
                raise ApiError(
                    400, f"Noise is laid under up to {MAX_DURATION_S:g} s, got {decoded.duration_s:.0f} s.",
                    code="audio_too_long", param="file",
                )  # fmt: skip
            try:
                mixed, gain = await run_in_threadpool(add_noise, decoded.file, kind, snr_db, seed)
            except LinnetError as error:
                raise from_linnet(error) from error
        return Response(
            wav_bytes(mixed, SAMPLE_RATE_HZ),
            media_type="audio/wav",
            headers={"X-Gain": f"{gain:.6f}"},
        )

    return api


def add_noise(file: BinaryIO, kind: str, snr_db: float, seed: int) -> tuple[FloatArray, float]:
    """The mixture [N] at 16 kHz, and the factor that speech and noise were scaled by to keep the peak below 1."""
    speech, rng = read_audio(file), np.random.default_rng(seed)
    if kind == "babble":
        sound = noise.babble(_voices(), len(speech), rate_hz=SAMPLE_RATE_HZ, rng=rng)
    else:
        sound = generate(kind, len(speech), rate_hz=SAMPLE_RATE_HZ, rng=rng)
    mixture = noise.mix_at_snr(speech, sound, snr_db, rate_hz=SAMPLE_RATE_HZ, rng=rng)
    return mixture.mixed, mixture.gain


@cache
def _voices() -> tuple[FloatArray, ...]:
    return tuple(read_audio(path) for path in sorted(VOICES.glob("*.opus")))
