"""The `linnet` command as a whole: exit codes, streams, and how the verbs hang together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import linnet
from fake_recognizer import FakeRecognizer, make_bundle
from linnet import cli
from linnet.bundle import Bundle
from linnet.errors import ConfigError, MissingExtraError
from linnet.runtime import loader
from linnet.verbs import doctor, export
from linnet.verbs import run_folder as run_folders

NANO = Path(linnet.__file__).parent / "assets/nano/bundle.json"


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRecognizer:
    """What every model name opens."""
    fake = FakeRecognizer(tmp_path / "fake", {"en-jfk": "and so", "jfk": "and so", "en-digit-five": "five"})
    monkeypatch.setattr(loader, "load_model", lambda *name, **options: fake)
    return fake


@pytest.mark.parametrize(
    ("arguments", "code", "stream", "says"),
    [
        ([], 0, "out", "usage: linnet VERB"),
        (["--help"], 0, "out", "usage: linnet VERB"),
        (["--version"], 0, "out", f"linnet {linnet.__version__}\n"),
        (["sing"], 2, "err", "no verb 'sing'"),
        (["transcribe"], 2, "err", "name files"),
        (["transcribe", "a.wav", "--volume", "11"], 2, "err", "--volume"),
        (["transcribe", "a.wav", "--format", "docx"], 2, "err", "docx"),
        (["transcribe", "missing.wav"], 1, "err", "missing.wav"),
        (["evaluate", "nano"], 2, "err", "MANIFEST"),
        (["evaluate", "no-such-model", "no.jsonl"], 1, "err", "no-such-model"),
        (["train"], 2, "err", "usage: linnet train"),
        (["train", "--help"], 0, "out", "nano"),
        (["train", "gigantic"], 1, "err", "gigantic"),
        (["prepare", "no-such-folder", "out"], 1, "err", "no-such-folder"),
        (["export", "no-such-folder", "out"], 1, "err", "no-such-folder"),
        (["info", "no-such-thing"], 1, "err", "no-such-thing"),
    ],
)
def test_exit_codes_and_streams(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, stream: str, says: str
) -> None:
    assert run(*arguments) == code
    out, err = capsys.readouterr()
    assert says in (out if stream == "out" else err)
    assert (err if stream == "out" else out) == ""


def test_transcribe_prints_the_text(fake: FakeRecognizer, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", clip, "--language", "en", "--context", "names") == 0
    assert capsys.readouterr().err == ""
    assert fake.options == [("en", "names")] and len(fake.heard[0]) > 8000


def test_interruption_is_130(
    fake: FakeRecognizer, monkeypatch: pytest.MonkeyPatch, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "transcribe", interrupted)
    assert run("transcribe", clip) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert fake.closed


def test_evaluate_prints_a_table_and_writes_both_files(
    fake: FakeRecognizer, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    lines = [
        {"audio_filepath": str(clip.resolve()), "duration": 2.0, "text": "and so on", "corpus": "one"},
        {"audio_filepath": "gone.wav", "duration": 2.0, "text": "x", "corpus": "one"},
    ]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    targets: list[str | Path] = ["--json", tmp_path / "r.json", "--predictions", tmp_path / "p.jsonl"]
    assert run("evaluate", "any", manifest, *targets, "--noise", "pink", "--snr-db", "-5", "10") == 1
    out, err = capsys.readouterr()
    assert out.startswith("corpus") and "pink -5 dB" in out
    assert "gone.wav" in err and fake.closed
    assert len(json.loads((tmp_path / "r.json").read_text())["rows"]) == 6
    predictions = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(predictions) == 6 and predictions[0]["reference"] == "and so on"


def test_evaluate_refuses_a_target_in_no_folder_before_the_work(
    fake: FakeRecognizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", "any", tmp_path / "m.jsonl", "--json", tmp_path / "no/r.json") == 1
    assert "r.json" in capsys.readouterr().err and not fake.heard


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoints/last").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_evaluating_a_run_folder_exports_its_checkpoint_at_full_precision(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def export_run(run: Path, out: Path, **options: Any) -> Bundle:
        asked.append((run, options))
        return make_bundle(out)

    monkeypatch.setattr(run_folders, "export_run_folder", export_run)
    with run_folders.as_bundle(str(run_folder)) as bundle:
        assert (Path(bundle) / "bundle.json").is_file()
    assert not Path(bundle).exists()
    full = {"encoder": "fp32", "decoders": {"onnx": "fp32"}, "name": None, "checkpoint": "last"}
    assert asked == [(run_folder, full)]
    with run_folders.as_bundle("nano") as bundle:
        assert bundle == "nano"


def test_export_of_a_run_folder_names_each_decoder_kind(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def export_run(run: Path, out: Path, **options: Any) -> Bundle:
        asked.append(options)
        return make_bundle(out)

    monkeypatch.setattr(export, "export_run_folder", export_run)
    assert run("export", run_folder, tmp_path / "out", "--decoder", "int4", "q8_0", "--checkpoint", "last") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert asked[0]["decoders"] == {"onnx": "int4", "gguf": "q8_0"} and asked[0]["checkpoint"] == "last"


@pytest.mark.parametrize(
    ("decoders", "says"), [(["int8", "int4"], "both onnx"), (["q2"], "q2"), (["q8_0", "f16"], "both gguf")]
)
def test_decoders_that_do_not_fit_together_are_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], decoders: list[str], says: str
) -> None:
    assert run("export", run_folder, tmp_path / "out", "--decoder", *decoders) == 1
    assert says in capsys.readouterr().err


def test_exporting_a_bundle_says_that_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bundle(tmp_path / "b")
    assert run("export", tmp_path / "b", tmp_path / "out") == 1
    assert "bundle already" in capsys.readouterr().err


def test_what_needs_torch_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"linnet\[train\]"), run_folders.needs_torch("Training"):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    with pytest.raises(ModuleNotFoundError, match="typo"), run_folders.needs_torch("Training"):
        raise ModuleNotFoundError("No module named 'linnet.typo'", name="linnet.typo")


def linnet_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "linnet.cli", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["info", "--help"]])
def test_a_reader_that_leaves_early_causes_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = linnet_process(*arguments, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_is_utf8_whatever_the_locale() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = linnet_process("--help", stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "audio → text" in done.stdout.decode("utf-8")


@pytest.mark.skipif(not NANO.exists(), reason="the embedded model is not in this checkout")
def test_nano_transcribes_a_recording(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", clip, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "nano" and found["text"] and found["rtf"] > 0 and found["segments"]


@pytest.mark.skipif(not NANO.exists(), reason="the embedded model is not in this checkout")
def test_doctor_finds_this_machine_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert "Everything works." in capsys.readouterr().out


def test_config_errors_are_linnet_errors_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> int:
        raise ConfigError("cannot work")

    monkeypatch.setattr(doctor, "doctor", broken)
    assert run("doctor") == 1
    assert capsys.readouterr().err == "linnet doctor: cannot work\n"
