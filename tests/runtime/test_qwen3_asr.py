"""The recogniser from samples to text: what it says about speech, silence, loops, languages and hours of audio."""

from __future__ import annotations

import dataclasses
import io
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeDecoder, FloatArray, byte_tokenizer, loudness_detector

from linnet.audio import read_audio
from linnet.bundle import Bundle
from linnet.errors import AudioContentError, AudioNotFoundError, BundleCorruptError, ConfigError, LanguageError
from linnet.results import Segment
from linnet.runtime import qwen3_asr, recording
from linnet.runtime.assemble import join_texts
from linnet.runtime.greedy import EXTRA_TOKENS, TOKENS_PER_SECOND
from linnet.runtime.longform import Cut
from linnet.runtime.onnx_decoder import OnnxDecoder
from linnet.runtime.prompt import build_prompt, encode_answer
from linnet.runtime.qwen3_asr import Qwen3ASRRecognizer

RATE = 16_000
Say = Callable[[float], Sequence[int]]
"""From the seconds of audio in a prompt to the answer's tokens."""


def answer(text: str, language: str | None = "en") -> list[int]:
    return encode_answer(byte_tokenizer(), text, language=language)


def tone(seconds: float) -> FloatArray:
    """Loud, with a level that goes up and down as a voice's does."""
    return np.tile(np.repeat(np.float32([0.5, 0.2]), 2048), 250)[: round(seconds * RATE)]


def silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.fixture
def recognizer(tiny_bundle: Bundle) -> Callable[..., Qwen3ASRRecognizer]:
    """Function (say) → recogniser that takes loud samples for speech and answers say(seconds of audio)."""

    def make(say: Say = lambda seconds: answer("hello"), **options: object) -> Qwen3ASRRecognizer:
        overhead: list[int] = []

        def script(prompt: FloatArray) -> Sequence[int]:
            return say((len(prompt) - overhead[0]) / 13)  # 13 tokens per second

        decoder = FakeDecoder(script)
        made = Qwen3ASRRecognizer(tiny_bundle, decoder, threads=1, detector=loudness_detector, **options)  # type: ignore[arg-type]
        overhead.append(len(qwen3_asr.build_prompt(made._tokenizer, 0).ids))
        return made

    return make


def fake(made: Qwen3ASRRecognizer) -> FakeDecoder:
    assert isinstance(made._decoder, FakeDecoder)
    return made._decoder


Make = Callable[..., Qwen3ASRRecognizer]


def test_segments_carry_text_times_language_and_confidence(recognizer: Make) -> None:
    made = recognizer()
    samples = np.concatenate([silence(1), tone(2), silence(3), tone(1), silence(1)])
    result = made.transcribe(samples)
    assert result.text == "hello hello"
    assert (result.language, result.model, result.duration_s) == ("en", "tiny", 8.0)
    frame_s = 512 / RATE
    for segment, (start_s, end_s) in zip(result.segments, [(1, 3), (6, 7)], strict=True):
        assert segment.start_s == pytest.approx(start_s, abs=frame_s)
        assert segment.end_s == pytest.approx(end_s, abs=frame_s)
        assert segment.flags == ()
        assert segment.confidence == pytest.approx(np.e / (np.e + 511), rel=1e-5)  # what FakeDecoder's logits mean
    assert fake(made).live == {}


def test_real_network_real_speech_both_runs_equal(tiny_bundle: Bundle, clip: Path) -> None:
    """Random weights say nonsense, but the same nonsense, with no marker in it."""
    made = Qwen3ASRRecognizer(tiny_bundle, OnnxDecoder(tiny_bundle.file("decoder.onnx"), threads=1), threads=1)
    samples = read_audio(clip)[: 3 * RATE]
    runs = [dataclasses.replace(made.transcribe(samples), processing_s=None) for _ in range(2)]
    assert runs[0] == runs[1]
    assert "<|" not in runs[0].text and "asr_text" not in runs[0].text
    made.close()
    with pytest.raises(ConfigError):
        made.transcribe(samples)


@pytest.mark.parametrize("max_batch", [1, 3])
def test_many_cuts_at_a_time_give_the_same_as_one(recognizer: Make, max_batch: int) -> None:
    lengths = [1, 4, 2, 5, 1, 3, 6]
    samples = np.concatenate([part for length in lengths for part in (tone(length), silence(2))])
    made = recognizer(lambda seconds: answer("word " * round(seconds)), max_batch=max_batch)
    result = made.transcribe(samples)
    # 0.26 s of padding on both sides, but for the first, which starts with the recording
    assert [len(segment.text.split()) for segment in result.segments] == [1, 5, 3, 6, 2, 4, 7]
    assert fake(made).most_live == max_batch


def test_silence_gives_an_empty_transcript_without_asking_the_model(recognizer: Make) -> None:
    made = recognizer()
    result = made.transcribe(silence(3))
    assert (result.text, result.language, result.segments, result.duration_s) == ("", None, (), 3.0)
    assert fake(made).prompts == []


@pytest.mark.parametrize("kind", ["silence", "noise", "10 ms", "one sample"])
def test_what_is_not_speech_gives_an_empty_transcript(tiny_bundle: Bundle, kind: str) -> None:
    """With the real voice activity detector."""
    noise = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32) * np.float32(0.05)
    samples = {"silence": silence(2), "noise": noise, "10 ms": noise[:160], "one sample": noise[:1]}[kind]
    decoder = FakeDecoder(lambda prompt: answer("thank you for watching"))
    result = Qwen3ASRRecognizer(tiny_bundle, decoder, threads=1).transcribe(samples)
    assert (result.text, result.segments) == ("", ())
    assert result.duration_s == len(samples) / RATE


@pytest.mark.parametrize("said", ["", "language None<asr_text>", "language English<asr_te"])
def test_a_model_that_hears_nothing_gives_no_segment(recognizer: Make, said: str) -> None:
    tokens = [*byte_tokenizer().encode(said).ids, 258]
    assert recognizer(lambda seconds: tokens).transcribe(tone(2)).segments == ()


def test_bad_samples_and_files_are_errors(recognizer: Make, tmp_path: Path) -> None:
    made = recognizer()
    broken = tone(1)
    broken[77] = np.nan
    for samples, message in [
        (broken, "NaN"),
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((2, 100), np.float32), "mono"),
        (np.zeros(100, np.int16), "int16"),
    ]:
        with pytest.raises(AudioContentError, match=message):
            made.transcribe(samples)
    with pytest.raises(AudioNotFoundError):
        made.transcribe(tmp_path / "nothing.wav")


def test_files_streams_and_other_rates_are_read(recognizer: Make, tmp_path: Path) -> None:
    samples = np.concatenate([silence(1), tone(2), silence(1)])
    path = tmp_path / "tone.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    made = recognizer()
    expected = made.transcribe(samples).segments
    assert made.transcribe(path).segments == expected
    assert made.transcribe(str(path)).segments == expected
    assert made.transcribe(io.BytesIO(path.read_bytes())).segments == expected
    (slow,) = made.transcribe(samples[::2].copy(), sample_rate_hz=RATE // 2).segments
    assert slow.end_s == pytest.approx(3.0, abs=0.1)


def test_a_loop_is_tried_again_on_smaller_cuts(recognizer: Make) -> None:
    """Loops above 3 s; the two halves are fine, so nothing is flagged and nothing is lost."""
    made = recognizer(lambda seconds: answer("fine") if seconds < 3 else answer("no way " * 40))
    samples = tone(5)
    samples[40_000:43_200] *= 0.1  # still loud enough for the detector, but the place to cut
    result = made.transcribe(samples)
    assert result.text == "fine fine"
    assert [segment.flags for segment in result.segments] == [(), ()]
    left, right = result.segments
    assert left.end_s == right.start_s
    assert (left.start_s, right.end_s) == (0.0, 5.0)


def test_a_loop_that_stays_is_flagged_and_said_once(recognizer: Make) -> None:
    made = recognizer(lambda seconds: answer("so " + "no way " * 40))
    result = made.transcribe(tone(16))
    assert {segment.flags for segment in result.segments} == {("repetition",)}
    assert len(result.segments) == 4  # the whole, its halves, their halves, and there it stops
    for segment in result.segments:
        assert segment.text.count("no way") <= 2


def test_an_answer_without_end_is_capped_and_flagged(recognizer: Make) -> None:
    endless = [ord("a") % 26 + (i * 7 + i // 26) % 200 for i in range(3000)]
    made = recognizer(lambda seconds: endless)
    result = made.transcribe(tone(1.5))  # too short to be split
    (segment,) = result.segments
    assert segment.flags == ("truncated",)
    assert "\ufffd" not in segment.text
    assert len(segment.text) <= 1.5 * TOKENS_PER_SECOND + EXTRA_TOKENS


def test_a_forced_language_is_in_the_prompt_and_in_the_result(recognizer: Make) -> None:
    made = recognizer(lambda seconds: [*byte_tokenizer().encode("你好").ids, 258])
    result = made.transcribe(tone(1), language="Chinese")
    assert (result.text, result.language, result.segments[0].language) == ("你好", "zh", "zh")
    suffix = [int(row[0]) for row in fake(made).prompts[0]][-len("language Chinese") - 1 :]
    assert byte_tokenizer().decode(suffix, skip_special_tokens=False) == "language Chinese<asr_text>"


def test_a_forced_language_holds_in_every_segment_and_second_try(recognizer: Make) -> None:
    """Whatever else the model claims, and however often a cut is halved."""

    def say(seconds: float) -> list[int]:
        looping = seconds > 5  # the language in the prompt counts as more than a second
        return [*byte_tokenizer().encode("no way " * 40 if looping else "language English<asr_text>hi").ids, 258]

    made = recognizer(say)
    samples = np.concatenate([tone(1), silence(2), tone(4), silence(2), tone(1)])
    result = made.transcribe(samples, language="zh")
    assert [(segment.language, segment.text) for segment in result.segments] == [("zh", "hi")] * 4
    suffix = byte_tokenizer().encode("language Chinese<asr_text>").ids
    assert len(fake(made).prompts) == 5
    assert all([int(row[0]) for row in prompt[-len(suffix) :]] == suffix for prompt in fake(made).prompts)


def context_of(prompt: FloatArray) -> str:
    text = byte_tokenizer().decode([int(row[0]) for row in prompt if row[0] == row[1]], skip_special_tokens=False)
    return text.split("system\n")[1].split("<|im_end|>")[0]


def leaking(made: Qwen3ASRRecognizer, without: str) -> None:
    """Let the model recite its context, and say `without` if there is none."""
    fake(made)._script = lambda prompt: answer(context_of(prompt) or without)


@pytest.mark.parametrize("without", ["I would like the soup", "hm"])
def test_a_context_that_leaks_is_taken_out_and_flagged(recognizer: Make, without: str) -> None:
    made = recognizer()
    leaking(made, without)
    result = made.transcribe(np.concatenate([tone(2), silence(2), tone(3)]), context="Linnet, Hangzhou, Szymborska")
    assert result.text == f"{without} {without}"
    assert {segment.flags for segment in result.segments} == {("context_leak",)}
    assert [context_of(prompt) for prompt in fake(made).prompts].count("") == 2


def test_where_nothing_is_heard_a_leak_leaves_nothing(recognizer: Make) -> None:
    made = recognizer()
    leaking(made, "")
    assert made.transcribe(tone(2), context="Linnet, Hangzhou, Szymborska").segments == ()


def test_context_that_was_really_said_stays(recognizer: Make) -> None:
    made = recognizer()
    leaking(made, "lynette hang joe shimborska")
    result = made.transcribe(tone(2), context="Linnet, Hangzhou, Szymborska")
    (segment,) = result.segments
    assert (segment.text, segment.flags) == ("Linnet, Hangzhou, Szymborska", ())


def test_an_answer_with_other_words_is_not_asked_twice(recognizer: Make) -> None:
    made = recognizer(lambda seconds: answer("we met in Hangzhou last summer"))
    overhead = len(build_prompt(byte_tokenizer(), 0, context="Linnet, Hangzhou").ids)
    assert overhead
    assert made.transcribe(tone(2), context="Linnet, Hangzhou").text == "we met in Hangzhou last summer"
    assert len(fake(made).prompts) == 1


def test_a_draft_does_not_show_what_may_be_copied(recognizer: Make) -> None:
    made = recognizer()
    leaking(made, "hm")
    cut = Cut(tone(2), 0, 0, 2 * RATE)
    assert made.draft(cut, context="Linnet, Hangzhou").text == ""
    assert made.draft(cut).text == "hm"


def test_words_carry_confidences_and_no_invented_times(recognizer: Make) -> None:
    (segment,) = recognizer(lambda seconds: answer("hello, 世界")).transcribe(tone(2)).segments
    assert [word.text for word in segment.words] == ["hello,", "世", "界"]
    for word in segment.words:
        assert word.confidence == pytest.approx(np.e / (np.e + 511), rel=1e-5)
        assert word.start_s is word.end_s is None


def test_the_context_is_in_the_prompt(recognizer: Make) -> None:
    made = recognizer()
    made.transcribe(tone(1), context="Linnet")
    tokens = [int(row[0]) for row in fake(made).prompts[0] if row[0] == row[1]]
    assert "system\nLinnet<|im_end|>" in byte_tokenizer().decode(tokens, skip_special_tokens=False)


@pytest.mark.parametrize("language", ["de", "Klingon"])
def test_a_language_the_bundle_lacks_is_an_error_that_lists_its_languages(tiny_bundle: Bundle, language: str) -> None:
    bundle = dataclasses.replace(tiny_bundle, languages=("zh", "en"))
    made = Qwen3ASRRecognizer(bundle, FakeDecoder(lambda prompt: []), threads=1)
    with pytest.raises(LanguageError, match=r"Chinese \(zh\), English \(en\)"):
        made.transcribe(tone(1), language=language)


def test_the_language_is_that_of_most_speech(recognizer: Make) -> None:
    made = recognizer(lambda seconds: answer("你好", "zh") if seconds > 3 else answer("hi", "en"))
    result = made.transcribe(np.concatenate([tone(1), silence(2), tone(5), silence(2), tone(1)]))
    assert result.language == "zh"
    assert [segment.language for segment in result.segments] == ["en", "zh", "en"]
    assert result.text == "hi 你好 hi"


def test_texts_are_joined_with_spaces_but_not_between_chinese() -> None:
    def segment(text: str, language: str | None) -> Segment:
        return Segment(text, 0.0, 1.0, language)

    assert join_texts([segment("你好", "zh"), segment("世界", "zh")]) == "你好世界"
    assert join_texts([segment("hello", "en"), segment("world", "en"), segment("你", "zh")]) == "hello world 你"
    assert join_texts([segment("안녕", "ko"), segment("하세요", "ko")]) == "안녕 하세요"
    assert join_texts([segment("a", None), segment("b", None)]) == "a b"
    assert join_texts([]) == ""


def test_a_context_that_leaves_no_room_is_an_error(recognizer: Make) -> None:
    made = recognizer()
    with pytest.raises(ConfigError, match="Shorten the context"):
        made.transcribe(tone(1), context="x" * 5000)
    assert fake(made).live == {}
    assert made.transcribe(tone(1)).text == "hello"  # and the recogniser is still usable


def test_progress_grows_to_the_whole_recording(recognizer: Make, tmp_path: Path) -> None:
    samples = np.concatenate([tone(1), silence(2)] * 3)
    path = tmp_path / "tone.wav"
    soundfile.write(path, samples, RATE)
    for audio in (samples, path):
        calls: list[tuple[float, float]] = []
        recognizer().transcribe(audio, progress=lambda done_s, total_s, calls=calls: calls.append((done_s, total_s)))
        done = [done_s for done_s, _ in calls]
        assert len(calls) == 4
        assert done == sorted(done)
        assert calls[-1] == (9.0, 9.0)
        assert {total_s for _, total_s in calls} == {9.0}


def test_three_hours_fit_in_bounded_memory(recognizer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    half_minute = np.concatenate([tone(5), silence(25)])

    def three_hours(*args: object, **options: object) -> Iterator[FloatArray]:
        return (half_minute.copy() for _ in range(360))

    monkeypatch.setattr(recording, "stream_audio", three_hours)
    made = recognizer()
    config = made._config
    # The encoder's own cost is per cut and measured elsewhere; here it would only take time.
    monkeypatch.setattr(
        made, "_encoder", lambda mel: np.zeros((config.audio_tokens(mel.shape[1]), config.output_dim), np.float32)
    )
    fake(made).keep_prompts = False
    tracemalloc.start()
    result = made.transcribe("three hours")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.duration_s == 3 * 3600
    assert len(result.segments) == 360
    assert peak < 30e6  # the samples alone are 691 MB


def test_a_bundle_that_does_not_fit_together_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleCorruptError, match="embeddings of 32"):
        Qwen3ASRRecognizer(tiny_bundle, FakeDecoder(lambda prompt: [], hidden_size=32))
    decoder = FakeDecoder(lambda prompt: [])
    for changes in ({"d_modell": 3}, {"n_mels": 80}):
        bundle = dataclasses.replace(tiny_bundle, model=tiny_bundle.model | changes)
        with pytest.raises(BundleCorruptError):
            Qwen3ASRRecognizer(bundle, decoder)
