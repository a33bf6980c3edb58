"""`linnet info` on each kind of thing, and on nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fake_recognizer import make_bundle
from linnet.audio import write_audio
from linnet.errors import AudioDecodeError, BundleNotFoundError, CheckpointError, ManifestError
from linnet.info import describe, inspect, kind_of
from linnet.manifest import Utterance, write_manifest


def make_run(folder: Path) -> Path:
    (folder / "checkpoints/last").mkdir(parents=True)
    (folder / "checkpoints/last/model.safetensors").touch()
    (folder / "config.json").write_text('{"family": "qwen3_asr", "steps": 100}')
    (folder / "metrics.jsonl").write_text('{"step": 20, "loss": 3.5}\n{"step": 40, "loss": 2.5}\n{"step": 6')
    return folder


def test_a_recording(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(12_000, np.float32), 8_000)
    found = inspect(str(tmp_path / "a.wav"))
    assert (found["kind"], found["format"], found["duration_s"], found["sample_rate_hz"]) == ("audio", "wav", 1.5, 8000)


def test_a_manifest_is_summed_up_per_corpus(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(800, np.float32), 8_000)
    lines = [
        Utterance(audio_path=tmp_path / "a.wav", duration_s=2.0, text="x", speaker="s", language="en", corpus="one"),
        Utterance(audio_path=tmp_path / "b.wav", duration_s=3.5, language="zh", corpus="two"),
    ]
    write_manifest(tmp_path / "m.jsonl", lines)
    found = inspect(str(tmp_path / "m.jsonl"))
    assert (found["utterances"], found["with_text"], found["audio_s"], found["missing_files"]) == (2, 1, 5.5, 1)
    assert found["languages"] == {"en": 1, "zh": 1}
    assert (found["corpora"]["two"]["audio_s"], found["corpora"]["two"]["speakers"]) == (3.5, 0)


def test_a_bundle(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b")
    found = inspect(str(tmp_path / "b"))
    assert (found["kind"], found["name"], found["files"]) == ("bundle", "fake", {"weights": 4})


def test_a_run_that_is_still_being_written(tmp_path: Path) -> None:
    found = inspect(str(make_run(tmp_path / "run")))
    assert (found["kind"], found["steps"], found["checkpoints"]) == ("run", "40 of 100", ["last"])
    assert found["last_log"] == {"step": 40, "loss": 2.5}


def test_a_checkpoint_says_what_to_do_with_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ASRForConditionalGeneration"]}')
    (tmp_path / "model.safetensors").write_bytes(b"0" * 20_000)
    found = inspect(str(tmp_path))
    assert (found["kind"], found["size_mb"]) == ("checkpoint", 0.02)
    assert "linnet export" in found["next"]


def test_text_has_a_line_per_fact_and_json_is_json(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b")
    lines = describe(str(tmp_path / "b")).splitlines()
    assert "languages       en, zh" in lines and "precision       encoder: int8" in lines
    assert json.loads(describe(str(tmp_path / "b"), as_json=True))["provenance"] == {"licence": "CC0"}


def test_kinds_are_told_apart_by_file_names(tmp_path: Path) -> None:
    assert kind_of(make_run(tmp_path / "run")) == "run"
    assert kind_of(tmp_path) == kind_of(tmp_path / "nothing") == "unknown"


def test_each_kind_of_nothing_has_its_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("text")
    (tmp_path / "m.jsonl").write_text("[]")
    (make_run(tmp_path / "run") / "config.json").write_text("{")
    for name, error in [
        ("a.wav", AudioDecodeError),
        ("m.jsonl", ManifestError),
        ("run", CheckpointError),
        ("nothing", BundleNotFoundError),
    ]:
        with pytest.raises(error, match=name):
            inspect(str(tmp_path / name))
