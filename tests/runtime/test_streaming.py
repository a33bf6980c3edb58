"""Streams: finals are what a recording gives, partials never touch them, and nothing grows with the session."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeDecoder, FloatArray, byte_tokenizer, loudness_detector

import linnet
from fake_recognizer import FakeRecognizer
from linnet.audio import read_audio
from linnet.bundle import Bundle
from linnet.errors import AudioContentError, ConfigError, LanguageError
from linnet.noise import hum
from linnet.runtime.base import Recognizer
from linnet.runtime.draft import ROLLBACK_TOKENS, Draft
from linnet.runtime.encoder import clip_features
from linnet.runtime.greedy import EXTRA_TOKENS, TOKENS_PER_SECOND
from linnet.runtime.longform import Cut, plan_cuts
from linnet.runtime.prompt import build_prompt, encode_answer
from linnet.runtime.qwen3_asr import Qwen3ASRRecognizer
from linnet.runtime.streaming import MAX_PAUSE_S, StreamEvent, StreamingTranscriber
from linnet.runtime.vad import SpeechDetector

RATE = 16_000
SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def nano() -> Iterator[Recognizer]:
    model = linnet.load_model("nano", threads=1)
    yield model
    model.close()


@pytest.fixture(scope="module")
def talk() -> FloatArray:
    """Five real clips with pauses of 0.3 to 2 s between them."""
    clips = sorted(SAMPLES.glob("*.flac"))[:5]
    parts = [part for clip, pause_s in zip(clips, (0.3, 0.8, 2.0, 0.5, 1.2), strict=True)
             for part in (read_audio(clip), np.zeros(round(pause_s * RATE), np.float32))]  # fmt: skip
    return np.concatenate(parts)


def run(stream: StreamingTranscriber, samples: FloatArray, size: int) -> list[StreamEvent]:
    events = []
    for start in range(0, len(samples), size):
        events += stream.push(samples[start : start + size])
    return events + stream.finish()


def finals(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    return [event for event in events if event.kind == "final"]


def tone(seconds: float) -> FloatArray:
    return np.tile(np.repeat(np.float32([0.5, 0.2]), 2048), 250)[: round(seconds * RATE)]


def silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.mark.parametrize("max_pause_s", [MAX_PAUSE_S, 1.0])
@pytest.mark.parametrize("size", [1600, 7001])
def test_finals_are_what_the_same_cuts_give_offline(
    nano: Qwen3ASRRecognizer, talk: FloatArray, size: int, max_pause_s: float
) -> None:
    events = finals(run(StreamingTranscriber(nano, max_pause_s=max_pause_s), talk, size))
    offline = nano.recognize(plan_cuts([talk], SpeechDetector(), max_pause_s=max_pause_s))
    assert [(event.text, event.start_s, event.end_s, event.language, event.flags) for event in events] == [
        (one.text, one.start_s, one.end_s, one.language, one.flags) for one in offline
    ]
    assert len(offline) >= 3
    # One cut at a time or several: the same sums in another order, so the last bits of a probability may differ.
    np.testing.assert_allclose([event.confidence for event in events], [one.confidence for one in offline], rtol=1e-4)
    if max_pause_s == 1.0:  # as in a recording
        assert [event.text for event in events] == [one.text for one in nano.transcribe(talk).segments]


def test_partials_come_while_somebody_speaks_and_leave_finals_alone(nano: Recognizer, talk: FloatArray) -> None:
    events = run(StreamingTranscriber(nano), talk, 800)
    settled_s = 0.0
    kinds = [event.kind for event in events]
    assert kinds.count("partial") > kinds.count("final") >= 3
    for event in events:
        assert event.start_s >= settled_s
        assert event.end_s > event.start_s
        if event.kind == "final":
            settled_s = event.end_s
    only_finals = run(StreamingTranscriber(nano, partials=False), talk, 800)
    assert only_finals == finals(events)


@pytest.fixture
def make(tiny_bundle: Bundle) -> Callable[..., Qwen3ASRRecognizer]:
    """Function (answer of the seconds of audio) → recogniser; what its prompt forces is not said again."""

    def made(say: Callable[[float], str] = lambda seconds: "word " * int(seconds)) -> Qwen3ASRRecognizer:
        def script(prompt: FloatArray) -> Sequence[int]:
            rows = [int(row[0]) if (row == row[0]).all() else -1 for row in prompt]
            begin = max(index for index, row in enumerate(rows) if row == -1) + 1
            given = len(rows) - begin - len(bare.suffix)
            return encode_answer(byte_tokenizer(), say(rows.count(-1) / 13), language="en")[given:]

        bare = build_prompt(byte_tokenizer(), 0)
        return Qwen3ASRRecognizer(tiny_bundle, FakeDecoder(script), threads=1, detector=loudness_detector)

    return made


Make = Callable[..., Qwen3ASRRecognizer]


def fake(recognizer: Qwen3ASRRecognizer) -> FakeDecoder:
    assert isinstance(recognizer._decoder, FakeDecoder)
    return recognizer._decoder


def given_tokens(recognizer: Qwen3ASRRecognizer, prompt: FloatArray) -> list[int]:
    """The part of an answer that a prompt ends with."""
    audio = [index for index, row in enumerate(prompt) if not (row == row[0]).all()]
    return [int(row[0]) for row in prompt[audio[-1] + 1 + len(build_prompt(byte_tokenizer(), 0).suffix) :]]


def test_a_draft_continues_the_one_before_but_for_its_last_tokens(make: Make) -> None:
    made = make()
    events = run(StreamingTranscriber(made, detector=loudness_detector), tone(6), 1600)
    given = [given_tokens(made, prompt) for prompt in fake(made).prompts]
    assert given[-1] == []  # the final text owes nothing to drafts
    assert given[:2] == [[], []]  # of less than two seconds before
    for tokens, seconds in zip(given[2:-1], (2, 3, 4, 5), strict=False):
        answer = encode_answer(byte_tokenizer(), "word " * seconds, language="en")[:-1]
        assert tokens == answer[:-ROLLBACK_TOKENS]
    counts = [event.text.count("word") for event in events]
    assert counts == sorted(counts) and counts[-1] == 6


def test_rolling_back_never_leaves_half_a_character(make: Make) -> None:
    made = make(lambda seconds: "一二三四五六七八九十"[: int(seconds)])
    run(StreamingTranscriber(made, detector=loudness_detector), tone(9), 1600)
    given = [given_tokens(made, prompt) for prompt in fake(made).prompts]
    assert any(given)
    for tokens in given:
        assert "\ufffd" not in byte_tokenizer().decode(tokens, skip_special_tokens=False)


def test_a_draft_that_loops_is_not_handed_on(make: Make) -> None:
    made = make(lambda seconds: "no way " * 40 if seconds < 3 else "well")
    events = run(StreamingTranscriber(made, detector=loudness_detector), tone(7), 1600)
    given = [bool(given_tokens(made, prompt)) for prompt in fake(made).prompts]
    assert given[:3] == [False] * 3  # at 1, 2 and 4 seconds
    assert any(given[3:])
    assert [event.text for event in finals(events)] == ["well"]
    assert all(event.text.count("no way") <= 2 for event in events)


def test_a_model_that_never_stops_is_drafted_ever_less(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers reach the cap, which grows with the cut: all drafts together stay below three final texts."""
    made, steps = make(), list[int]()
    fake(made)._script = lambda prompt: [(7 * index + index // 200) % 200 for index in range(2000)]
    step = fake(made).step

    def counting(slots: Sequence[int], tokens: Sequence[int]) -> FloatArray:
        steps.append(1)
        return step(slots, tokens)

    monkeypatch.setattr(fake(made), "step", counting)
    stream = StreamingTranscriber(made, detector=loudness_detector)
    for part in np.split(tone(28.8), 288):
        stream.push(part)
    assert 0 < len(steps) < 3 * (28.8 * TOKENS_PER_SECOND + EXTRA_TOKENS)
    stream.finish()


def test_complete_windows_are_encoded_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made, frames = make(), []
    encoder = made._encoder

    def counting(mel: FloatArray) -> FloatArray:
        frames.append(mel.shape[1])
        return encoder(mel)

    monkeypatch.setattr(made._drafter, "_encoder", counting)
    draft: Draft | None = None
    speech = np.random.default_rng(0).uniform(-0.5, 0.5, 26 * RATE).astype(np.float32)
    for seconds in (15, 17, 25, 26):
        draft = made.draft(Cut(speech[: seconds * RATE], 0, 0, seconds * RATE), draft)
    assert frames == [800, 700, 800, 100, 800, 100, 200]
    assert draft is not None and len(draft.windows) == 3


def test_kept_windows_are_what_encoding_all_at_once_gives(tiny_bundle: Bundle, make: Make) -> None:
    made = make()
    speech = read_audio(SAMPLES / "en-jfk.flac")
    speech = np.concatenate([speech, speech])[: 19 * RATE]
    first = made.draft(Cut(speech[: 18 * RATE], 0, 0, 18 * RATE))
    mel = clip_features(speech, tiny_bundle.features)
    audio, _ = made._drafter._hear(mel, first.windows)
    # fp32, the same numbers in other batches: rounding of the last bits through the layers
    np.testing.assert_allclose(audio, made._encoder(mel), atol=1e-4)


def test_the_last_words_of_a_pause_come_soon(make: Make) -> None:
    """Final: half a second of pause, the padding of both sides, and one step; not the two seconds of a recording."""
    stream = StreamingTranscriber(make(), detector=loudness_detector)
    events = [stream.push(part) for part in np.split(np.concatenate([tone(2.048), silence(4.096)]), 48)]
    came = [index for index, found in enumerate(events) if finals(found)]
    assert len(came) == 1
    assert came[0] * 0.128 - 2.048 <= MAX_PAUSE_S + 2 * 0.256 + 0.256


def test_speech_without_pauses_is_cut_at_the_ceiling(make: Make) -> None:
    events = run(StreamingTranscriber(make(), detector=loudness_detector, max_cut_s=5.0), tone(13), 1600)
    ends = [event.end_s for event in finals(events)]
    assert len(ends) >= 3
    assert max(np.diff([0.0, *ends])) <= 5.0
    assert finals(events)[0] != events[-1]  # it did not wait for the end


def test_a_partial_that_comes_to_nothing_is_taken_back(make: Make) -> None:
    made = make(lambda seconds: "word" if seconds < 2 else "")
    events = run(StreamingTranscriber(made, detector=loudness_detector), np.concatenate([tone(3), silence(3)]), 1600)
    assert [(event.kind, event.text) for event in events] == [("partial", "word"), ("partial", "")]


def test_hum_and_silence_cause_no_event_and_no_work(make: Make) -> None:
    made = make()
    sound = np.concatenate([silence(3), hum(5 * RATE, rng=np.random.default_rng(1)).astype(np.float32), silence(3)])
    assert run(StreamingTranscriber(made), sound, 1600) == []
    assert fake(made).prompts == []


def test_an_hour_takes_no_more_memory_and_work_than_its_minutes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech without a single pause: the most there can be."""
    made = make(lambda seconds: "a")
    config, prompts = made._config, list[int]()

    def encode(mel: FloatArray) -> FloatArray:
        # Its own cost is measured elsewhere; here it would only take time.
        return np.tile(np.arange(2, dtype=np.float32), (config.audio_tokens(mel.shape[1]), config.output_dim // 2))

    monkeypatch.setattr(made, "_encoder", encode)
    monkeypatch.setattr(made._drafter, "_encoder", encode)
    decoder = fake(made)
    decoder.keep_prompts = False
    prefill = decoder.prefill

    def counting(given: Sequence[FloatArray]) -> object:
        prompts.extend(len(prompt) for prompt in given)
        return prefill(given)

    monkeypatch.setattr(decoder, "prefill", counting)
    stream = StreamingTranscriber(made, detector=loudness_detector)
    ten_seconds, positions = tone(10.24), list[int]()
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        for _ in range(12):
            for part in np.split(ten_seconds, 20):
                stream.push(part)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        positions.append(sum(prompts))
        prompts.clear()
    assert max(peaks) < 40e6
    assert max(peaks) < 1.5 * min(peaks)
    # 13 audio tokens per second in the finals, and at most ten times that in the drafts, besides prompts of 30 tokens
    assert max(positions) <= 11 * 13 * 123 + 30 * 123


def test_how_samples_are_pushed_does_not_matter_for_finals(make: Make) -> None:
    samples = np.concatenate([tone(3), silence(2), tone(1), silence(0.3), tone(4), silence(1)])
    sizes = [1, 512, 1600, 100_000, len(samples)]
    runs = []
    for size in sizes:
        some = samples if size > 1 else samples[:3000]
        runs.append(finals(run(StreamingTranscriber(make(), detector=loudness_detector), some, size)))
    assert runs[1] == runs[2] == runs[3] == runs[4]
    assert len(runs[1]) == 2


def test_a_push_of_minutes_makes_one_draft_at_most(make: Make) -> None:
    made = make()
    stream = StreamingTranscriber(made, detector=loudness_detector, max_cut_s=5.0)
    events = stream.push(tone(18))
    assert [event.kind for event in events][-1] == "partial"
    assert [event.kind for event in events].count("partial") == 1


def test_the_buffer_may_be_reused_by_the_caller(make: Make) -> None:
    stream, buffer = StreamingTranscriber(make(), detector=loudness_detector), np.empty(400, np.float32)
    for part in np.split(tone(2), 80):
        buffer[:] = part
        stream.push(buffer)
        buffer[:] = 0
    assert finals(stream.finish())


def test_streams_in_threads_do_not_disturb_each_other(nano: Recognizer, talk: FloatArray) -> None:
    alone = run(StreamingTranscriber(nano), talk, 4000)
    results: dict[int, list[StreamEvent]] = {}

    def one(index: int) -> None:
        results[index] = run(StreamingTranscriber(nano), talk, 4000)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[index] for index in range(3)] == [alone] * 3


def test_language_and_context_are_in_every_prompt(make: Make) -> None:
    made = make()
    fake(made)._script = lambda prompt: [*byte_tokenizer().encode("hi").ids, 258]
    stream = StreamingTranscriber(made, language="en", context="Linnet", detector=loudness_detector)
    events = run(stream, np.concatenate([tone(3), silence(2), tone(2)]), 1600)
    assert {event.language for event in finals(events)} == {"en"}
    assert len(fake(made).prompts) >= 4
    for prompt in fake(made).prompts:
        text = byte_tokenizer().decode(
            [int(row[0]) for row in prompt if (row == row[0]).all()], skip_special_tokens=False
        )
        assert "system\nLinnet<|im_end|>" in text and "language English<asr_text>" in text


def test_an_interruption_loses_no_words(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a cut is recognised: `finish` recognises it."""
    made = make()
    stream = StreamingTranscriber(made, detector=loudness_detector, partials=False)
    recognize = made.recognize

    def interrupted(*args: object, **options: object) -> None:
        monkeypatch.setattr(made, "recognize", recognize)
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "recognize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.push(np.concatenate([tone(2), silence(3)]))
    assert [event.text for event in stream.finish()] == ["word word"]


def test_bad_samples_are_errors_and_lose_nothing_else(make: Make) -> None:
    stream = StreamingTranscriber(make(), detector=loudness_detector)
    stream.push(tone(1))
    broken = tone(1)
    broken[5] = np.nan
    for samples, message in [
        (broken, "NaN"),
        (np.zeros(100, np.int16), "int16"),
        (np.zeros((2, 9), np.float32), "mono"),
    ]:
        with pytest.raises(AudioContentError, match=message):
            stream.push(samples)
    assert stream.push(np.zeros(0, np.float32)) == []
    stream.push(tone(1))
    (final,) = finals(stream.finish())
    assert final.end_s == 2.0


def test_a_finished_stream_takes_no_more(make: Make) -> None:
    stream = StreamingTranscriber(make(), detector=loudness_detector)
    assert stream.finish() == []
    for call in (stream.finish, lambda: stream.push(tone(1))):
        with pytest.raises(ConfigError, match="finished"):
            call()


def test_what_cannot_work_is_said_at_the_start(make: Make, tmp_path: Path) -> None:
    with pytest.raises(LanguageError, match="Klingon"):
        StreamingTranscriber(make(), language="Klingon")
    with pytest.raises(ConfigError, match="cannot stream"):
        StreamingTranscriber(FakeRecognizer(tmp_path, {}))


def test_events_can_be_compared_and_written() -> None:
    event = StreamEvent("final", "hi", 0.0, 1.0, 0.5)
    assert dataclasses.asdict(event)["kind"] == "final"
