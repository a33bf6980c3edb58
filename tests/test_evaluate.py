"""Evaluation: counts against hand-counted ones, noise at its level, and what may not be counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_recognizer import FakeRecognizer
from linnet.audio import read_audio, write_audio
from linnet.errors import AudioDecodeError, BundleError, ConfigError, LanguageError, ManifestError
from linnet.evaluate import evaluate
from linnet.manifest import Utterance, write_manifest
from linnet.report import Report, Row

RATE_HZ = 16_000
SECONDS = 1.0


def tone(frequency_hz: float, amplitude: float = 0.1) -> np.ndarray:
    time_s = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def utterance(folder: Path, name: str, text: str | None, **fields: Any) -> Utterance:
    """A recording of one second with a frequency of its own (500, 700, 900 … Hz for a, b, c …)."""
    path = folder / f"{name}.wav"
    write_audio(path, tone(500 + 200 * (ord(name[0]) - ord("a"))), RATE_HZ)
    defaults: dict[str, Any] = {"corpus": "one", "language": "en", "speaker": name}
    return Utterance(audio_path=path, duration_s=SECONDS, text=text, **(defaults | fields))


@pytest.fixture
def four(tmp_path: Path) -> list[Utterance]:
    return [utterance(tmp_path, name, "the cat sat down") for name in "abcd"]


def row(report: Report, corpus: str = "all", condition: str = "clean") -> Row:
    (found,) = (row for row in report.rows if (row.corpus, row.condition) == (corpus, condition))
    return found


def noises(fake: FakeRecognizer, clean: np.ndarray) -> list[np.ndarray]:
    """What was added to the recordings that were heard as samples after the file itself."""
    return [heard - clean for heard in fake.heard[1:]]


def rms_db(wave: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(wave.astype(np.float64) ** 2)))


def test_errors_are_those_counted_by_hand(tmp_path: Path) -> None:
    fake = FakeRecognizer(tmp_path / "m", {"a": "The cat, sat!", "b": "a dog ran off fast", "c": "it rains"})
    manifest = [
        utterance(tmp_path, "a", "the cat sat"),  # right but for punctuation
        utterance(tmp_path, "b", "the dog ran fast"),  # 1 substitution, 1 insertion
        utterance(tmp_path, "c", "today it rains", corpus="two"),  # 1 deletion
    ]
    report = evaluate(fake, manifest)
    one, two, both = row(report, "one"), row(report, "two"), row(report)
    assert (one.wer.errors, one.wer.total, one.wer.rate) == (2, 7, 2 / 7)
    assert (one.wer.substitutions, one.wer.deletions, one.wer.insertions) == (1, 0, 1)
    assert (two.wer.rate, two.cer.rate) == (1 / 3, 6 / 14)  # "today " of 14 characters
    assert (both.wer.rate, both.utterances, both.failures) == (3 / 10, 3, 0)
    assert [row.corpus for row in report.rows] == ["one", "two", "all"]


def test_intervals_hold_the_rate_and_vanish_for_one_utterance(tmp_path: Path) -> None:
    answers = {"a": "x", "b": "one two", "c": "one", "d": "one two"}
    report = evaluate(
        FakeRecognizer(tmp_path / "m", answers), [utterance(tmp_path, name, "one two") for name in "abcd"]
    )
    wer = row(report).wer
    assert wer.low < wer.rate == 3 / 8 < wer.high
    single = row(evaluate(FakeRecognizer(tmp_path / "n", answers), [utterance(tmp_path, "c", "one two")])).wer
    assert single.low == single.rate == single.high == 0.5


def test_chinese_is_counted_in_characters_whatever_the_spacing(tmp_path: Path) -> None:
    fake = FakeRecognizer(tmp_path / "m", {"a": "今天 天七很好。"})
    report = evaluate(fake, [utterance(tmp_path, "a", "今天天气很好", language="zh")])
    assert row(report).primary == "cer"
    assert row(report).cer.rate == row(report).wer.rate == 1 / 6
    assert "CER is the rate to read" in report.table()


def test_machine_made_and_absent_references_are_listed_but_not_counted(tmp_path: Path) -> None:
    fake = FakeRecognizer(tmp_path / "m", {"a": "right", "b": "wrong", "c": "unknown"})
    manifest = [
        utterance(tmp_path, "a", "right"),
        utterance(tmp_path, "b", "guess", extra={"ref_quality": "machine-made"}),
        utterance(tmp_path, "c", None),
    ]
    report = evaluate(fake, manifest)
    assert (row(report).wer.rate, row(report).utterances, row(report).scored) == (0.0, 3, 1)
    assert [one.left_out for one in report.utterances] == [None, "ref_quality", "no text"]
    assert [one.hypothesis for one in report.utterances] == ["right", "wrong", "unknown"]
    assert len(report.notes) == 2 and "machine-made" in report.notes[0]


def test_unreadable_audio_is_a_failure_outside_the_rates(tmp_path: Path) -> None:
    good, text_file, missing = (utterance(tmp_path, name, "yes") for name in "abc")
    text_file.audio_path.write_text("this is not audio")
    missing.audio_path.unlink()
    report = evaluate(FakeRecognizer(tmp_path / "m", {"a": "yes"}), [text_file, good, missing])
    assert (row(report).failures, row(report).scored, row(report).wer.rate) == (2, 1, 0.0)
    assert [one.id for one in report.failures] == ["b", "c"]
    assert row(report).audio_s == SECONDS


def test_a_failing_recogniser_is_scored_as_an_empty_answer(tmp_path: Path) -> None:
    answers: dict[str, str | Exception] = {
        "a": BundleError("decoder broke"),
        "b": "yes it is",
        "c": RuntimeError("kernel broke"),
    }
    report = evaluate(
        FakeRecognizer(tmp_path / "m", answers), [utterance(tmp_path, name, "yes it is") for name in "abc"]
    )
    assert (row(report).failures, row(report).scored) == (2, 3)
    assert (row(report).wer.deletions, row(report).wer.rate) == (6, 6 / 9)
    assert report.utterances[0].hypothesis is None and "decoder broke" in str(report.utterances[0].error)


@pytest.mark.parametrize("error", [LanguageError("no such language"), ConfigError("bad option")])
def test_errors_of_the_options_are_raised(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        evaluate(FakeRecognizer(tmp_path / "m", {"a": error}), [utterance(tmp_path, "a", "yes")])


def test_nothing_scored_gives_no_rate_instead_of_an_error(tmp_path: Path) -> None:
    lost = utterance(tmp_path, "a", "yes")
    lost.audio_path.unlink()
    report = evaluate(FakeRecognizer(tmp_path / "m", {}), [lost])
    assert math.isnan(row(report).wer.rate) and math.isnan(row(report).rtf)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"][0]["wer"]["rate"] is None
    assert "–" in report.table()


@pytest.mark.parametrize("noise", ["white", "pink", "brown", "hum", "babble"])
def test_noise_lies_at_the_requested_level(tmp_path: Path, four: list[Utterance], noise: str) -> None:
    fake = FakeRecognizer(tmp_path / "m", {})
    report = evaluate(fake, four, noise=noise, snr_db=[20, 5], limit=1)
    clean = read_audio(four[0].audio_path)
    speech_db = rms_db(clean)  # a steady tone is active all the time, so its active level is its RMS
    for level, added in zip([20, 5], noises(fake, clean), strict=True):
        assert speech_db - rms_db(added) == pytest.approx(level, abs=0.1)
    assert [row.condition for row in report.rows if row.corpus == "all"] == ["clean", f"{noise} 20 dB", f"{noise} 5 dB"]


def test_every_level_has_the_same_noise(tmp_path: Path, four: list[Utterance]) -> None:
    fake = FakeRecognizer(tmp_path / "m", {})
    evaluate(fake, four, noise="white", snr_db=[10, 30], limit=1)
    loud, soft = noises(fake, read_audio(four[0].audio_path))
    np.testing.assert_allclose(loud, soft * 10, atol=1e-5)  # 20 dB apart; float32 sums of magnitude 0.1


def test_noise_depends_on_seed_and_utterance_alone(tmp_path: Path, four: list[Utterance]) -> None:
    def heard(manifest: list[Utterance], name: str, seed: int = 0) -> np.ndarray:
        fake = FakeRecognizer(tmp_path / "m", {})
        evaluate(fake, manifest, noise="pink", snr_db=[0], seed=seed)
        return fake.heard[2 * [one.id for one in manifest].index(name) + 1]

    first = heard(four, "c")
    np.testing.assert_array_equal(first, heard(four[2:], "c"))
    np.testing.assert_array_equal(first, heard(four[::-1], "c"))
    assert np.abs(first - heard(four, "c", seed=7)).max() > 1e-3


def test_babble_is_the_others_and_never_the_utterance_itself(tmp_path: Path, four: list[Utterance]) -> None:
    fake = FakeRecognizer(tmp_path / "m", {})
    same = utterance(tmp_path, "a", "the cat sat down", id="a again")  # another line about the same recording
    evaluate(fake, [*four, same], noise="babble", snr_db=[0], limit=1)
    (added,) = noises(fake, read_audio(four[0].audio_path))
    power = np.abs(np.fft.rfft(added)) ** 2  # bins of 1 Hz
    heard = {hz: power[hz - 3 : hz + 4].sum() / power.sum() for hz in (500, 700, 900, 1100)}
    assert heard.pop(500) < 1e-4  # −40 dB: the recordings are 16-bit and looped at an arbitrary point
    assert all(share > 0.3 for share in heard.values())


def test_babble_prefers_other_speakers(tmp_path: Path) -> None:
    own = [utterance(tmp_path, name, "x", speaker="one") for name in "abcdefg"]
    other = [utterance(tmp_path, name, "x", speaker=f"speaker {name}") for name in "hijklm"]
    fake = FakeRecognizer(tmp_path / "m", {})
    evaluate(fake, [*own, *other], noise="babble", snr_db=[0], limit=1)
    (added,) = noises(fake, read_audio(own[0].audio_path))
    power = np.abs(np.fft.rfft(added)) ** 2
    assert power[480:1720].sum() / power.sum() < 1e-3  # 500 … 1700 Hz are the speaker's own recordings


def test_a_noise_manifest_supplies_the_noise(tmp_path: Path, four: list[Utterance]) -> None:
    write_audio(tmp_path / "buzz.wav", tone(3000), RATE_HZ)
    write_manifest(tmp_path / "noises.jsonl", [Utterance(audio_path=tmp_path / "buzz.wav", duration_s=1.0)])
    fake = FakeRecognizer(tmp_path / "m", {})
    report = evaluate(fake, four, noise=tmp_path / "noises.jsonl", snr_db=[10], limit=1)
    (added,) = noises(fake, read_audio(four[0].audio_path))
    assert int(np.argmax(np.abs(np.fft.rfft(added)))) == 3000
    assert report.rows[-1].condition == "noises 10 dB"


def test_silent_speech_fails_in_noise_and_is_fine_without(tmp_path: Path, four: list[Utterance]) -> None:
    write_audio(four[0].audio_path, np.zeros(RATE_HZ, np.float32), RATE_HZ)
    report = evaluate(FakeRecognizer(tmp_path / "m", {}), four[:1], noise="white", snr_db=[10])
    assert (row(report).failures, row(report, condition="white 10 dB").failures) == (0, 1)


def test_corpora_and_limit_choose_utterances(tmp_path: Path) -> None:
    manifest = [utterance(tmp_path, name, "x", corpus="one" if name < "c" else "two") for name in "abcde"]
    fake = FakeRecognizer(tmp_path / "m", {})
    assert [one.id for one in evaluate(fake, manifest, limit=1).utterances] == ["a", "c"]
    assert [one.id for one in evaluate(fake, manifest, corpora=["two"], limit=2).utterances] == ["c", "d"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"noise": "white"}, "needs a level"),
        ({"snr_db": [10]}, "need a noise"),
        ({"noise": "thunder", "snr_db": [10]}, "thunder"),
        ({"noise": "babble", "snr_db": [10]}, "at least 3 other"),
        ({"corpora": ["three"]}, "three"),
        ({"limit": 0}, "limit"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        evaluate(FakeRecognizer(tmp_path / "m", {}), [utterance(tmp_path, "a", "x")], **options)


def test_a_missing_manifest_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.jsonl"):
        evaluate(FakeRecognizer(tmp_path / "m", {}), tmp_path / "none.jsonl")


def test_progress_counts_to_the_end(tmp_path: Path, four: list[Utterance]) -> None:
    calls: list[tuple[float, float]] = []
    evaluate(
        FakeRecognizer(tmp_path / "m", {}), four, noise="hum", snr_db=[5], progress=lambda *call: calls.append(call)
    )
    assert calls == [(done, 8) for done in range(1, 9)]


def test_the_report_says_what_it_was_measured_with(tmp_path: Path, four: list[Utterance]) -> None:
    write_manifest(tmp_path / "m.jsonl", four)
    fake = FakeRecognizer(tmp_path / "m", {})
    report = evaluate(fake, tmp_path / "m.jsonl", seed=3, language="en").to_dict()
    assert report["seed"] == 3 and report["settings"]["language"] == "en"
    assert report["model"]["name"] == "fake" and len(report["model"]["sha256"]) == 64
    assert {"commit", "versions", "processor", "cores", "python"} <= report["provenance"].keys()
    assert fake.options[0][0] == "en"


def test_the_table_is_aligned(tmp_path: Path, four: list[Utterance]) -> None:
    lines = evaluate(FakeRecognizer(tmp_path / "m", {}), four).table().splitlines()
    assert len(lines) == 3  # header, corpus, all; no notes
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[:4] == ["one", "clean", "4", "0.1"]


def test_decode_errors_keep_their_message(tmp_path: Path) -> None:
    fake = FakeRecognizer(tmp_path / "m", {"a": AudioDecodeError("cut short")})
    assert evaluate(fake, [utterance(tmp_path, "a", "x")]).failures[0].error == "cut short"
