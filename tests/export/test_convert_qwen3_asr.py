"""Checkpoint folder → bundle folder: complete when it is there, nothing left when it failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from linnet.bundle import Bundle, read_bundle, verify_files
from linnet.errors import CheckpointError, ExportError
from linnet.export import folder
from linnet.export.qwen3_asr import convert
from linnet.features import WHISPER_128
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig


def test_a_checkpoint_becomes_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    heard: list[str] = []
    bundle = convert(
        checkpoint,
        tmp_path / "new" / "tiny",
        encoder="int8",
        decoders={"onnx": "int8", "gguf": "q8_0"},
        name="tiny-asr",
        provenance={"licence": "Apache-2.0"},
        progress=heard.append,
    )
    assert heard == ["tokenizer", "encoder", "decoder.onnx", "decoder.gguf"]
    assert read_bundle(tmp_path / "new" / "tiny") == bundle
    verify_files(bundle)
    names = {file.name for file in bundle.files}
    assert names >= {"tokenizer.json", "encoder_conv.onnx", "encoder.onnx", "decoder.onnx", "decoder.gguf"}
    assert bundle.name == "tiny-asr" and bundle.family == "qwen3_asr" and bundle.features == WHISPER_128
    assert bundle.precision == {"encoder": "int8", "decoder.onnx": "int8", "decoder.gguf": "q8_0"}
    assert bundle.languages == ("zh", "en")
    assert bundle.provenance["licence"] == "Apache-2.0" and bundle.provenance["checkpoint"] == "checkpoint"
    assert "model.embed_tokens.weight" in bundle.provenance["decoder.gguf kept in f16"]
    listed = json.loads(bundle.file("quantization.json").read_text())
    assert set(listed) == set(bundle.parity["weights"]) == {"encoder", "decoder.onnx", "decoder.gguf"}
    worst = max(listed["encoder"], key=lambda error: error["relative_rms"])
    assert bundle.parity["weights"]["encoder"]["worst"] == worst["name"] and 0.001 < worst["relative_rms"] < 0.05
    config = Qwen3ASRConfig(**bundle.model | {"eos_token_ids": tuple(bundle.model["eos_token_ids"])})
    assert config.eos_token_ids == (505, 504) and config.hidden_size == 72
    session = ort.InferenceSession(bundle.file("encoder_conv.onnx"))
    assert session.run(None, {"mel": np.zeros((1, 128, 100), np.float32)})[0].shape == (1, 13, 48)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiny"]  # no working folder left


def test_hf_checkpoints_without_a_language_list_get_all_languages(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    del config["support_languages"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert len(convert(checkpoint, tmp_path / "out", encoder="fp32", decoders={"onnx": "fp32"}).languages) == 30


def test_a_check_decides_before_the_bundle_has_its_name(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[Path] = []

    def refuse(bundle: Bundle) -> dict[str, Any]:
        seen.append(bundle.path)
        verify_files(bundle)
        raise ExportError("not good enough")

    with pytest.raises(ExportError, match="not good enough"):
        convert(checkpoint, tmp_path / "out", check=refuse)
    assert seen[0] != tmp_path / "out" and sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]
    bundle = convert(checkpoint, tmp_path / "out", check=lambda bundle: {"encoder": {"max_abs": 0.5}})
    assert read_bundle(tmp_path / "out").parity == bundle.parity
    assert set(bundle.parity) == {"weights", "encoder"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
@pytest.mark.parametrize("part", ["tokenizer", "decoder.onnx"])
def test_stopping_halfway_leaves_nothing(
    checkpoint: Path, tmp_path: Path, part: str, error: type[BaseException]
) -> None:
    def stop(heard: str) -> None:
        if heard == part:
            raise error("stopped")

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError if error is OSError else error, match="stopped"):
        convert(checkpoint, tmp_path / "out", progress=stop)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_older_bundle_is_replaced_only_on_request_and_only_at_the_end(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "tiny"
    convert(checkpoint, out, name="first")
    with pytest.raises(ExportError, match="already holds a bundle"):
        convert(checkpoint, out, name="second")

    def stop(part: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, name="second", overwrite=True, progress=stop)
    assert read_bundle(out).name == "first"
    convert(checkpoint, out, name="second", overwrite=True)
    assert read_bundle(out).name == "second"
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


def test_a_failing_rename_brings_the_older_bundle_back(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundles" / "tiny"
    convert(checkpoint, out, name="first")
    replace = os.replace

    def failing(source: Any, target: Any) -> None:
        if ".partial-" in str(source) and Path(target) == out:
            raise OSError("disk is gone")
        replace(source, target)

    monkeypatch.setattr(folder.os, "replace", failing)
    with pytest.raises(ExportError, match="disk is gone"):
        convert(checkpoint, out, name="second", overwrite=True)
    assert read_bundle(out).name == "first"
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


def test_a_folder_of_other_things_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(ExportError, match="not a bundle, so it is not replaced"):
        convert(checkpoint, tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"encoder": "int4"}, "accepted: fp32, int8, int8-careful.*fewer than 8 bits breaks recognition"),
        ({"decoders": {}}, "needs a decoder"),
        ({"decoders": {"onnx": "q8_0"}}, "not offered for the onnx decoder; accepted: fp32, int8"),
        ({"decoders": {"gguf": "int8"}}, "not offered for the gguf decoder; accepted: f32, f16"),
        ({"decoders": {"tflite": "int8"}}, "'tflite' is unknown; accepted: onnx, gguf"),
    ],
)
def test_unknown_choices_are_refused_first(tmp_path: Path, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        convert(tmp_path / "no checkpoint needed", tmp_path / "out", **choices)


def test_unusable_checkpoints(
    checkpoint: Path, tmp_path: Path, random_arrays: Callable[..., Any], write_safetensors: Callable[..., None]
) -> None:
    arrays = {f"thinker.{name}": array for name, array in random_arrays().items()}
    arrays["thinker.lm_head.weight"] = arrays["thinker.model.embed_tokens.weight"].copy()
    write_safetensors(checkpoint / "model.safetensors", arrays)
    convert(checkpoint, tmp_path / "tied")
    arrays["thinker.lm_head.weight"][3, 5] = 2
    write_safetensors(checkpoint / "model.safetensors", arrays)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        convert(checkpoint, tmp_path / "untied")
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        convert(checkpoint, tmp_path / "truncated")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "tied"]


def test_conversion_does_not_import_torch(checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from linnet.export.qwen3_asr import convert; convert(*sys.argv[1:]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'safetensors')))"
    )
    command = [sys.executable, "-c", program, str(checkpoint), str(tmp_path / "out")]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0


@pytest.mark.skipif("LINNET_FULL" not in os.environ, reason="LINNET_FULL names a full-size checkpoint (2 GB, minutes)")
def test_a_full_size_checkpoint_converts_within_a_gigabyte(tmp_path: Path) -> None:
    program = (
        "import sys, resource; from linnet.export.qwen3_asr import convert;"
        "convert(sys.argv[1], sys.argv[2], decoders={'onnx': 'int8', 'gguf': 'q8_0'});"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    command = [sys.executable, "-c", program, os.environ["LINNET_FULL"], str(tmp_path / "out")]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
    verify_files(read_bundle(tmp_path / "out"))
    assert int(finished.stdout) < 1000  # MB; 1.9 GB of weights pass through, 466 MB were seen
