"""`linnet doctor`: healthy, missing extras, and broken installations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fake_recognizer import FakeRecognizer
from linnet import doctor, environment
from linnet.audio import write_audio
from linnet.environment import memory_gib, processor, provenance
from linnet.errors import BundleNotFoundError, ConfigError


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRecognizer:
    """A machine on which everything works, with a fake model in the place of nano."""
    fake = FakeRecognizer(tmp_path / "nano", {"sample": "hello"})
    write_audio(tmp_path / "sample.wav", np.full(48_000, 0.1, np.float32), 16_000)
    monkeypatch.setattr(doctor, "SAMPLE", tmp_path / "sample.wav")
    monkeypatch.setattr(doctor, "resolve", lambda name: fake.bundle.path)
    monkeypatch.setattr(doctor, "load_model", lambda name: fake)
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    for name in ("onnxruntime", "llama_cpp"):
        module = ModuleType(name)
        module.__version__ = "1.0"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def check(name: str) -> doctor.Check:
    (found,) = (check for check in doctor.examine().checks if check.name == name)
    return found


def test_a_working_machine_is_healthy_and_has_transcribed(healthy: FakeRecognizer) -> None:
    found = doctor.examine()
    assert found.healthy and all(check.ok for check in found.checks)
    assert "3.0 s of speech" in found.text() and "hello" in found.text()
    assert healthy.closed


def test_json_has_the_same_findings(healthy: FakeRecognizer) -> None:
    found = json.loads(doctor.examine().to_json())
    assert found["healthy"] is True and found["versions"]["numpy"] == "1.0" and found["processor"]["cores"] >= 1


@pytest.mark.parametrize(("extra", "package"), [("gguf", "gguf"), ("media", "av"), ("train", "torch")])
def test_a_missing_extra_is_named_with_its_command_and_does_no_harm(
    healthy: FakeRecognizer, monkeypatch: pytest.MonkeyPatch, extra: str, package: str
) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None if name == package else "1.0")
    missing = check(f"extra {extra}")
    assert not missing.ok and missing.fix == f"pip install 'linnet[{extra}]'" and package in missing.detail
    assert doctor.examine().healthy


def test_a_missing_requirement_is_unhealthy(healthy: FakeRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "soxr" else "1.0")
    assert "soxr" in check("packages").detail and not doctor.examine().healthy


@pytest.mark.parametrize(("module", "still_healthy"), [("llama_cpp", True), ("onnxruntime", False)])
def test_only_the_onnx_decoder_is_required(
    healthy: FakeRecognizer, monkeypatch: pytest.MonkeyPatch, module: str, still_healthy: bool
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert doctor.examine().healthy is still_healthy


def test_a_missing_model_is_unhealthy_and_says_what_to_do(
    healthy: FakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Path:
        raise BundleNotFoundError("No model 'nano'.")

    monkeypatch.setattr(doctor, "resolve", missing)
    found = check("model nano")
    assert not found.ok and "pip install" in found.fix and "FAILED  model nano" in doctor.examine().text()


def test_an_altered_model_is_unhealthy(healthy: FakeRecognizer) -> None:
    (healthy.bundle.path / "weights").write_bytes(b"evil")
    assert "altered" in check("model nano").detail


@pytest.mark.parametrize("answer", ["", RuntimeError("illegal instruction")])
def test_a_transcription_that_fails_or_is_empty_is_unhealthy(healthy: FakeRecognizer, answer: str | Exception) -> None:
    healthy.answers = {"sample": answer}
    found = check("transcription")
    assert not found.ok and ("no text" in found.detail or "illegal instruction" in found.detail)


def test_a_missing_sample_is_unhealthy(healthy: FakeRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SAMPLE", Path("gone.flac"))
    assert "gone.flac" in check("transcription").detail


def test_a_processor_is_read_from_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Zen 5\nflags\t\t: fpu avx2 avx512_vnni sse\n\nprocessor\t: 1\n")
    monkeypatch.setattr(environment, "_CPUINFO", cpuinfo)
    assert (processor().model, processor().flags) == ("Zen 5", ("avx2", "avx512_vnni"))
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert processor().flags == ("asimd", "asimddp")
    cpuinfo.unlink()
    assert processor().flags is None


def test_container_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    assert (processor().cores, memory_gib()) == (1, 0.2)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert processor().cores >= 1 and (memory_gib() or 1.0) > 0.2


def test_provenance_is_plain_json() -> None:
    found = provenance()
    assert json.loads(json.dumps(found)) == found and found["versions"]["numpy"] == np.__version__


def test_devices_are_tested_and_never_make_the_machine_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def disagrees(bundle: object, device: str) -> None:
        if device == "cuda":
            raise ConfigError("Device 'cuda' is disabled: the worst frame")

    monkeypatch.setattr(doctor, "available", lambda: ("cpu", "cuda", "coreml"))
    monkeypatch.setattr(doctor, "check_device", disagrees)
    cuda, coreml = doctor._devices()
    assert (cuda.name, cuda.ok, cuda.required) == ("device cuda", False, False) and "disabled" in cuda.detail
    assert (coreml.name, coreml.ok) == ("device coreml", True)
