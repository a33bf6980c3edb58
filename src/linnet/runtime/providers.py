"""Where a model runs: on the CPU, which is the reference, or on an accelerator that agrees with it in a self-test.

The encoder may run on any ONNX Runtime provider below, the GGUF decoder's layers on any GPU that llama.cpp was built
for; the ONNX decoder stays on the CPU, in whose memory its cache lies. Nothing falls back silently: a device that is
missing, does not start or gives other numbers than the CPU is refused with the reason. Only the CPU is tested by us.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from linnet.errors import BundleCorruptError, ConfigError

if TYPE_CHECKING:
    import onnxruntime as ort

    from linnet.runtime.decoder import Decoder

FloatArray = npt.NDArray[np.float32]
Device = Literal["cpu", "cuda", "directml", "coreml"]
PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
INSTALL = {
    "cuda": "pip uninstall onnxruntime; pip install onnxruntime-gpu",
    "directml": "pip uninstall onnxruntime; pip install onnxruntime-directml (Windows)",
    "coreml": "pip install onnxruntime (macOS)",
}
GPU_BUILD = "CMAKE_ARGS='-DGGML_CUDA=on' pip install --force-reinstall --no-cache-dir llama-cpp-python"
MIN_FRAME_COSINE = 0.999
"""Of encoder frames on a device against the CPU: half precision reaches .9999, a wrong kernel does not reach .99."""
MAX_KL = 0.01
"""Nats between the next-token distributions of GPU and CPU."""
ASSETS = Path(__file__).parents[1] / "assets"
SAMPLE = ASSETS / "sample.flac"
INT8_PRODUCT = ASSETS / "int8_product.onnx"
"""MatMulInteger of a uint8 [m, k] and b int8 [k, n]."""


def available() -> tuple[str, ...]:
    """Devices that this build of ONNX Runtime knows; whether they work, only the self-test tells."""
    import onnxruntime as ort

    there = set(ort.get_available_providers())
    return tuple(device for device, provider in PROVIDERS.items() if provider in there)


def session_options(threads: int | None) -> ort.SessionOptions:
    """What every session is opened with: `threads` (None: all physical cores), and 8-bit products without overflow.

    Where they overflow, this entry has ONNX Runtime take other kernels. It would take them on any x86 processor, and
    where nothing overflows they are half as fast: hence the question first.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    if overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@cache
def overflows() -> bool:
    """Whether products of unsigned and signed bytes overflow here, found out by multiplying the largest there are.

    A processor with AVX2 or AVX-512 but without VNNI adds pairs of them in 16 bits and clips the sums: a decoder's
    logits came out 40 % off (docs/log.md).
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(INT8_PRODUCT), options, providers=["CPUExecutionProvider"])
    largest = {"a": np.full((4, 64), 255, np.uint8), "b": np.full((64, 64), 127, np.int8)}
    return bool((session.run(None, largest)[0] != 64 * 255 * 127).any())


def release_free_memory() -> None:
    """Have glibc give back what was freed: opening an 8-bit encoder leaves 114 MB of it, reading a tokenizer 55 MB."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def open_session(path: Path, *, threads: int | None = None, device: str = "cpu") -> ort.InferenceSession:
    """Load a graph on a device; raises ConfigError if the device is unknown or does not start, BundleCorruptError."""
    import onnxruntime as ort

    if device not in PROVIDERS:
        raise ConfigError(f"Unknown device {device!r}; accepted: {', '.join(PROVIDERS)}.")
    if device not in available():
        raise ConfigError(
            f"Device {device!r} is disabled: this ONNX Runtime has no {PROVIDERS[device]}, it has "
            f"{', '.join(available())}. Install the build that has: {INSTALL.get(device, 'pip install onnxruntime')}"
        )
    options = session_options(threads)
    # The decoder's threads wait busily; a second pool that does so too takes the cores from it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device == "directml":  # it supports neither memory patterns nor parallel execution
        options.enable_mem_pattern = False
    providers = list(dict.fromkeys([PROVIDERS[device], PROVIDERS["cpu"]]))
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as problem:  # onnxruntime's own exceptions share no public base class
        if device != "cpu":
            raise ConfigError(f"Device {device!r} is disabled: it cannot load {path.name} ({problem}).") from problem
        raise BundleCorruptError(f"ONNX Runtime cannot load {path}: {problem}. Export or pull it again.") from problem
    if PROVIDERS[device] not in session.get_providers():  # it goes on with the CPU and says so in its log only
        raise ConfigError(
            f"Device {device!r} is disabled: {PROVIDERS[device]} did not start, most likely for want of its driver or "
            "libraries. Use --device cpu, or see what `linnet doctor` says."
        )
    return session


def check_encoder(hear: Callable[[str, FloatArray], FloatArray], device: str) -> None:
    """Self-test: `hear(device, samples)` gives encoder frames [T, O] of 3 s of speech, which the CPU has to confirm.

    Raises ConfigError with the reason if they differ.
    """
    from linnet.audio import read_audio

    samples = read_audio(SAMPLE)
    expected, got = hear("cpu", samples), hear(device, samples)
    if expected.shape != got.shape or not np.isfinite(got).all():
        raise ConfigError(
            f"Device {device!r} is disabled: in the self-test its encoder gave "
            f"{'numbers that are not finite' if expected.shape == got.shape else f'shape {got.shape}'}, the CPU "
            f"{expected.shape} finite ones. Use --device cpu."
        )
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
    cosine = float((np.einsum("to,to->t", expected, got) / np.maximum(norms, 1e-30)).min())
    if cosine < MIN_FRAME_COSINE:
        raise ConfigError(
            f"Device {device!r} is disabled: in the self-test the worst frame of its encoder has cosine {cosine:.5f} "
            f"with the CPU's, at least {MIN_FRAME_COSINE} is asked. Use --device cpu, or a bundle with an fp32 encoder."
        )


def check_gpu_layers(reference: Decoder, candidate: Decoder, gpu_layers: int) -> None:
    """Self-test of a decoder with layers on a GPU against the CPU's; raises ConfigError with the reason."""
    tokens = [(7919 * index) % reference.vocab_size for index in range(48)]
    rows = []
    for decoder in (reference, candidate):
        opened = decoder.prefill([decoder.embed(tokens)])
        logits = [opened.logits[0], decoder.step(opened.slots, [tokens[0]])[0]]
        decoder.free(opened.slots[0])
        rows.append(np.stack(logits).astype(np.float64))
    expected, got = (_log_softmax(logits) for logits in rows)
    kl = float(np.sum(np.exp(expected) * (expected - got), axis=1).max())
    if not kl <= MAX_KL:  # NaN too
        raise ConfigError(
            f"{gpu_layers} layers on the GPU are disabled: in the self-test its logits are {kl:.2g} nats from the "
            f"CPU's, at most {MAX_KL} is asked. Leave --gpu-layers out, or update the driver and llama-cpp-python."
        )


def check_gpu_build(api: Any) -> None:
    """Raise ConfigError if this llama.cpp was built without a GPU; it would run on the CPU and not tell."""
    if not api.llama_supports_gpu_offload():
        raise ConfigError(f"This llama.cpp was built without a GPU; leave --gpu-layers out, or build it: {GPU_BUILD}")


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
