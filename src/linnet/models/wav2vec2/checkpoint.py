"""Checkpoints in Hugging Face's layout: read them into the torch modules, write trained weights back.

What `save_checkpoint` writes is what `linnet.export.wav2vec2.convert` and transformers read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from linnet.errors import CheckpointError
from linnet.export.qwen3_asr_checkpoint import read_json
from linnet.export.wav2vec2_checkpoint import expected_shapes, open_weights, read_config, read_vocabulary
from linnet.models.wav2vec2.model import Wav2Vec2ForCTC
from linnet.models.wav2vec2.pretraining import Wav2Vec2ForPreTraining
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.runtime.wav2vec2_vocabulary import Vocabulary
from linnet.train.run_folder import RunFolder

FROZEN = "frozen.safetensors"
"""Weights that do not train, in the run folder: checkpoints hold only those that do."""
_STORED = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def load_weights(folder: Path, config: Wav2Vec2Config, *, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Float32 weights of a checkpoint folder by our names: the encoder and those of "quantizer", "lm_head" in `parts`.

    Raises CheckpointError.
    """
    with open_weights(folder, config, parts=parts) as tensors:
        wanted = ("wav2vec2.", *(("quantizer.", "project_") if "quantizer" in parts else ()))
        wanted += ("lm_head.",) if "lm_head" in parts else ()
        weights = {name: torch.from_numpy(tensors.get(name)) for name in tensors.names() if name.startswith(wanted)}
    weights.setdefault("wav2vec2.masked_spec_embed", torch.rand(config.hidden_size))
    return weights


def initial_weights(source: Path, *, parts: tuple[str, ...]) -> tuple[Wav2Vec2Config, dict[str, Tensor]]:
    """Shape and weights to start from: a run folder (its best checkpoint, else the last), or a checkpoint folder.

    Raises CheckpointError.
    """
    if not (source / "checkpoints").is_dir():
        config = read_config(source)
        return config, load_weights(source, config, parts=parts)
    run = RunFolder(source)
    config = Wav2Vec2Config.from_checkpoint(read_json(source / "shape.json"))
    weights, _ = run.load("best" if run.has("best") else "last")
    if (source / FROZEN).is_file():
        weights |= load_file(source / FROZEN)
    wanted = set(expected_shapes(config, parts=parts))
    kept = {name: tensor for name, tensor in weights.items() if name in wanted}
    if missing := wanted - kept.keys():
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors, for example {min(missing)}. Start from a run of wav2vec 2.0 with "
            f"{' and '.join(parts) or 'an encoder'}."
        )
    return config, kept


def initial_vocabulary(source: Path) -> Vocabulary | None:
    """The vocabulary of a run or checkpoint that has a CTC head, else None. Raises CheckpointError."""
    name = "shape.json" if (source / "checkpoints").is_dir() else "config.json"
    config = Wav2Vec2Config.from_checkpoint(read_json(source / name))
    return read_vocabulary(source, config) if config.vocab_size else None


def load_ctc(folder: Path) -> Wav2Vec2ForCTC:
    """A `Wav2Vec2ForCTC` checkpoint, in evaluation mode. Raises CheckpointError."""
    config = read_config(folder)
    model = Wav2Vec2ForCTC(config)
    model.load_state_dict(load_weights(folder, config, parts=("lm_head",)))
    return model.eval()


def load_pretraining(folder: Path) -> Wav2Vec2ForPreTraining:
    """A `Wav2Vec2ForPreTraining` checkpoint, in evaluation mode. Raises CheckpointError."""
    config = read_config(folder)
    model = Wav2Vec2ForPreTraining(config)
    model.load_state_dict(load_weights(folder, config, parts=("quantizer",)))
    return model.eval()


def save_checkpoint(
    folder: Path, weights: Mapping[str, Tensor], config: Wav2Vec2Config, vocabulary: Vocabulary | None = None
) -> None:
    """Write `weights` (our names) as a checkpoint folder that transformers reads."""
    folder.mkdir(parents=True, exist_ok=True)
    save_assets(folder, config, vocabulary, config_name="config.json")
    named = {}
    for name, tensor in weights.items():
        prefix, _, last = name.rpartition(".")
        named[f"{prefix}.{_STORED.get(last, last)}"] = tensor.detach().float().contiguous().cpu()
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def save_assets(
    folder: Path,
    config: Wav2Vec2Config,
    vocabulary: Vocabulary | None,
    *,
    config_name: str = "shape.json",
    languages: Sequence[str] = (),
) -> None:
    """Shape, vocabulary and what goes with them, as JSON in Hugging Face's keys (and `languages`, which is ours)."""
    _write(folder / config_name, config.to_checkpoint() | ({"languages": list(languages)} if languages else {}))
    do_normalize = True if vocabulary is None else vocabulary.normalise
    _write(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "do_normalize": do_normalize,
            "feature_size": 1,
            "padding_value": 0.0,
            "return_attention_mask": config.norm == "layer",
            "sampling_rate": 16000,
        },
    )
    if vocabulary is not None:
        _write(folder / "vocab.json", {label: number for number, label in enumerate(vocabulary.labels) if label})
        described = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": vocabulary.labels[config.blank_id],
            "word_delimiter_token": vocabulary.word_separator,
        }
        unknown = [label for label in vocabulary.special if "unk" in label]
        _write(folder / "tokenizer_config.json", described | ({"unk_token": unknown[0]} if unknown else {}))


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
