"""What a number was measured with: commit, versions, processor, cores, memory. Reads files, imports nothing heavy."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import linnet

_PACKAGE = Path(__file__).resolve().parent
_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
# What the matrix kernels of ONNX Runtime and llama.cpp look for, in the names of Linux.
_FLAGS = ("avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
          "asimd", "asimddp", "i8mm", "bf16", "sve")  # fmt: skip


@dataclass(frozen=True)
class Processor:
    """The CPU as the operating system describes it."""

    model: str
    architecture: str
    flags: tuple[str, ...] | None
    """The vector extensions that matter here; None where the system does not tell."""
    cores: int
    """Logical cores this process may use: affinity and container limits are taken off."""


def provenance() -> dict[str, Any]:
    """Commit, versions and hardware as JSON values, to store beside a result."""
    cpu = processor()
    names = ("onnxruntime", "numpy", "soundfile", "soxr", "tokenizers", "jiwer", "llama-cpp-python")
    return {
        "commit": commit(),
        "linnet": linnet.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "versions": {name: version(name) for name in names},
        "processor": cpu.model,
        "cores": cpu.cores,
        "memory_gib": memory_gib(),
    }


def commit() -> str | None:
    """The commit this package runs from, "-dirty" with local changes; None if it was installed without a repository."""
    root = _PACKAGE.parents[1]
    if not (root / ".git").exists():  # an environment inside another project's repository is not ours
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root, capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def version(distribution: str) -> str | None:
    """Version of an installed distribution without importing it; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Processor:
    """Model name, relevant vector extensions and usable cores."""
    fields = _cpuinfo()
    flags = fields.get("flags") or fields.get("Features")
    return Processor(
        model=fields.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        flags=None if flags is None else tuple(flag for flag in _FLAGS if flag in flags.split()),
        cores=_cores(),
    )


def memory_gib() -> float | None:
    """Memory this process may use (the machine's, or its container's limit); None where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    limit = _read(_CGROUP / "memory.max")
    return round(min(total, int(limit) if limit.isdigit() else total) / 2**30, 1)


def _cores() -> int:
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def _cpuinfo() -> dict[str, str]:
    """The fields of the first core."""
    first = _read(_CPUINFO).split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
