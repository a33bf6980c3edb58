"""Generated sentences and the speech made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from linnet.data.corpora import sentences as sentences_module
from linnet.data.corpora import synthetic
from linnet.data.corpora.sentences import common_mandarin_words, mandarin_words, phrases, sentences, vocabulary
from linnet.errors import ConfigError
from linnet.manifest import read_manifest

DIGITS = set(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
TEXTS = ["WE CALL IT BEAR", "THE DOG WALKED TO THE HOUSE", "IT WAS A GREAT DAY THIS", 'the "whites", in forty-four']
speaks = pytest.mark.skipif(
    not (shutil.which("espeak-ng") and shutil.which("flite")), reason="needs espeak-ng and flite"
)


def test_sentences_are_lower_case_words_of_the_promised_length() -> None:
    for sentence in sentences(2000, seed=3, texts=TEXTS):
        words = sentence.split()
        assert sentence == " ".join(words)
        assert sentence == sentence.lower()
        assert all(word.replace("'", "").isalpha() for word in words), sentence
        low, high = (1, 5) if set(words) <= DIGITS else (2, 12)
        assert low <= len(words) <= high, sentence


def test_same_seed_gives_same_sentences_and_more_extends_fewer() -> None:
    assert sentences(300, seed=5, texts=TEXTS)[:100] == sentences(100, seed=5, texts=TEXTS)
    assert sentences(50, seed=5) != sentences(50, seed=6)


def test_sentences_cover_many_words() -> None:
    spoken = {word for sentence in sentences(5000, seed=1) for word in sentence.split()}
    assert len(spoken) > 2000
    assert spoken <= vocabulary() | {word for word in spoken if "'" in word} | {"an"}


def test_every_symbol_of_the_grammar_is_defined() -> None:
    known = set(sentences_module._grammar()) | set(sentences_module._word_forms())
    for symbol, alternatives in sentences_module._grammar().items():
        for tokens in alternatives.items:
            used = {token.partition("'")[0] for token in tokens if not token.islower()}
            assert used <= known, f"{symbol}: {used - known}"


@pytest.mark.parametrize(
    ("entry", "forms"),
    [
        ("carry", ("carry", "carries", "carried", "carried", "carrying")),
        ("play", ("play", "plays", "played", "played", "playing")),
        ("stop+", ("stop", "stops", "stopped", "stopped", "stopping")),
        ("agree", ("agree", "agrees", "agreed", "agreed", "agreeing")),
        ("tie", ("tie", "ties", "tied", "tied", "tying")),
        ("catch/caught/caught", ("catch", "catches", "caught", "caught", "catching")),
        ("go/went/gone", ("go", "goes", "went", "gone", "going")),
        ("begin+/began/begun", ("begin", "begins", "began", "begun", "beginning")),
    ],
)
def test_verbs_are_inflected(entry: str, forms: tuple[str, ...]) -> None:
    assert sentences_module._verb_forms(entry) == forms


def test_phrases_split_at_stops_and_drop_punctuation() -> None:
    assert phrases('The "whites", in forty-four; Jenson\'s') == [
        ["the"],
        ["whites"],
        ["in", "forty", "four"],
        ["jenson's"],
    ]


def test_transcripts_bring_in_their_words() -> None:
    spoken = {word for sentence in sentences(400, seed=2, texts=["the zyzzyva sat there"]) for word in sentence.split()}
    assert "zyzzyva" in spoken
    assert "zyzzyva" not in vocabulary()


def test_mandarin_words_are_kept_once_and_in_order() -> None:
    assert mandarin_words(["选择", " 活动 ", "选择", ""]) == ["选择", "活动"]
    common = common_mandarin_words()
    assert len(common) > 1000 and all("\u4e00" <= character <= "\u9fff" for word in common for character in word)


def test_negative_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="-1"):
        sentences(-1, seed=0)


def test_missing_program_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install espeak-ng flite"):
        synthetic.synthesize(tmp_path / "out", count=1, seed=0)


def test_no_workers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/true")
    with pytest.raises(ConfigError, match="workers=0"):
        synthetic.synthesize(tmp_path / "out", count=1, seed=0, workers=0)


@speaks
def test_clips_are_16_khz_and_listed(tmp_path: Path) -> None:
    manifest = synthetic.synthesize(tmp_path, count=12, seed=4, texts=TEXTS, mandarin=["选择"], mandarin_voices=2)
    utterances = read_manifest(manifest)
    assert [u.text for u in utterances] == [*sentences(12, seed=4, texts=TEXTS), "选择", "选择"]
    assert {u.corpus for u in utterances} == {"synthetic_espeak", "synthetic_flite"}
    assert [u.language for u in utterances] == ["en"] * 12 + ["zh"] * 2
    for utterance in utterances:
        samples, rate_hz = soundfile.read(utterance.audio_path, dtype="float32")
        assert rate_hz == 16000
        assert samples.ndim == 1
        assert utterance.duration_s == pytest.approx(len(samples) / 16000, abs=1e-3)  # rounded to milliseconds
        assert 0.1 < utterance.duration_s < 12
        loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
        # 0.15 s, and what 16-bit rounding at the threshold may add
        assert loud[0] <= 0.16 * 16000
        assert len(samples) - loud[-1] <= 0.16 * 16000
        assert 0.05 < np.abs(samples).max() < 1.0


@speaks
def test_rerun_is_identical_and_makes_only_what_is_missing(tmp_path: Path) -> None:
    first = synthetic.synthesize(tmp_path / "a", count=6, seed=4)
    second = synthetic.synthesize(tmp_path / "b", count=6, seed=4, workers=1)
    assert first.read_bytes() == second.read_bytes()
    clips = sorted((tmp_path / "a").rglob("*.flac"))
    for clip in clips:
        assert clip.read_bytes() == (tmp_path / "b" / clip.relative_to(tmp_path / "a")).read_bytes()
    clips[0].unlink()
    kept = clips[1].stat().st_mtime_ns
    synthetic.synthesize(tmp_path / "a", count=6, seed=4)
    assert clips[0].exists()
    assert clips[1].stat().st_mtime_ns == kept


@speaks
def test_text_that_gives_no_speech_is_reported() -> None:
    plan = synthetic.Plan(
        text="",
        language="en",
        program="espeak",
        voice="en-us",
        pitch=50,
        speed=150.0,
        warp=1.0,
        peak=0.5,
        silence_s=(0.0, 0.0),
    )
    with pytest.raises(ConfigError, match="espeak could not say ''"):
        synthetic.render(plan)


@speaks
def test_voice_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "FLITE_VOICES", {"nobody": 100})
    with pytest.raises(ConfigError, match="nobody"):
        synthetic.synthesize(tmp_path, count=1, seed=0)
