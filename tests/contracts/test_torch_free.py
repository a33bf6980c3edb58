"""The half of Linnet that users run never imports torch, and the parts that must start fast import little."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import linnet.export
import linnet.runtime
import linnet.server

TORCH_FREE = [
    "linnet",
    *("linnet." + name for name in (
        "audio", "bundle", "cli", "codes", "compare", "ctc", "damage", "denoise", "doctor", "environment", "errors",
        "evaluate", "features", "info", "live", "manifest", "metrics", "noise", "noise_source", "progress", "pull",
        "range_coder", "report", "results", "subtitles", "text", "transcribe", "writers",
    )),
    *(f"linnet.runtime.{module.name}" for module in pkgutil.iter_modules(linnet.runtime.__path__)),
    *(f"linnet.export.{module.name}" for module in pkgutil.iter_modules(linnet.export.__path__)),
    *(f"linnet.server.{module.name}" for module in pkgutil.iter_modules(linnet.server.__path__)),
    "linnet.hub.download",
    "linnet.data.prepare",
    "linnet.models.presets",  # `linnet train --help` has to work for those who still have to install torch
]  # fmt: skip
FORBIDDEN = ["torch", "transformers", "accelerate"]


def loaded_after(code: str, names: list[str]) -> dict[str, str]:
    """Run code in a fresh interpreter; which of `names` are loaded afterwards, and after which line."""
    program = (
        f"import json, sys\nfound = {{}}\nfor line in {code.splitlines()!r}:\n    exec(line)\n"
        f"    found.update({{name: line for name in {names!r} if name in sys.modules and name not in found}})\n"
        "sys.stderr.write(json.dumps(found))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stderr.splitlines()[-1])
    return found


def test_no_module_of_the_runtime_half_imports_torch() -> None:
    assert loaded_after("\n".join(f"import {name}" for name in TORCH_FREE), FORBIDDEN) == {}


def test_the_check_above_would_notice_torch() -> None:
    pytest.importorskip("torch")
    assert loaded_after("import linnet\nimport torch", FORBIDDEN) == {"torch": "import torch"}


HEAVY = ["numpy", "onnxruntime", "onnx", "tokenizers", "soundfile", "rich", "tyro", "jiwer", "llama_cpp", "fastapi"]


def test_importing_linnet_and_its_help_load_nothing_heavy() -> None:
    code = "import linnet\nimport linnet.cli\ntry_help = lambda: linnet.cli._run('--help', [])\ntry_help()"
    assert loaded_after(code, HEAVY) == {}


def test_runtime_modules_load_their_engines_only_when_used() -> None:
    code = "import linnet.runtime.loader\nimport linnet.transcribe\nimport linnet.evaluate"
    assert loaded_after(code, ["onnxruntime", "tokenizers", "llama_cpp", "jiwer", "rich", "tyro"]) == {}
