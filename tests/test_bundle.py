"""Bundles: what is written is read back, and every way of being broken has its error."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from linnet import bundle as bundle_module
from linnet.bundle import Bundle, read_bundle, verify_files, write_bundle
from linnet.errors import BundleCorruptError, BundleError, BundleNotFoundError, BundleVersionError
from linnet.features import WHISPER_128


def make(folder: Path) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graphs").mkdir(exist_ok=True)
    (folder / "graphs" / "encoder.onnx").write_bytes(b"graph")
    (folder / "tokenizer.json").write_bytes(b"{}")
    return write_bundle(
        folder,
        name="tiny",
        family="qwen3_asr",
        model={"d_model": 64, "eos_token_ids": [1, 2]},
        features=dataclasses.replace(WHISPER_128, n_mels=80),
        precision={"encoder": "int8"},
        languages=["en", "zh"],
        provenance={"licence": "Apache-2.0", "data": ["一"]},
        parity={},
    )


def change(folder: Path, **fields: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), "utf-8")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = make(tmp_path)
    bundle = read_bundle(tmp_path)
    assert bundle == written
    assert bundle.features.n_mels == 80 and bundle.sample_rate_hz == 16_000
    assert bundle.languages == ("en", "zh") and bundle.provenance["data"] == ["一"]
    assert {file.name: file.sha256 for file in bundle.files} == {
        "graphs/encoder.onnx": hashlib.sha256(b"graph").hexdigest(),
        "tokenizer.json": hashlib.sha256(b"{}").hexdigest(),
    }
    assert bundle.size_bytes == 7
    assert bundle.file("graphs/encoder.onnx").read_bytes() == b"graph"
    verify_files(bundle)


def test_asking_for_a_file_it_lacks_names_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no file 'decoder.gguf'; it has graphs/encoder.onnx, tokenizer.json"):
        make(tmp_path).file("decoder.gguf")


def test_writing_again_replaces_the_description(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "more.bin").write_bytes(b"more")
    assert [file.name for file in make(tmp_path).files] == ["graphs/encoder.onnx", "more.bin", "tokenizer.json"]


@pytest.mark.parametrize("verify", [True, False])
def test_missing_file(tmp_path: Path, verify: bool) -> None:
    make(tmp_path).file("tokenizer.json").unlink()
    with pytest.raises(BundleCorruptError, match=r"tokenizer.json, but that file is missing"):
        read_bundle(tmp_path, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_file_of_another_size(tmp_path: Path, verify: bool) -> None:
    make(tmp_path).file("tokenizer.json").write_bytes(b"{} ")
    with pytest.raises(BundleCorruptError, match="it has 3 bytes, expected 2"):
        read_bundle(tmp_path, verify=verify)


def test_altered_content_of_the_same_size(tmp_path: Path) -> None:
    make(tmp_path).file("tokenizer.json").write_bytes(b"[]")
    with pytest.raises(BundleCorruptError, match="SHA-256"):
        read_bundle(tmp_path)
    with pytest.raises(BundleCorruptError, match="SHA-256"):
        verify_files(read_bundle(tmp_path, verify=False))


def test_large_files_are_hashed_only_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path).file("graphs/encoder.onnx").write_bytes(b"GRAPH")
    monkeypatch.setattr(bundle_module, "HASH_ON_OPEN_BYTES", 4)
    opened = read_bundle(tmp_path)
    with pytest.raises(BundleCorruptError, match=r"encoder\.onnx"):
        verify_files(opened)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "", "bundle.json", "a\0b"])
def test_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path / "b")
    (tmp_path / "secret").write_bytes(b"{}")
    change(tmp_path / "b", files=[{"name": name, "sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}])
    with pytest.raises(BundleCorruptError, match="plain relative path"):
        read_bundle(tmp_path / "b")


def test_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "b")
    (tmp_path / "outside").write_bytes(b"{}")
    (tmp_path / "b" / "tokenizer.json").unlink()
    (tmp_path / "b" / "tokenizer.json").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleCorruptError, match="link that leaves"):
        read_bundle(tmp_path / "b")


def test_newer_format_says_what_to_upgrade(tmp_path: Path) -> None:
    make(tmp_path)
    change(tmp_path, format_version=2, something_new={})
    with pytest.raises(BundleVersionError, match=r"format_version 2; this Linnet reads up to 1.*pip install --upgrade"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"surprise": 1},
        {"path": "/tmp"},
        {"name": 3},
        {"model": []},
        {"files": []},
        {"files": ["x"]},
        {"files": [{"name": "tokenizer.json", "sha256": "0"}]},
        {"format_version": 0},
        {"format_version": True},
        {"format_version": "1"},
        {"features": {}},
        {"features": dataclasses.asdict(WHISPER_128) | {"n_mels": "80"}},
        {"features": dataclasses.asdict(WHISPER_128) | {"n_mels": -1}},
        {"features": dataclasses.asdict(WHISPER_128) | {"log": "loud"}},
    ],
)
def test_malformed_description(tmp_path: Path, fields: dict[str, Any]) -> None:
    make(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(BundleCorruptError, match=r"bundle.json is malformed"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("key", ["format_version", "name", "family", "model", "features", "files", "parity"])
def test_missing_key_is_named(tmp_path: Path, key: str) -> None:
    make(tmp_path)
    path = tmp_path / "bundle.json"
    data = json.loads(path.read_text("utf-8"))
    del data[key]
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(BundleCorruptError, match=f"'{key}' is missing"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe"])
def test_description_that_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    make(tmp_path)
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleCorruptError, match="malformed"):
        read_bundle(tmp_path)


def test_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, state in ((tmp_path, "no bundle.json"), (tmp_path / "file", "not a folder"), (tmp_path / "x", "exist")):
        with pytest.raises(BundleNotFoundError, match=state) as caught:
            read_bundle(path)
        assert isinstance(caught.value, FileNotFoundError)


def test_failing_to_write_leaves_no_description(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x")
    (tmp_path / "zlink").symlink_to(tmp_path / "weights")
    with pytest.raises(BundleError, match="zlink is a link"):
        make(tmp_path)
    assert not list(tmp_path.glob("bundle.json*"))


def test_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"model": {}, "precision": {}, "languages": [], "provenance": {}, "parity": {}}
    with pytest.raises(BundleError, match="holds no files"):
        write_bundle(tmp_path, name="x", family="y", features=WHISPER_128, **fields)
