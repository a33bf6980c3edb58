"""The noise laboratory: a grid of conditions, and paired comparison with a baseline."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fake_recognizer import FakeRecognizer
from linnet.audio import read_audio, write_audio
from linnet.compare import compare
from linnet.errors import ConfigError
from linnet.evaluate import evaluate
from linnet.manifest import Utterance
from linnet.report import write_report

RATE_HZ = 16_000


@pytest.fixture
def manifest(tmp_path: Path, clip: Path) -> list[Utterance]:
    """Five utterances of real speech."""
    speech, found = read_audio(clip), []
    for index, name in enumerate("abcde"):
        path = tmp_path / f"{name}.wav"
        write_audio(path, speech[index * RATE_HZ // 4 :][:RATE_HZ], RATE_HZ)
        found.append(
            Utterance(audio_path=path, duration_s=1.0, text="one two three four", speaker=name, language="en", id=name)
        )
    return found


def fake(folder: Path, *wrong: str) -> FakeRecognizer:
    answers = {name: "one two three" if name in wrong else "one two three four" for name in "abcde"}
    return FakeRecognizer(folder, answers)


def test_the_grid_has_every_noise_at_every_level_and_every_damage(tmp_path: Path, manifest: list[Utterance]) -> None:
    recognizer = fake(tmp_path / "m")
    report = evaluate(recognizer, manifest, noise=["white", "babble"], snr_db=[10, 0], damage=["reverb", "gsm"])
    conditions = ["clean", "white 10 dB", "white 0 dB", "babble 10 dB", "babble 0 dB", "reverb 0.8 s", "gsm"]
    assert [row.condition for row in report.rows if row.corpus == "all"] == conditions
    assert len(recognizer.heard) == 5 * 7
    speech = read_audio(manifest[0].audio_path)
    assert not any(np.array_equal(heard, speech) for heard in recognizer.heard[1:7])
    assert report.settings["noise"] == ["white", "babble"] and report.settings["damage"] == ["reverb", "gsm"]


def test_one_noise_of_a_grid_is_the_noise_alone(tmp_path: Path, manifest: list[Utterance]) -> None:
    """What a model hears in a cell does not depend on which other cells there are."""
    grid, alone = fake(tmp_path / "m"), fake(tmp_path / "n")
    evaluate(grid, manifest[:1], noise=["white", "pink"], snr_db=[10, 0], damage=["opus"])
    evaluate(alone, manifest[:1], noise="pink", snr_db=[0])
    assert np.array_equal(grid.heard[4], alone.heard[1])


def test_a_front_end_cleans_every_condition(tmp_path: Path, manifest: list[Utterance]) -> None:
    plain, cleaned = fake(tmp_path / "m"), fake(tmp_path / "n")
    evaluate(plain, manifest[:1], noise="white", snr_db=[0])
    evaluate(cleaned, manifest[:1], noise="white", snr_db=[0], front_end="spectral_subtraction")
    for before, after in zip(plain.heard, cleaned.heard, strict=True):
        assert np.mean(after**2) < np.mean(before**2)
    with pytest.raises(ConfigError, match="no front end 'ears'"):
        evaluate(plain, manifest, front_end="ears")  # type: ignore[arg-type]


def test_differences_are_paired_and_signed(tmp_path: Path, manifest: list[Utterance]) -> None:
    better = evaluate(fake(tmp_path / "m", "a"), manifest)
    worse = evaluate(fake(tmp_path / "n", "a", "b", "c"), manifest)
    compared = compare(better, worse)
    (one,) = (found for found in compared.comparisons if found.corpus == "all")
    assert (one.rate, one.baseline_rate, one.utterances) == (1 / 20, 3 / 20, 5)
    assert one.difference == pytest.approx(-0.1) and one.low <= one.difference <= one.high <= 0
    assert one.share_better > 0.9
    (back,) = (found for found in compare(worse, better).comparisons if found.corpus == "all")
    assert back.difference == pytest.approx(0.1)
    (same,) = (found for found in compare(better, better).comparisons if found.corpus == "all")
    assert same.difference == same.low == same.high == 0 and same.share_better == 0.5
    shown = compared.table()
    assert "against fake, the same utterances:" in shown and "-10.00 [-20.00, +0.00]" in shown


def test_utterances_that_one_side_cannot_score_are_left_out(tmp_path: Path, manifest: list[Utterance]) -> None:
    (tmp_path / "e.wav").write_bytes(b"no audio")
    report = evaluate(fake(tmp_path / "m"), manifest)
    found = compare(report, report).comparisons[-1]
    assert found.utterances == 4
    unlabelled = [Utterance(audio_path=one.audio_path, duration_s=1.0, id=one.id) for one in manifest[:1]]
    silent = evaluate(fake(tmp_path / "n"), unlabelled)
    assert math.isnan(compare(silent, silent).comparisons[-1].difference)
    with pytest.raises(ConfigError, match="share no utterance"):
        compare(report, evaluate(fake(tmp_path / "o"), [Utterance(
            audio_path=manifest[0].audio_path, duration_s=1.0, text="one", id="other")]))  # fmt: skip


def test_the_report_file_holds_the_comparison(tmp_path: Path, manifest: list[Utterance]) -> None:
    report = evaluate(fake(tmp_path / "m", "a"), manifest)
    write_report(compare(report, report), tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["baseline"]["name"] == "fake" and stored["comparisons"][-1]["difference"] == 0
