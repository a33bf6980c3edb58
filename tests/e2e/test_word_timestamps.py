"""`--word-timestamps` and `--itn` from the command line, with the embedded model and a tiny aligner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linnet import cli
from linnet.export.qwen3_aligner import convert_aligner
from linnet.results import Segment, Transcription, Word
from linnet.verbs.transcribe import _finish
from tiny_aligner import write_aligner_checkpoint

SAMPLE = Path(__file__).parents[2] / "samples/en-jfk.flac"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["transcribe", str(SAMPLE), "--threads", "1", *arguments])
    return int(str(ended.value.code))


@pytest.fixture(scope="module")
def aligner(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligner")
    checkpoint = write_aligner_checkpoint(golden, folder / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"support_languages": ["Chinese", "English"]}))
    return convert_aligner(checkpoint, folder / "tiny", encoder="fp32", decoders={"onnx": "fp32"}).path


def test_words_have_times_that_rise_inside_their_segment(aligner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--word-timestamps", "--aligner", str(aligner), "--json", "--language", "en") == 0
    out, err = capsys.readouterr()
    segments = json.loads(out)["segments"]
    assert segments and err == ""
    for segment in segments:
        times = [time for word in segment["words"] for time in (word["start_s"], word["end_s"])]
        assert times == sorted(times)
        assert times[0] >= segment["start_s"] - 0.25 and times[-1] <= segment["end_s"] + 0.25
        assert " ".join(word["text"] for word in segment["words"]) == segment["text"]
        assert all(0 < word["confidence"] <= 1 for word in segment["words"])


def test_without_an_aligner_segments_have_times_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    assert run("--word-timestamps", "--json") == 0
    out, err = capsys.readouterr()
    assert "linnet pull Qwen/Qwen3-ForcedAligner-0.6B" in err
    assert all(word["start_s"] is None for segment in json.loads(out)["segments"] for word in segment["words"])


def test_an_aligner_that_was_named_has_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--word-timestamps", "--aligner", str(tmp_path / "missing")) == 1
    assert "missing" in capsys.readouterr().err


def test_itn_writes_digits_after_the_alignment() -> None:
    pytest.importorskip("wetext", reason="the [itn] extra is not installed")
    words = (Word("twenty", 0.0, 0.4), Word("five", 0.4, 0.9))
    spoken = Transcription("twenty five", "en", 1.0, (Segment("twenty five", 0.0, 1.0, "en", words=words),), "nano")
    finish = _finish(word_timestamps=False, aligner=None, itn=True, threads=1)
    assert finish is not None
    written = finish(str(SAMPLE), spoken)
    assert (written.text, written.segments[0].words) == ("25", words)
    assert _finish(word_timestamps=False, aligner=None, itn=False, threads=1) is None
