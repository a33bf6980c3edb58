"""wav2vec 2.0 checkpoints in Hugging Face's layout: names, shapes, vocabulary. Torch-free.

Files: config.json, model.safetensors (or shards), and for CTC vocab.json; preprocessor_config.json says whether clips
are normalised.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from linnet.errors import CheckpointError
from linnet.export.qwen3_asr_checkpoint import read_json
from linnet.export.safetensors import Tensors, open_tensors
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.runtime.wav2vec2_vocabulary import SEPARATOR, SPECIAL, Vocabulary

_PARAMETRISED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def canonical_name(stored: str) -> str:
    """Our name of a stored tensor: weight norm has two spellings, and a bare `Wav2Vec2Model` lacks the prefix."""
    for suffix, ours in _PARAMETRISED.items():
        stored = stored.replace(suffix, ours)
    if not stored.startswith(("wav2vec2.", "quantizer.", "project_", "lm_head.")):
        stored = f"wav2vec2.{stored}"
    return stored


def is_wav2vec2(folder: Path) -> bool:
    """Whether config.json in `folder` says so; False if there is none that can be read."""
    try:
        return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "wav2vec2")
    except (OSError, ValueError, AttributeError):
        return False


def read_config(folder: Path) -> Wav2Vec2Config:
    """The shape that config.json in `folder` describes; CheckpointError if there is none or it is another family's."""
    return Wav2Vec2Config.from_checkpoint(read_json(folder / "config.json"))


def read_vocabulary(folder: Path, config: Wav2Vec2Config) -> Vocabulary:
    """vocab.json and what the tokenizer's and preprocessor's configurations say; CheckpointError if they do not fit."""
    table = read_json(folder / "vocab.json")
    if not table or not all(isinstance(value, int) for value in table.values()):
        raise CheckpointError(
            f"{folder / 'vocab.json'} is not a table of labels and numbers; vocabularies per language are not read. "
            "Give a checkpoint with one vocabulary."
        )
    labels = [""] * config.vocab_size
    for label, number in table.items():
        if not 0 <= number < config.vocab_size:
            raise CheckpointError(
                f"{folder / 'vocab.json'} numbers {label!r} {number}, but the head has {config.vocab_size} labels. "
                "Use the vocab.json that belongs to these weights."
            )
        labels[number] = label
    described = _optional(folder / "tokenizer_config.json")
    names = {str(described[key]) for key in ("pad_token", "bos_token", "eos_token", "unk_token") if described.get(key)}
    special = {*(names or SPECIAL), labels[config.blank_id]} - {""}
    return Vocabulary(
        labels=tuple(labels),
        word_separator=described.get("word_delimiter_token") or SEPARATOR,
        special=tuple(sorted(special)),
        normalise=bool(_optional(folder / "preprocessor_config.json").get("do_normalize", True)),
    )


def open_weights(folder: Path, config: Wav2Vec2Config, *, parts: tuple[str, ...]) -> Tensors:
    """The checkpoint's tensors by our names, checked against config.json.

    `parts` are those wanted of "quantizer" and "lm_head"; other heads in the files are left out, since fine-tuning
    starts from a pretraining checkpoint and export needs no quantiser. Raises CheckpointError for missing tensors,
    foreign ones, and wrong shapes.
    """
    tensors = open_tensors(folder, canonical=canonical_name)
    expected = expected_shapes(config, parts=parts)
    known = expected_shapes(config, parts=("quantizer", "lm_head"))
    names = set(tensors.names())
    # Checkpoints that were never trained with masks lack the mask embedding; nothing but fine-tuning needs it.
    if missing := expected.keys() - names - {"wav2vec2.masked_spec_embed"}:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors that its config.json asks for: {_some(missing)}. Download the "
            "checkpoint completely, or choose one with the head that is needed."
        )
    if unknown := names - known.keys() - {name for name in names if name.startswith("lm_head.")}:
        raise CheckpointError(
            f"{folder} has {len(unknown)} tensors that wav2vec 2.0 does not know: {_some(unknown)}. Accepted: "
            "checkpoints of Wav2Vec2Model, Wav2Vec2ForPreTraining and Wav2Vec2ForCTC without adapters."
        )
    for name in sorted(names & expected.keys()):
        if tensors.shape(name) != expected[name]:
            raise CheckpointError(
                f"Tensor {name!r} has shape {list(tensors.shape(name))}, config.json says {list(expected[name])}. Use "
                "the config.json that belongs to these weights."
            )
    return tensors


def expected_shapes(config: Wav2Vec2Config, *, parts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the network with these parts."""
    d, f, shapes = config.hidden_size, config.ffn_dim, dict[str, tuple[int, ...]]()

    def pair(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (weight[0],)

    for index, (width, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        layer = f"wav2vec2.feature_extractor.conv_layers.{index}"
        shapes[f"{layer}.conv.weight"] = (width, config.conv_dim[index - 1] if index else 1, kernel)
        if config.conv_bias:
            shapes[f"{layer}.conv.bias"] = (width,)
        if config.norm == "layer" or index == 0:
            pair(f"{layer}.layer_norm", width)
    pair("wav2vec2.feature_projection.layer_norm", config.conv_dim[-1])
    pair("wav2vec2.feature_projection.projection", d, config.conv_dim[-1])
    shapes["wav2vec2.masked_spec_embed"] = (d,)
    positions = "wav2vec2.encoder.pos_conv_embed.conv"
    shapes[f"{positions}.weight_g"] = (1, 1, config.position_kernel)
    shapes[f"{positions}.weight_v"] = (d, d // config.position_groups, config.position_kernel)
    shapes[f"{positions}.bias"] = (d,)
    pair("wav2vec2.encoder.layer_norm", d)
    for index in range(config.layers):
        layer = f"wav2vec2.encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            pair(f"{layer}.attention.{projection}", d, d)
        pair(f"{layer}.layer_norm", d)
        pair(f"{layer}.feed_forward.intermediate_dense", f, d)
        pair(f"{layer}.feed_forward.output_dense", d, f)
        pair(f"{layer}.final_layer_norm", d)
    if "quantizer" in parts:
        entries = config.codebooks * config.codebook_size
        shapes["quantizer.codevectors"] = (1, entries, config.code_dim // config.codebooks)
        pair("quantizer.weight_proj", entries, config.conv_dim[-1])
        pair("project_hid", config.projection_dim, d)
        pair("project_q", config.projection_dim, config.code_dim)
    if "lm_head" in parts:
        pair("lm_head", config.vocab_size, d)
    return shapes


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _some(names: set[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (" …" if len(ordered) > 5 else "")
