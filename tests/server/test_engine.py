"""The model's thread: order, fairness, cancellation, failures, the way down. And the batches of the real model."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from running import TalkingRecognizer, to_wav

import linnet
from linnet.errors import ConfigError, LanguageError
from linnet.results import Segment, Transcription
from linnet.runtime.base import AudioSource, Progress, Recognizer
from linnet.server.engine import Engine
from linnet.server.envelope import ApiError


@pytest.fixture
def talking(tmp_path: Path) -> TalkingRecognizer:
    return TalkingRecognizer(tmp_path / "bundle")


@asynccontextmanager
async def started(recognizer: Recognizer) -> AsyncIterator[Engine]:
    engine = Engine(recognizer)
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


def hold(talking: TalkingRecognizer) -> tuple[threading.Event, threading.Event]:
    """Stop the model in its next cut: an event for that it is there, and one that lets it go on."""
    entered, go = threading.Event(), threading.Event()

    def before(_: object) -> None:
        entered.set()
        assert go.wait(30)

    talking.before = before
    return entered, go


def test_a_recording_is_heard_whole_and_in_order(
    talking: TalkingRecognizer, long_wav: Callable[[float], bytes]
) -> None:
    async def scenario() -> tuple[Transcription, list[Segment]]:
        heard: list[Segment] = []
        async with started(talking) as engine:
            return await engine.transcribe(io.BytesIO(long_wav(60)), on_segment=heard.append), heard

    result, told = asyncio.run(scenario())
    assert tuple(told) == result.segments and len(told) >= 4
    assert [one.start_s for one in told] == sorted(one.start_s for one in told)
    assert result.duration_s == 60 and result.language == "en" and result.model == "fake"
    assert result.processing_s is not None and result.processing_s > 0
    assert talking.closed


def test_a_short_recording_does_not_wait_for_the_end_of_a_long_one(
    talking: TalkingRecognizer, long_wav: Callable[[float], bytes], wav: bytes
) -> None:
    finished: list[str] = []

    async def scenario() -> None:
        async with started(talking) as engine:
            entered, go = hold(talking)

            async def one(name: str, audio: bytes) -> None:
                await engine.transcribe(io.BytesIO(audio))
                finished.append(name)

            long = asyncio.ensure_future(one("long", long_wav(80)))
            await asyncio.to_thread(entered.wait, 30)  # the long one is in work when the short ones come
            short = [asyncio.ensure_future(one(f"short {n}", wav)) for n in range(3)]
            await asyncio.sleep(0)
            go.set()
            await asyncio.gather(long, *short)

    asyncio.run(scenario())
    assert finished[-1] == "long" and len(finished) == 4
    # Of the six cuts of the long one at most two came before the last short one: the one in work and its first turn.
    last_short = max(index for index, heard in enumerate(talking.heard) if heard[0] < 1)
    assert sum(heard[0] >= 1 for heard in talking.heard[:last_short]) <= 2


def test_work_of_a_caller_who_left_is_taken_off(
    talking: TalkingRecognizer, long_wav: Callable[[float], bytes], wav: bytes
) -> None:
    async def scenario() -> None:
        async with started(talking) as engine:
            entered, go = hold(talking)
            audio = io.BytesIO(long_wav(80))
            left = asyncio.ensure_future(engine.transcribe(audio))
            await asyncio.to_thread(entered.wait, 30)
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            assert not audio.closed  # the model may be reading it; its thread closes it, between two steps
            go.set()
            await engine.transcribe(io.BytesIO(wav))
            assert engine.pending == 0
        assert audio.closed

    asyncio.run(scenario())
    assert len(talking.heard) == 2  # the cut that was in work, and that of the other recording


def test_what_is_wrong_with_one_request_harms_no_other(talking: TalkingRecognizer, wav: bytes) -> None:
    silence = to_wav(np.zeros(16_000, np.float32))
    files = [io.BytesIO(audio) for audio in (silence, wav, b"no audio", wav)]

    async def scenario() -> list[Transcription | BaseException]:
        async with started(talking) as engine:
            return await asyncio.gather(
                engine.transcribe(files[0], language="xx"),
                engine.transcribe(files[1], context="x" * 1001),
                engine.transcribe(files[2]),
                engine.transcribe(files[3]),
                return_exceptions=True,
            )

    language, context, content, fine = asyncio.run(scenario())
    assert isinstance(language, LanguageError) and isinstance(context, ConfigError)
    assert isinstance(content, ValueError) and isinstance(fine, Transcription)
    assert all(file.closed for file in files)


def test_a_failing_model_answers_everybody_and_goes_on(talking: TalkingRecognizer, wav: bytes) -> None:
    async def scenario() -> tuple[list[Transcription | BaseException], Transcription]:
        async with started(talking) as engine:
            talking.failure = RuntimeError("out of memory")
            failed = await asyncio.gather(
                *(engine.transcribe(io.BytesIO(wav)) for _ in range(3)), return_exceptions=True
            )
            talking.failure = None
            return list(failed), await engine.transcribe(io.BytesIO(wav))

    failed, fine = asyncio.run(scenario())
    assert all(isinstance(one, RuntimeError) for one in failed) and fine.text


def test_a_call_runs_between_the_cuts_of_a_recording(
    talking: TalkingRecognizer, long_wav: Callable[[float], bytes]
) -> None:
    async def scenario() -> tuple[int, str]:
        async with started(talking) as engine:
            entered, go = hold(talking)
            recording = asyncio.ensure_future(engine.transcribe(io.BytesIO(long_wav(80))))
            await asyncio.to_thread(entered.wait, 30)
            call = asyncio.ensure_future(engine.call(lambda: (len(talking.heard), threading.current_thread().name)))
            await asyncio.sleep(0)
            go.set()
            found = await call
            await recording
            return found

    heard, thread = asyncio.run(scenario())
    assert heard == 1 and thread == "linnet-model"


def test_errors_of_a_call_are_the_callers(talking: TalkingRecognizer) -> None:
    async def scenario() -> None:
        async with started(talking) as engine:
            with pytest.raises(ZeroDivisionError):
                await engine.call(lambda: 1 / 0)
            assert await engine.call(lambda: 2) == 2

    asyncio.run(scenario())


def test_on_the_way_down_work_is_finished(talking: TalkingRecognizer, wav: bytes) -> None:
    async def scenario() -> None:
        async with started(talking) as engine:
            entered, go = hold(talking)
            accepted = asyncio.ensure_future(engine.transcribe(io.BytesIO(wav)))
            await asyncio.to_thread(entered.wait, 30)
            engine.drain()
            assert not engine.ready
            decoded_late = asyncio.ensure_future(engine.transcribe(io.BytesIO(wav)))
            go.set()
            assert (await accepted).text and (await decoded_late).text

    asyncio.run(scenario())


def test_when_the_time_is_over_what_is_left_is_answered_with_503(
    talking: TalkingRecognizer, long_wav: Callable[[float], bytes]
) -> None:
    files = [io.BytesIO(long_wav(60)), io.BytesIO(long_wav(60)), io.BytesIO()]

    async def scenario() -> None:
        async with started(talking) as engine:
            entered, go = hold(talking)
            late = [asyncio.ensure_future(engine.transcribe(file)) for file in files[:2]]
            await asyncio.to_thread(entered.wait, 30)
            engine.refuse_pending()
            for one in await asyncio.gather(*late, return_exceptions=True):
                assert isinstance(one, ApiError) and one.status == 503 and one.headers["Retry-After"]
            with pytest.raises(ApiError):
                await engine.transcribe(files[2])
            go.set()

    asyncio.run(scenario())
    assert len(talking.heard) <= 1
    assert all(file.closed for file in files)


class WholeOnly:
    """A recogniser that knows nothing but `transcribe`."""

    times_words = False

    def __init__(self, inner: TalkingRecognizer) -> None:
        self.bundle = inner.bundle

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int = 16_000,
        language: str | None = None,
        context: str = "",
        progress: Progress | None = None,
    ) -> Transcription:
        assert isinstance(audio, np.ndarray)
        duration_s = len(audio) / 16_000
        return Transcription("a", "en", duration_s, (Segment("a", 0.0, duration_s),), "fake")

    def close(self) -> None:
        pass


def test_a_model_that_only_transcribes_is_given_cuts_and_its_times_are_moved(
    talking: TalkingRecognizer, long_wav: Callable[[float], bytes]
) -> None:
    async def scenario() -> Transcription:
        async with started(WholeOnly(talking)) as engine:
            return await engine.transcribe(io.BytesIO(long_wav(60)))

    result = asyncio.run(scenario())
    starts = [one.start_s for one in result.segments]
    assert starts == sorted(starts) and starts[-1] > 30 and result.segments[-1].end_s <= 60.1


@pytest.fixture
def nano_alone() -> Iterator[Recognizer]:
    model = linnet.load_model("nano", threads=1)
    yield model
    model.close()


def test_recordings_side_by_side_get_what_each_gets_alone(
    nano_alone: Recognizer, wav: bytes, long_wav: Callable[[float], bytes]
) -> None:
    """Texts and times; the last digits of confidences depend on what else is in a batch (docs/streaming.md)."""
    recordings = [wav, long_wav(25), to_wav(np.zeros(32_000, np.float32)), wav, long_wav(40)]
    alone = [nano_alone.transcribe(io.BytesIO(one)) for one in recordings]
    model = linnet.load_model("nano", threads=1)

    async def scenario() -> list[Transcription]:
        async with started(model) as engine:
            return await asyncio.gather(*(engine.transcribe(io.BytesIO(one)) for one in recordings))

    for together, single in zip(asyncio.run(scenario()), alone, strict=True):
        assert (together.text, together.language, together.duration_s) == (
            single.text, single.language, single.duration_s,
        )  # fmt: skip
        assert [(one.start_s, one.end_s) for one in together.segments] == [
            (one.start_s, one.end_s) for one in single.segments
        ]
