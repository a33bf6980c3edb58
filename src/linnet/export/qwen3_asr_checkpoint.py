"""A Qwen3-ASR checkpoint folder as it is published: its configuration, token ids, tensor names and shapes. Torch-free.

Two layouts are accepted and given the same names, those of the official one without its `thinker.` prefix:

    official (qwen-asr)                  -hf (transformers ≥ 5.13)                      here
    thinker.audio_tower.conv2d1.weight   model.audio_tower.conv2d1.weight               audio_tower.conv2d1.weight
    thinker.audio_tower.proj1.weight     model.multi_modal_projector.linear_1.weight    audio_tower.proj1.weight
    thinker.model.norm.weight            model.language_model.norm.weight               model.norm.weight
    thinker.lm_head.weight               lm_head.weight (absent when tied)              lm_head.weight

The -hf config.json has no thinker level and no ids for audio start and end; they come from the tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from linnet.errors import CheckpointError
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

DOWNLOAD_AGAIN = "Download the checkpoint again."


def read_config(folder: str | Path) -> Qwen3ASRConfig:
    """The network's numbers from config.json; the ids that end an answer from generation_config.json or the tokenizer,
    and the width of the search from generation_config.json (`num_beams`).

    Raises CheckpointError if config.json is missing, malformed or describes another architecture.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    ids = added_tokens(folder)
    thinker = config.get("thinker_config", config)
    if isinstance(thinker, dict):
        for key, token in (("audio_start_token_id", "<|audio_start|>"), ("audio_end_token_id", "<|audio_end|>")):
            if key not in thinker and token in ids:
                thinker[key] = ids[token]
    generation = folder / "generation_config.json"
    advised = read_json(generation) if generation.is_file() else {}
    ends, beam_size = advised.get("eos_token_id"), int(advised.get("num_beams") or 1)
    if ends is None:
        ends = [ids[token] for token in ("<|endoftext|>", "<|im_end|>") if token in ids]
    if not ends and ends != 0:
        return Qwen3ASRConfig.from_checkpoint(config, beam_size=beam_size)
    ends = tuple(ends) if isinstance(ends, list) else (int(ends),)
    return Qwen3ASRConfig.from_checkpoint(config, eos_token_ids=ends, beam_size=beam_size)


def added_tokens(folder: Path) -> dict[str, int]:
    """Special and other added tokens with their ids; empty if the folder has no tokenizer files."""
    if (folder / "tokenizer.json").is_file():
        entries = read_json(folder / "tokenizer.json").get("added_tokens", [])
        return {entry["content"]: entry["id"] for entry in entries}
    if (folder / "tokenizer_config.json").is_file():
        entries = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        return {entry["content"]: int(number) for number, entry in entries.items()}
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON object; raises CheckpointError if the file is missing or malformed."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"No {path.name} in {path.parent}. Give the folder of a complete checkpoint: config.json, "
            "model.safetensors, and tokenizer.json or vocab.json with merges.txt."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise CheckpointError(f"{path} is not valid JSON ({problem}). {DOWNLOAD_AGAIN}") from problem
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected an object. {DOWNLOAD_AGAIN}")
    return data


def canonical_name(stored: str) -> str:
    """The official name without `thinker.`, from either layout; a foreign name comes back as it is."""
    name = stored.removeprefix("thinker.")
    for theirs, ours in (
        ("model.language_model.", "model."),
        ("model.audio_tower.", "audio_tower."),
        ("model.multi_modal_projector.linear_1.", "audio_tower.proj1."),
        ("model.multi_modal_projector.linear_2.", "audio_tower.proj2."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def expected_shapes(config: Qwen3ASRConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the network and its shape; `lm_head.weight` is tied and therefore optional in a checkpoint."""
    channels, width, ffn, hidden = config.conv_channels, config.d_model, config.encoder_ffn_dim, config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    for number, inputs in ((1, 1), (2, channels), (3, channels)):
        shapes[f"audio_tower.conv2d{number}.weight"] = (channels, inputs, 3, 3)
        shapes[f"audio_tower.conv2d{number}.bias"] = (channels,)
    linear("audio_tower.conv_out", width, config.conv_out_features, bias=False)
    for index in range(config.encoder_layers):
        layer = f"audio_tower.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{part}", width, width)
        norm(f"{layer}.self_attn_layer_norm", width)
        linear(f"{layer}.fc1", ffn, width)
        linear(f"{layer}.fc2", width, ffn)
        norm(f"{layer}.final_layer_norm", width)
    norm("audio_tower.ln_post", width)
    linear("audio_tower.proj1", width, width)
    linear("audio_tower.proj2", config.output_dim, width)

    queries, keys = config.decoder_heads * config.head_dim, config.decoder_kv_heads * config.head_dim
    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (config.vocab_size, hidden)
    shapes["model.norm.weight"] = (hidden,)
    for index in range(config.decoder_layers):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.self_attn.q_norm.weight"] = shapes[f"{layer}.self_attn.k_norm.weight"] = (config.head_dim,)
        linear(f"{layer}.self_attn.q_proj", queries, hidden, bias=False)
        linear(f"{layer}.self_attn.k_proj", keys, hidden, bias=False)
        linear(f"{layer}.self_attn.v_proj", keys, hidden, bias=False)
        linear(f"{layer}.self_attn.o_proj", hidden, queries, bias=False)
        linear(f"{layer}.mlp.gate_proj", config.intermediate_size, hidden, bias=False)
        linear(f"{layer}.mlp.up_proj", config.intermediate_size, hidden, bias=False)
        linear(f"{layer}.mlp.down_proj", hidden, config.intermediate_size, bias=False)
    return shapes
