"""Reading checkpoints: values against the safetensors library, both layouts, and an error for each kind of damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from linnet.errors import CheckpointError
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.export.safetensors import open_checkpoint

HF_NAMES = {
    "audio_tower.proj1.": "model.multi_modal_projector.linear_1.",
    "audio_tower.proj2.": "model.multi_modal_projector.linear_2.",
    "audio_tower.": "model.audio_tower.",
    "model.": "model.language_model.",
}


def test_golden_values_equal_the_safetensors_library(golden: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    expected = library.load_file(golden / "qwen3_asr" / "model.safetensors")
    with open_checkpoint(golden / "qwen3_asr") as tensors:
        assert tensors.names() == sorted(name.removeprefix("thinker.") for name in expected)
        for name in tensors.names():
            assert tensors.shape(name) == expected[f"thinker.{name}"].shape
            np.testing.assert_array_equal(tensors.get(name), expected[f"thinker.{name}"])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_every_stored_type_comes_out_as_float32(
    checkpoint: Path, dtype: Any, random_arrays: Any, write_safetensors: Any
) -> None:
    arrays = {name: array.astype(dtype) for name, array in random_arrays(seed=1).items()}
    write_safetensors(checkpoint / "model.safetensors", {f"thinker.{k}": v for k, v in arrays.items()})
    tensors = open_checkpoint(checkpoint)
    name = "audio_tower.conv_out.weight"
    assert tensors.get_raw(name).dtype == dtype and tensors.get(name).dtype == np.float32
    np.testing.assert_array_equal(tensors.get(name), arrays[name].astype(np.float32))
    blocks = list(tensors.get_rows("model.embed_tokens.weight", at_once=100))
    assert [len(block) for block in blocks] == [100] * 5 + [44]
    np.testing.assert_array_equal(np.concatenate(blocks), arrays["model.embed_tokens.weight"].astype(np.float32))


def test_hf_layout_gives_the_same_tensors_and_config(checkpoint: Path, write_safetensors: Any) -> None:
    official, config = open_checkpoint(checkpoint), read_config(checkpoint)
    arrays = {}
    for name in official.names():
        prefix = next(prefix for prefix in HF_NAMES if name.startswith(prefix))
        arrays[HF_NAMES[prefix] + name.removeprefix(prefix)] = official.get_raw(name).copy()
    before = {name: official.get(name) for name in official.names()}
    data = json.loads((checkpoint / "config.json").read_text())
    thinker = data.pop("thinker_config")
    text = thinker["text_config"]
    text["rope_parameters"] = {"rope_theta": text.pop("rope_theta"), "rope_type": "default"}
    ids = {"audio_token_id": thinker["audio_token_id"]}
    data |= {"audio_config": thinker["audio_config"], "text_config": text, **ids}  # no ids of audio start and end
    (checkpoint / "config.json").write_text(json.dumps(data))
    (checkpoint / "model.safetensors").unlink()
    write_safetensors(checkpoint / "model.safetensors", arrays)
    hf = open_checkpoint(checkpoint)
    assert read_config(checkpoint) == config
    assert hf.names() == sorted(before)
    for name, values in before.items():
        np.testing.assert_array_equal(hf.get(name), values)


def test_shards_are_one_checkpoint(checkpoint: Path, random_arrays: Any, write_safetensors: Any) -> None:
    whole = random_arrays()
    (checkpoint / "model.safetensors").unlink()
    names = sorted(whole)
    parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    weight_map = {}
    for shard, members in parts.items():
        write_safetensors(checkpoint / shard, {f"thinker.{name}": whole[name] for name in members})
        weight_map |= {f"thinker.{name}": shard for name in members}
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    tensors = open_checkpoint(checkpoint)
    assert tensors.names() == names
    np.testing.assert_array_equal(tensors.get(names[0]), whole[names[0]].astype(np.float32))
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks the file model-00002-of-00002"):
        open_checkpoint(checkpoint)
    index.write_text(json.dumps({"weight_map": {"thinker.x": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match="refused"):
        open_checkpoint(checkpoint)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        open_checkpoint(checkpoint)


def test_end_of_answer_comes_from_generation_config_or_tokenizer(checkpoint: Path) -> None:
    assert read_config(checkpoint).eos_token_ids == (505, 504)
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 504}')
    assert read_config(checkpoint).eos_token_ids == (504,)
    (checkpoint / "generation_config.json").unlink()
    assert read_config(checkpoint).eos_token_ids == (505, 504)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated or damaged"),
        (lambda data: data + b"\0", "truncated or damaged"),
        (lambda data: data[:100], "not a safetensors file or was truncated"),
        (lambda data: b"", "not a safetensors file"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (lambda data: b"PK\x03\x04" + data, "not a safetensors file"),
        (lambda data: data[:8] + b"[" + data[9:], "header is not JSON"),
        (lambda data: (4).to_bytes(8, "little") + b"[12]", "not a JSON object"),
        (lambda data: data.replace(b'"BF16"', b'"I08X"', 1), "type I08X; accepted: BF16, F16, F32"),
        (lambda data: data.replace(b'"shape": [12]', b'"shape": [13]', 1), "cannot lie at bytes"),
        (lambda data: data.replace(b'"shape": [12]', b'"shape": [-1]', 1), "has shape"),
        (lambda data: data.replace(b'"shape": [12]', b'"shope": [12]', 1), "header entry"),
    ],
)
def test_damaged_file(checkpoint: Path, damage: Any, message: str) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(checkpoint)


def test_overlapping_tensors_are_corrupt(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["thinker.model.norm.weight"]["data_offsets"] = [0, 144]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(CheckpointError, match="corrupt"):
        open_checkpoint(checkpoint)


@pytest.fixture
def rewrite(checkpoint: Path, random_arrays: Any, write_safetensors: Any) -> Any:
    """Function that stores the random weights with changes; None drops a tensor."""

    def write(changes: dict[str, Any]) -> None:
        arrays = random_arrays() | changes
        kept = {f"thinker.{name}": array for name, array in arrays.items() if array is not None}
        write_safetensors(checkpoint / "model.safetensors", kept)

    return write


def test_foreign_and_missing_tensors_are_listed(checkpoint: Path, rewrite: Any) -> None:
    extra = np.zeros((2, 2), np.float32)
    rewrite({f"model.layers.0.lora_{index}.weight": extra for index in range(7)})
    with pytest.raises(CheckpointError, match=r"7 tensors that Qwen3-ASR does not know: .*lora_0.*lora_4\.weight …"):
        open_checkpoint(checkpoint)
    rewrite({"model.norm.weight": None, "audio_tower.proj1.bias": None})
    with pytest.raises(CheckpointError, match=r"lacks 2 tensors.*audio_tower\.proj1\.bias, model\.norm\.weight"):
        open_checkpoint(checkpoint)
    rewrite({"model.norm.weight": np.zeros(71, np.float32)})
    with pytest.raises(CheckpointError, match=r"shape \[71\], config.json says \[72\]"):
        open_checkpoint(checkpoint)


def test_the_same_tensor_in_both_layouts_is_refused(
    checkpoint: Path, random_arrays: Any, write_safetensors: Any
) -> None:
    arrays = {f"thinker.{name}": array for name, array in random_arrays().items()}
    arrays["model.language_model.norm.weight"] = arrays["thinker.model.norm.weight"]
    write_safetensors(checkpoint / "model.safetensors", arrays)
    with pytest.raises(CheckpointError, match="second tensor"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(checkpoint: Path, value: float, rewrite: Any) -> None:
    rewrite({"model.norm.weight": np.full(72, value, np.float32)})
    tensors = open_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' holds NaN or infinity"):
        tensors.get("model.norm.weight")


def test_folder_that_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No config.json"):
        open_checkpoint(tmp_path / "nowhere")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No weights"):
        open_checkpoint(checkpoint)
    (checkpoint / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(CheckpointError, match="'whisper'; accepted: 'qwen3_asr'"):
        open_checkpoint(checkpoint)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_checkpoint(checkpoint)
