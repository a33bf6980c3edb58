"""Devices: used if they agree with the CPU in the self-test, refused with the reason if not. Only the CPU is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fakes import FakeDecoder

from linnet.bundle import Bundle
from linnet.errors import BundleCorruptError, ConfigError
from linnet.runtime import providers
from linnet.runtime.encoder import Encoder
from linnet.runtime.loader import check_device, load_model, open_decoder
from linnet.runtime.providers import PROVIDERS, check_encoder, check_gpu_layers, open_session

FloatArray = npt.NDArray[np.float32]


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that is the CPU by another name."""
    monkeypatch.setitem(PROVIDERS, "twin", "CPUExecutionProvider")
    return "twin"


def test_a_device_that_agrees_is_used(tiny_bundle: Bundle, twin: str) -> None:
    check_device(tiny_bundle, twin, threads=1)
    recognizer = load_model(tiny_bundle.path, threads=1, device=twin)  # type: ignore[arg-type]
    assert recognizer.transcribe(np.zeros(16_000, np.float32)).text == ""
    recognizer.close()


def test_a_device_that_computes_something_else_is_not(
    tiny_bundle: Bundle, twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Encoder.__call__
    calls = []

    def second_is_wrong(self: Encoder, mel: FloatArray) -> FloatArray:
        calls.append(mel)
        frames = real(self, mel)
        if len(calls) == 2:
            frames[5] = frames[6]  # a single frame
        return frames

    monkeypatch.setattr(Encoder, "__call__", second_is_wrong)
    with pytest.raises(ConfigError, match=r"'twin' is disabled: in the self-test the worst frame .*--device cpu"):
        load_model(tiny_bundle.path, threads=1, device=twin)  # type: ignore[arg-type]
    assert len(calls) == 2


@pytest.mark.parametrize(("change", "message"), [
    (lambda frames: frames * np.nan, "not finite"),
    (lambda frames: frames[:-1], r"gave shape \(9, 4\), the CPU \(10, 4\)"),
    (lambda frames: -frames, r"cosine -1\.0"),
])  # fmt: skip
def test_what_a_device_may_get_wrong(change: object, message: str) -> None:
    frames = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)

    def hear(device: str, samples: FloatArray) -> FloatArray:
        assert 2.5 * 16_000 < len(samples) < 3.5 * 16_000
        return frames if device == "cpu" else change(frames)  # type: ignore[operator]

    with pytest.raises(ConfigError, match=message):
        check_encoder(hear, "cuda")
    check_encoder(lambda device, samples: frames * (1 + 1e-4 * (device != "cpu")), "cuda")


@pytest.mark.parametrize("device", ["cuda", "directml", "coreml"])
def test_a_device_that_is_not_there_says_what_to_install(tiny_bundle: Bundle, device: str) -> None:
    if device in providers.available():
        pytest.skip(f"this ONNX Runtime has {device}")
    with pytest.raises(ConfigError, match=rf"'{device}' is disabled: this ONNX Runtime has no .* pip install onnx"):
        load_model(tiny_bundle.path, device=device)  # type: ignore[arg-type]


def test_a_device_that_does_not_start_is_not_replaced_silently(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cuda" in providers.available():
        pytest.skip("here it might start")
    monkeypatch.setattr(providers, "available", lambda: ("cpu", "cuda"))  # as a build whose driver is missing says
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(ConfigError, match="did not start"):
        open_session(tiny_bundle.file("encoder.onnx"), device="cuda")


def test_unknown_devices_and_broken_graphs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown device 'tpu'; accepted: cpu, cuda"):
        open_session(tiny_bundle.file("encoder.onnx"), device="tpu")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleCorruptError, match="cannot load"):
        open_session(tmp_path / "broken.onnx")


def test_gpu_layers_have_to_agree_with_the_cpu() -> None:
    reference = FakeDecoder(lambda prompt: [0, 5], vocab_size=8)
    check_gpu_layers(reference, FakeDecoder(lambda prompt: [0, 5], vocab_size=8), -1)
    with pytest.raises(ConfigError, match=r"-1 layers on the GPU are disabled: in the self-test its logits are"):
        check_gpu_layers(reference, FakeDecoder(lambda prompt: [0, 6], vocab_size=8), -1)
    assert reference.live == {}  # its slots were given back


def test_gpu_layers_need_a_gguf_decoder_and_a_gpu_build(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="GPU layers need --decoder gguf"):
        open_decoder(tiny_bundle, "onnx", gpu_layers=-1)
    api = pytest.importorskip("llama_cpp")
    if api.llama_supports_gpu_offload():
        pytest.skip("this llama.cpp has a GPU")
    with pytest.raises(ConfigError, match=r"built without a GPU.*CMAKE_ARGS"):
        load_model("nano", decoder="gguf", gpu_layers=-1)
