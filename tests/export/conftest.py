"""Tiny checkpoints for the tests of conversion."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest

import tiny_checkpoint
from tiny_checkpoint import Arrays


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Folder of a complete tiny checkpoint with random weights."""
    return tiny_checkpoint.write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def write_safetensors() -> Callable[[Path, Arrays], None]:
    """Function that stores arrays (bfloat16, float16, float32) in a file."""
    return tiny_checkpoint.write_safetensors


@pytest.fixture
def random_arrays() -> Callable[..., dict[str, npt.NDArray[Any]]]:
    """Function (seed=0) → random bfloat16 weights of the tiny checkpoint, under canonical names, without the head."""
    return tiny_checkpoint.random_arrays


@pytest.fixture
def with_tokenizer(golden: Path, tmp_path: Path) -> Path:
    """The golden checkpoint, which has no tokenizer, with a small one added."""
    folder = tmp_path / "golden"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(golden / "qwen3_asr" / name, folder / name)
    tiny_checkpoint.write_tokenizer_files(folder)
    return folder
