"""Servers and recordings that several tests use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from running import JFK, Running, TalkingRecognizer, running, to_wav

import linnet
from linnet.audio import read_audio
from linnet.runtime.base import Recognizer


@pytest.fixture(scope="session")
def nano() -> Iterator[Recognizer]:
    model = linnet.load_model("nano", threads=1)
    yield model  # the server that has it closes it


@pytest.fixture(scope="session")
def nano_server(nano: Recognizer) -> Iterator[Running]:
    """The embedded model behind a real socket."""
    with running(nano) as server:
        yield server


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> TalkingRecognizer:
    return TalkingRecognizer(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def server(talking: TalkingRecognizer) -> Iterator[Running]:
    """A server whose model is a fake."""
    with running(talking) as found:
        yield found


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Eleven seconds of a real voice, float32 at 16 kHz."""
    return read_audio(JFK)


@pytest.fixture(scope="session")
def wav(speech: np.ndarray) -> bytes:
    return to_wav(speech)


@pytest.fixture(scope="session")
def long_wav(speech: np.ndarray) -> Callable[[float], bytes]:
    """A recording of that voice over and over, with pauses, of a given length in seconds."""

    def make(seconds: float) -> bytes:
        once = np.concatenate([speech, np.zeros(32_000, np.float32)])
        return to_wav(np.resize(once, round(seconds * 16_000)))

    return make
