"""A bundle of the golden Qwen3-ASR checkpoint with a byte tokenizer, for the tests of the runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes import byte_tokenizer

from linnet.bundle import Bundle
from linnet.export.qwen3_asr import convert


@pytest.fixture(scope="session")
def tiny_bundle(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """fp32 encoder and ONNX decoder of the golden checkpoint; knows Chinese, English and German. Do not alter it."""
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(golden / "qwen3_asr" / name, checkpoint / name)
    byte_tokenizer().save(str(checkpoint / "tokenizer.json"))
    return convert(checkpoint, folder / "tiny", encoder="fp32", decoders={"onnx": "fp32"})
