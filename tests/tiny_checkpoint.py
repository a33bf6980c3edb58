"""A tiny Qwen3-ASR checkpoint with random weights and a small byte-level tokenizer, in the official layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from tokenizers.pre_tokenizers import ByteLevel

from linnet.export.qwen3_asr_checkpoint import expected_shapes
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

Arrays = Mapping[str, npt.NDArray[Any]]
SPECIAL = ("<|audio_pad|>", "<|audio_start|>", "<|audio_end|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
SIZES: dict[str, dict[str, Any]] = {
    "audio_config": {
        "num_mel_bins": 128,
        "downsample_hidden_size": 12,
        "d_model": 48,
        "encoder_layers": 2,
        "encoder_attention_heads": 3,
        "encoder_ffn_dim": 80,
        "output_dim": 72,
        "n_window": 50,
        "n_window_infer": 800,
    },
    "text_config": {
        "vocab_size": 544,
        "hidden_size": 72,  # no multiple of 32: quantised rows have to fall back
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 96,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
    },
}


def write_safetensors(path: Path, arrays: Arrays) -> None:
    """The format written out by hand, so that the reader is not checked against itself."""
    names = {np.dtype(ml_dtypes.bfloat16): "BF16", np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in arrays.items():
        kind = names.get(array.dtype, str(array.dtype).upper())
        offsets = [offset, offset + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values()))


def random_arrays(seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Random bfloat16 weights under canonical names, without the tied head."""
    rng = np.random.default_rng(seed)
    config = Qwen3ASRConfig.from_checkpoint(config_json())
    arrays = {}
    for name, shape in expected_shapes(config).items():
        values = rng.standard_normal(shape) * (np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1)
        arrays[name] = (values + ("norm.weight" in name)).astype(ml_dtypes.bfloat16)
    del arrays["lm_head.weight"]
    return arrays


def config_json() -> dict[str, Any]:
    """The official config.json of the tiny network; ids of the special tokens as in `write_tokenizer_files`."""
    ids = {"audio_token_id": 500, "audio_start_token_id": 501, "audio_end_token_id": 502}
    return {"model_type": "qwen3_asr", "support_languages": ["Chinese", "English"], "thinker_config": SIZES | ids}


def write_tokenizer_files(folder: Path) -> None:
    """vocab.json (256 bytes, 244 merged pairs), merges.txt, tokenizer_config.json with special tokens from 500 on."""
    alphabet = sorted(ByteLevel.alphabet())
    letters = "Ġetaoinshrdlucm"
    merges = [(left, right) for left in letters for right in letters if right != "Ġ"][: 500 - len(alphabet)]
    merges += [("Ġt", right) for right in "abcdefghijklmnopqrstuvwxyz"][: 500 - len(alphabet) - len(merges)]
    merges += [("in", right) for right in "abcdefghijklmnop"][: 500 - len(alphabet) - len(merges)]
    tokens = alphabet + [left + right for left, right in merges]
    assert len(set(tokens)) == 500
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}), "utf-8")
    lines = [f"{left} {right}\n" for left, right in merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(lines), "utf-8")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {str(500 + index): {"content": token, "special": True, **flags} for index, token in enumerate(SPECIAL)}
    added[str(500 + len(SPECIAL))] = {"content": "<asr_text>", "special": False, **flags}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}), "utf-8")


def write_checkpoint(folder: Path) -> Path:
    """A complete tiny checkpoint with random weights in a new folder."""
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {f"thinker.{k}": v for k, v in random_arrays().items()})
    (folder / "config.json").write_text(json.dumps(config_json()), "utf-8")
    (folder / "generation_config.json").write_text('{"eos_token_id": [505, 504]}', "utf-8")
    write_tokenizer_files(folder)
    return folder
