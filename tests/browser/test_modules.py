"""The page's own computations against independent ones: NumPy, features.py, writers.py, jiwer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jiwer
import numpy as np
import pytest
from browser_page import module

from linnet.audio import read_audio
from linnet.features import log_mel
from linnet.results import Segment, Transcription, Word
from linnet.writers import render


@pytest.fixture(scope="module")
def blank(browser: Any, server: str) -> Iterator[Any]:
    """One page for all tests of this file: they change nothing in it."""
    page = browser.new_page()
    page.goto(server)
    yield page
    page.close()


@pytest.mark.parametrize("size", [1, 2, 7, 30, 400, 512])
def test_fft_matches_numpy(blank: Any, size: int) -> None:
    wave = np.random.default_rng(size).standard_normal(size)
    power = module(blank, "fft.js", "return [...new m.FFT(a.length).power(a, new Float64Array(a.length / 2 + 1))];",
                   wave.tolist())  # fmt: skip
    np.testing.assert_allclose(power, np.abs(np.fft.rfft(wave)) ** 2, rtol=1e-9, atol=1e-9)


def test_log_mel_is_what_the_model_sees(blank: Any, clip: Any) -> None:
    samples = read_audio(clip)
    picture = module(blank, "mel.js", "const p = m.logMel(Float32Array.from(a)); return {...p, values: [...p.values]};",
                     samples.tolist())  # fmt: skip
    expected = log_mel(samples)
    values = np.asarray(picture["values"]).reshape(picture["bands"], picture["frames"])
    # features.py computes in float32, the page in float64: the difference shows where there is next to no energy
    np.testing.assert_allclose(values, expected, atol=2e-3)


def test_long_recordings_are_drawn_from_every_nth_frame(blank: Any, clip: Any) -> None:
    samples = read_audio(clip)[:16_000]
    body = "const p = m.logMel(Float32Array.from(a), 25); return {...p, values: [...p.values]};"
    picture = module(blank, "mel.js", body, samples.tolist())
    assert picture["frames"] == 25
    values = np.asarray(picture["values"]).reshape(picture["bands"], 25)
    # The loudest frame may be one that was left out, and the floor lies 2 below the loudest.
    expected = log_mel(samples)[:, ::4]
    floor = max(values.max(), expected.max()) - 2
    np.testing.assert_allclose(np.maximum(values, floor), np.maximum(expected, floor), atol=2e-3)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_resampler_keeps_speech_and_drops_what_would_fold_back(blank: Any, rate_hz: int) -> None:
    body = """const r = new m.Resampler(a.rate), out = [];
        for (let at = 0; at < a.rate / 2; at += 128) // 128 samples: what an AudioWorklet gets at a time
            out.push(...r.push(Float32Array.from({ length: 128 }, (_, n) =>
                Math.sin(2 * Math.PI * a.hz * (at + n) / a.rate))));
        out.push(...r.flush()); return out;"""
    tone = module(blank, "resample.js", body, {"rate": rate_hz, "hz": 1000})
    assert abs(len(tone) - 8_000) <= 256  # the last 128 samples
    inside = np.arange(1000, 7_000)
    np.testing.assert_allclose(np.asarray(tone)[inside], np.sin(2 * np.pi * 1000 * inside / 16_000), atol=1e-3)
    if rate_hz > 24_000:
        high = module(blank, "resample.js", body, {"rate": rate_hz, "hz": 10_000})
        assert np.abs(np.asarray(high)[inside]).max() < 1e-3  # −60 dB


def test_downloads_hold_the_transcript(blank: Any) -> None:
    words = (Word("Ärger", 0.25, 0.5, 0.9), Word("<now>", 0.5, 0.75, None))
    transcription = Transcription(
        "Ärger <now> &\tso 你好",
        "de",
        3661.25,
        (
            Segment("Ärger <now> &\tso", 0.25, 59.9996, "de", 0.75, words, ("truncated",)),
            Segment("", 60.0, 61.0),
            Segment("你好 --> x", 3600.5, 3600.5, "zh", None),
        ),
        "nano",
        0.5,
    )
    body = """const T = d => ({ text: d.text, startS: d.start_s, endS: d.end_s, confidence: d.confidence });
        const transcript = { text: a.text, language: a.language, durationS: a.duration_s, model: a.model,
            processingS: a.processing_s, segments: a.segments.map(s => ({ ...T(s), language: s.language,
            flags: s.flags, words: s.words.map(T) })) };
        return Object.fromEntries(Object.entries(m.FORMATS).map(([name, f]) => [name, f.write(transcript)]));"""
    written = module(blank, "writers.js", body, transcription.to_dict())
    assert json.loads(written.pop("json")) == json.loads(render(transcription, "json"))  # 60 and 60.0 are one number
    assert written.pop("txt") == render(transcription, "txt")
    # Subtitles: a cue per segment; the first comes close to a minute, the last has no length, one has no text.
    first, second = "00:00:00,250 --> 00:01:00,000", "01:00:00,500 --> 01:00:00,501"
    assert written.pop("srt") == f"1\n{first}\nÄrger <now> & so\n\n2\n{second}\n你好 -> x\n\n"
    first, second = first.replace(",", "."), second.replace(",", ".")
    assert written.pop("vtt") == f"WEBVTT\n\n{first}\nÄrger &lt;now&gt; &amp; so\n\n{second}\n你好 --&gt; x\n\n"
    assert not written


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("the cat sat on the mat", "the dog sat the mat now"),
        ("ask not what your country", "ask not what your country"),
        ("one two three", "four"),
        ("今 天 天 气 好", "今 天 气 很 好"),
    ],
)
def test_word_differences_match_jiwer(blank: Any, reference: str, text: str) -> None:
    found = module(blank, "diff.js", "return m.compareTexts(a[0], a[1])", [reference, text])
    expected = jiwer.process_words(reference, text)
    assert found["errors"] == expected.substitutions + expected.insertions + expected.deletions
    assert found["total"] == len(reference.split())
    assert "".join(word["text"] for word in found["words"]) == text
    assert sum(word["same"] for word in found["words"]) == expected.hits


def test_every_text_is_there_in_both_languages(blank: Any) -> None:
    strings = module(blank, "strings.js", "return m.STRINGS")
    holes = {key: [part for part in text.split("{")[1:]] for key, (text, _) in strings.items()}
    for key, (english, chinese) in strings.items():
        assert english.strip() and chinese.strip(), key
        names = {part.split("}")[0] for part in holes[key]}
        assert names == {part.split("}")[0] for part in chinese.split("{")[1:]}, key
    used = blank.evaluate(
        """() => [...document.querySelectorAll("[data-i18n]")].map(e => e.dataset.i18n).concat(
        [...document.querySelectorAll("[data-i18n-attr]")].flatMap(
            e => e.dataset.i18nAttr.split(";").map(pair => pair.split(":")[1])))"""
    )
    assert set(used) <= set(strings)
