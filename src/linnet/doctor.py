"""`linnet doctor`: what is installed, what is missing and how to get it, and whether this machine can transcribe."""

from __future__ import annotations

import dataclasses
import importlib
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import linnet
from linnet.bundle import read_bundle, verify_files
from linnet.environment import Processor, commit, memory_gib, processor, version
from linnet.errors import LinnetError
from linnet.runtime.loader import EMBEDDED, check_device, load_model, resolve
from linnet.runtime.providers import available

SAMPLE = Path(__file__).parent / "assets" / "sample.flac"
_REQUIRED = ("numpy", "onnxruntime", "onnx", "soundfile", "soxr", "tokenizers", "tyro", "rich", "jiwer",
             "fastapi", "uvicorn", "python-multipart", "websockets")  # fmt: skip
# extra → what it is for, and its distributions
_EXTRAS = {
    "gguf": ("the llama.cpp decoder, GGUF files, GPUs", ("llama-cpp-python", "gguf")),
    "media": ("m4a, mp4, webm, aac and video files", ("av",)),
    "train": ("training, and exporting what was trained", ("torch", "accelerate", "safetensors")),
}
_DISTRIBUTIONS = _REQUIRED + tuple(name for _, names in _EXTRAS.values() for name in names)
_REINSTALL = "Install Linnet again: pip install --force-reinstall linnet"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that works or does not."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    """What to do, often a command; empty if nothing needs doing."""
    required: bool = True
    """Whether Linnet is unhealthy without it."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was looked at."""

    versions: dict[str, str | None]
    """None: not installed."""
    commit: str | None
    platform: str
    processor: Processor
    memory_gib: float | None
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether everything required works."""
        return all(check.ok for check in self.checks if check.required)

    def to_json(self) -> str:
        """The diagnosis as one JSON object."""
        plain: dict[str, Any] = {"healthy": self.healthy} | dataclasses.asdict(self)
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"

    def text(self) -> str:
        """The diagnosis as lines for a person."""
        cpu = self.processor
        flags = "unknown to this system" if cpu.flags is None else " ".join(cpu.flags) or "none that help"
        memory = "unknown" if self.memory_gib is None else f"{self.memory_gib:g} GiB"
        lines = [
            f"linnet {self.versions['linnet']}{f' ({self.commit})' if self.commit else ''}, "
            f"Python {self.versions['python']}, {self.platform}",
            f"CPU     {cpu.model} ({cpu.architecture}), {cpu.cores} cores, {flags}",
            f"memory  {memory}",
            "",
            *(f"  {name:18}{found or '–'}" for name, found in self.versions.items() if name in _DISTRIBUTIONS),
            "",
        ]
        for check in self.checks:
            mark = "ok     " if check.ok else "FAILED " if check.required else "missing"
            lines.append(f"{mark} {check.name}: {check.detail}")
            if check.fix:
                lines.append(f"        → {check.fix}")
        lines += ["", "Everything works." if self.healthy else "Something is broken; see FAILED above."]
        return "\n".join(lines) + "\n"


def examine() -> Diagnosis:
    """Look at everything; takes a few seconds, most of them loading and running the embedded model."""
    return Diagnosis(
        versions={
            "linnet": linnet.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _DISTRIBUTIONS},
        },
        commit=commit(),
        platform=platform.platform(terse=True),
        processor=processor(),
        memory_gib=memory_gib(),
        checks=(_packages(), *_decoders(), *_devices(), *_extras(), _nano(), _transcription()),
    )


def _packages() -> Check:
    missing = [name for name in _REQUIRED if version(name) is None]
    detail = f"not installed: {', '.join(missing)}" if missing else "all required ones are installed"
    return Check(name="packages", ok=not missing, detail=detail, fix="pip install linnet" if missing else "")


def _decoders() -> list[Check]:
    """Whether both decoders can be loaded, which a version number alone does not say."""
    checks = []
    for name, module, fix in (
        ("decoder onnx", "onnxruntime", _REINSTALL),
        ("decoder gguf", "llama_cpp", "pip install 'linnet[gguf]'  (compiles for about 3 minutes, needs a C compiler)"),
    ):
        required = module == "onnxruntime"
        try:
            loaded = importlib.import_module(module)
        except Exception as error:  # a binary that does not fit this machine raises OSError or RuntimeError
            absent = isinstance(error, ModuleNotFoundError)
            detail = "not installed" if absent else f"installed, but it cannot be loaded: {error}"
            checks.append(Check(name=name, ok=False, detail=detail, fix=fix, required=required))
        else:
            detail = f"{module} {loaded.__version__}"
            checks.append(Check(name=name, ok=True, detail=detail, required=required))
    return checks


def _devices() -> list[Check]:
    """Accelerators that ONNX Runtime was built for, each after a self-test of the embedded model's encoder."""
    try:
        devices = [device for device in available() if device != "cpu"]
    except Exception:  # ONNX Runtime itself is broken, which the check of the decoders says
        return []
    checks = []
    for device in devices:
        try:
            check_device(read_bundle(resolve(EMBEDDED)), device)
        except Exception as error:  # drivers fail in their own ways, and finding out is the point
            checks.append(Check(name=f"device {device}", ok=False, detail=str(error), required=False))
        else:
            detail = "agrees with the CPU in the self-test"
            checks.append(Check(name=f"device {device}", ok=True, detail=detail, required=False))
    return checks


def _extras() -> list[Check]:
    checks = []
    for extra, (purpose, names) in _EXTRAS.items():
        missing = [name for name in names if version(name) is None]
        detail = f"{purpose}; not installed: {', '.join(missing)}" if missing else purpose
        fix = f"pip install 'linnet[{extra}]'" if missing else ""
        checks.append(Check(name=f"extra {extra}", ok=not missing, detail=detail, fix=fix, required=False))
    return checks


def _nano() -> Check:
    name = f"model {EMBEDDED}"
    try:
        bundle = read_bundle(resolve(EMBEDDED))
        verify_files(bundle)
    except LinnetError as error:
        return Check(name=name, ok=False, detail=str(error), fix=_REINSTALL)
    detail = f"{bundle.size_bytes / 1e6:.1f} MB, all files intact, languages: {', '.join(bundle.languages)}"
    return Check(name=name, ok=True, detail=detail)


def _transcription() -> Check:
    """Transcribe the clip that comes with the package, as a user would."""
    name = "transcription"
    if not SAMPLE.is_file():
        return Check(name=name, ok=False, detail=f"the sample recording {SAMPLE} is missing", fix=_REINSTALL)
    started = time.perf_counter()
    try:
        recognizer = load_model(EMBEDDED)
        loaded_s = time.perf_counter() - started
        started = time.perf_counter()
        try:
            result = recognizer.transcribe(SAMPLE)
        finally:
            recognizer.close()
    except Exception as error:  # finding out what does not work is the point here
        kind = "" if isinstance(error, LinnetError) else f"{type(error).__name__}: "
        return Check(name=name, ok=False, detail=f"{kind}{error}", fix=_REINSTALL)
    spent_s = time.perf_counter() - started
    speed = f"loaded in {loaded_s:.2f} s, {result.duration_s:.1f} s of speech in {spent_s:.2f} s"
    rtf = f"RTF {spent_s / result.duration_s:.3f}"
    if not result.text:
        detail = f"{speed}, but no text came out"
        return Check(name=name, ok=False, detail=detail, fix=f"{_REINSTALL}; report it if that does not help.")
    return Check(name=name, ok=True, detail=f"{speed} ({rtf}): {result.text}")
