"""Finding a model and opening it: by path, by name, and what is said when that does not work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from linnet.bundle import Bundle
from linnet.errors import BundleCorruptError, BundleError, BundleNotFoundError, BundleVersionError, ConfigError
from linnet.runtime.base import CutRecognizer
from linnet.runtime.loader import load_model, models_folder, open_decoder, resolve
from linnet.runtime.longform import Cut
from linnet.runtime.onnx_decoder import OnnxDecoder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for pulled models."""
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def edited(bundle: Bundle, folder: Path, **changes: object) -> Path:
    """A copy of the bundle in `folder` whose description has these keys changed."""
    shutil.copytree(bundle.path, folder)
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_folder_and_a_pulled_name_are_found(tiny_bundle: Bundle, home: Path) -> None:
    for name in ("tiny", "someone/tiny"):
        edited(tiny_bundle, home / "models" / name)
        assert resolve(name) == home / "models" / name
    assert resolve(tiny_bundle.path) == tiny_bundle.path
    assert resolve(str(tiny_bundle.path)) == tiny_bundle.path
    assert models_folder() == home / "models"


def test_models_lie_in_the_cache_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LINNET_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() == tmp_path / ".cache/linnet/models"


@pytest.mark.parametrize("name", ["parrot", "./parrot", "../models/tiny", "/nowhere/tiny", "a/b/c", ""])
def test_an_unknown_model_is_an_error_that_lists_the_known(tiny_bundle: Bundle, home: Path, name: str) -> None:
    edited(tiny_bundle, home / "models" / "tiny")
    with pytest.raises(BundleNotFoundError, match="tiny"):
        resolve(name)


def test_a_folder_without_a_bundle_says_so(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"without bundle\.json"):
        load_model(tmp_path)


def test_a_bundle_is_opened(tiny_bundle: Bundle) -> None:
    model = load_model(tiny_bundle.path, threads=1)
    assert model.bundle == tiny_bundle
    model.close()


def test_bundles_that_cannot_be_used_are_errors(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"parrot.*qwen3_asr"):
        load_model(edited(tiny_bundle, tmp_path / "family", family="parrot"))
    with pytest.raises(BundleVersionError):
        load_model(edited(tiny_bundle, tmp_path / "version", format_version=99))
    for name in ("encoder.onnx", "tokenizer.json", "decoder.onnx"):
        folder = edited(tiny_bundle, tmp_path / f"without-{name}")
        (folder / name).unlink()
        with pytest.raises(BundleCorruptError, match=name):
            load_model(folder)


def test_the_decoder_can_be_chosen(tiny_bundle: Bundle) -> None:
    assert isinstance(open_decoder(tiny_bundle, "auto", threads=1), OnnxDecoder)
    assert isinstance(open_decoder(tiny_bundle, "onnx", threads=1), OnnxDecoder)
    with pytest.raises(BundleError, match=r"decoder\.gguf"):
        open_decoder(tiny_bundle, "gguf")
    with pytest.raises(ConfigError, match="'auto', 'onnx', 'gguf'"):
        open_decoder(tiny_bundle, "tflite")  # type: ignore[arg-type]


def test_the_beam_is_the_bundles_unless_one_is_given(tiny_bundle: Bundle, tmp_path: Path) -> None:
    advised = edited(tiny_bundle, tmp_path / "advised", model=tiny_bundle.model | {"beam_size": 3})
    samples = 0.1 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    cut = Cut(samples, 0, 0, len(samples))

    def texts(folder: Path, beam_size: int | None) -> list[str]:
        recognizer = load_model(folder, threads=1, beam_size=beam_size)
        try:
            assert isinstance(recognizer, CutRecognizer)
            return [segment.text for segment in recognizer.recognize([cut])]
        finally:
            recognizer.close()

    assert texts(advised, None) == texts(tiny_bundle.path, 3)
    assert texts(advised, 1) == texts(tiny_bundle.path, None)
    assert texts(advised, 1) != texts(advised, 3)  # or the lines above would say nothing


@pytest.mark.parametrize("beam_size", [-1, 0, 33])
def test_a_beam_that_is_not_offered_is_refused(tiny_bundle: Bundle, beam_size: int) -> None:
    with pytest.raises(ConfigError, match=f"beam size is {beam_size}; accepted: 1 .greedy. to 32"):
        load_model(tiny_bundle.path, beam_size=beam_size)
