"""A tiny forced-aligner checkpoint: the golden Qwen3-ASR one with a head of random classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from fakes import byte_tokenizer
from safetensors.numpy import load_file, save_file

from linnet.runtime.prompt import SPECIAL_TOKENS

CLASSES = 50


def write_aligner_checkpoint(golden: Path, folder: Path) -> Path:
    """The folder, which is made, with config.json, model.safetensors and tokenizer.json."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer((*SPECIAL_TOKENS, "<timestamp>"))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((golden / "qwen3_asr/config.json").read_text())
    config["thinker_config"]["classify_num"] = CLASSES
    config |= {"timestamp_segment_time": 80, "timestamp_token_id": tokenizer.token_to_id("<timestamp>")}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(golden / "qwen3_asr/model.safetensors")
    hidden = config["thinker_config"]["text_config"]["hidden_size"]
    head = np.random.default_rng(0).standard_normal((CLASSES, hidden)).astype(np.float32)
    save_file(weights | {"thinker.lm_head.weight": head}, folder / "model.safetensors")
    return folder
