"""POST /v1/audio/noise: the mixture has the ratio that was asked for, and the same seed gives the same bytes."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from running import Running, to_wav

from linnet.audio import read_audio
from linnet.noise import active_level_db
from linnet.noise_source import KINDS


def post(server: Running, wav: bytes, **fields: object) -> httpx.Response:
    data = {"noise": "pink", "snr_db": "5", **fields}
    return server.http.post("/v1/audio/noise", data=data, files={"file": ("a.wav", wav)})


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_is_the_one_asked_for(server: Running, speech: np.ndarray, wav: bytes, kind: str) -> None:
    answer = post(server, wav, noise=kind)
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/wav"
    mixed, gain = read_audio(io.BytesIO(answer.content)), float(answer.headers["x-gain"])
    noise = mixed - speech * gain
    ratio_db = active_level_db(speech * gain, 16_000) - 10 * np.log10(np.mean(noise.astype(np.float64) ** 2))
    assert ratio_db == pytest.approx(5, abs=0.05)  # two roundings to 16 bits
    assert len(mixed) == len(speech)


def test_the_seed_decides(server: Running, wav: bytes) -> None:
    first, same, other = (post(server, wav, seed=seed).content for seed in (1, 1, 2))
    assert first == same != other


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"noise": "rain"}, "noise"),
        ({"noise": ""}, "noise"),
        ({"snr_db": ""}, "snr_db"),
        ({"snr_db": "inf"}, "snr_db"),
        ({"snr_db": "-31"}, "snr_db"),
        ({"seed": "-1"}, "seed"),
    ],
)
def test_wrong_fields_are_400(server: Running, wav: bytes, fields: dict[str, str], param: str) -> None:
    answer = post(server, wav, **fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_silence_has_no_ratio(server: Running) -> None:
    answer = post(server, to_wav(np.zeros(16_000, np.float32)))
    assert answer.status_code == 400 and "silent" in answer.json()["error"]["message"]


def test_long_recordings_are_refused(server: Running) -> None:
    answer = post(server, to_wav(np.zeros(16_000 * 301, np.float32)))
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "audio_too_long"
