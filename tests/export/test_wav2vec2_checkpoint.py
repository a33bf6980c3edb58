"""A checkpoint folder as transformers writes it goes through `linnet export` without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from linnet.cli import main
from linnet.errors import CheckpointError
from linnet.export.wav2vec2_checkpoint import canonical_name, read_config, read_vocabulary
from linnet.models.wav2vec2.checkpoint import save_checkpoint
from linnet.models.wav2vec2.model import Wav2Vec2ForCTC, initialise
from linnet.runtime.loader import load_model
from linnet.runtime.wav2vec2_config import Wav2Vec2Config

LABELS = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A"]
CONFIG = Wav2Vec2Config(
    conv_dim=(8,) * 7,
    hidden_size=16,
    layers=1,
    heads=2,
    ffn_dim=16,
    position_kernel=8,
    position_groups=2,
    vocab_size=len(LABELS),
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """As the published CTC models are: no languages, capitals, five special labels."""
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(CONFIG)
    initialise(model)
    folder = tmp_path / "wav2vec2-mini"
    save_checkpoint(folder, model.state_dict(), CONFIG)
    (folder / "vocab.json").write_text(json.dumps({label: i for i, label in enumerate(LABELS)}))
    return folder


def test_export_makes_a_bundle_that_transcribes(
    checkpoint: Path, clip: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(checkpoint), str(tmp_path / "bundle")])
    assert ended.value.code == 0, capsys.readouterr().err
    recognizer = load_model(tmp_path / "bundle", threads=1)
    assert recognizer.bundle.family == "wav2vec2" and recognizer.bundle.precision == {"model": "int8"}
    assert set(recognizer.transcribe(clip).text) <= set("ETA ")
    recognizer.close()


def test_vocabularies_that_do_not_fit_are_named(checkpoint: Path) -> None:
    config = read_config(checkpoint)
    assert read_vocabulary(checkpoint, config).labels == tuple(LABELS)
    (checkpoint / "vocab.json").write_text(json.dumps({"a": 99}))
    with pytest.raises(CheckpointError, match="numbers 'a' 99, but the head has 8"):
        read_vocabulary(checkpoint, config)
    (checkpoint / "vocab.json").write_text(json.dumps({"eng": {"a": 1}}))
    with pytest.raises(CheckpointError, match="vocabularies per language"):
        read_vocabulary(checkpoint, config)
    (checkpoint / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    (checkpoint / "vocab.json").write_text(json.dumps({"a": 1, "[PAD]": 0}))
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "word_delimiter_token": "_"}))
    found = read_vocabulary(checkpoint, config)
    assert (found.normalise, found.word_separator, found.special) == (False, "_", ("[PAD]",))


def test_names_of_all_layouts_become_one() -> None:
    ours = "wav2vec2.encoder.pos_conv_embed.conv.weight_g"
    assert canonical_name("wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0") == ours
    assert canonical_name("encoder.pos_conv_embed.conv.weight_g") == ours
    assert canonical_name("lm_head.bias") == "lm_head.bias"
