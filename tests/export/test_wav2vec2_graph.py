"""The ONNX graph against the torch module: both variants, every precision, any length, normalisation inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from linnet.audio import read_audio
from linnet.bundle import Bundle
from linnet.errors import CheckpointError, ExportError
from linnet.export.wav2vec2 import convert
from linnet.models.wav2vec2.checkpoint import save_checkpoint
from linnet.models.wav2vec2.model import Wav2Vec2ForCTC, initialise, normalise
from linnet.runtime.providers import session_options
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.runtime.wav2vec2_vocabulary import vocabulary_of

VOCABULARY = vocabulary_of([("the quick brown fox jumps over a lazy dog", "en")])
BASE = Wav2Vec2Config(
    conv_dim=(24, 24, 16, 16, 16, 16, 32),
    hidden_size=48,
    layers=2,
    heads=3,
    ffn_dim=80,
    position_kernel=16,
    position_groups=4,
    vocab_size=len(VOCABULARY.labels),
)
VARIANTS = {
    "base": BASE,
    "base with biases": replace(BASE, conv_bias=True, position_kernel=15),
    "large": replace(BASE, norm="layer", pre_norm=True, conv_bias=True),
    "mixed": replace(BASE, norm="layer", conv_bias=True, layer_norm_eps=1e-3),
}


def network(config: Wav2Vec2Config) -> Wav2Vec2ForCTC:
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(config).eval()
    initialise(model, std=0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def bundle_of(config: Wav2Vec2Config, folder: Path, *, precision: str = "fp32") -> tuple[Wav2Vec2ForCTC, Bundle]:
    model = network(config)
    save_checkpoint(folder / "checkpoint", model.state_dict(), config, VOCABULARY)
    return model, convert(folder / "checkpoint", folder / "bundle", precision=precision)


def session(bundle: Bundle) -> Any:
    options = session_options(1)
    options.log_severity_level = 3
    return ort.InferenceSession(str(bundle.file("model.onnx")), options)


@pytest.fixture(scope="module")
def wave(clip: Path) -> np.ndarray:
    """Loud and with an offset, so that normalising matters."""
    return 0.8 * read_audio(clip)[8000:40_000] + 0.1


@torch.no_grad()
def torch_log_probs(model: Wav2Vec2ForCTC, wave: np.ndarray) -> np.ndarray:
    return model(normalise(torch.from_numpy(wave))[None])[0][0].log_softmax(-1).numpy()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_fp32_is_the_torch_module_at_any_length(name: str, wave: np.ndarray, tmp_path: Path) -> None:
    model, bundle = bundle_of(VARIANTS[name], tmp_path)
    run = session(bundle)
    for samples in (400, 719, 720, 5000, len(wave)):
        (found,) = run.run(None, {"samples": wave[None, :samples]})
        expected = torch_log_probs(model, wave[:samples])
        assert found.shape == (1, *expected.shape)
        # The same float32 operations in another order; over one frame, group norm divides by almost nothing.
        tolerance = 1e-3 if samples < 720 else 1e-4
        np.testing.assert_allclose(found[0], expected, atol=tolerance)


@pytest.mark.parametrize("precision", ["int8", "int8-careful"])
def test_eight_bits_stay_near(precision: str, wave: np.ndarray, tmp_path: Path) -> None:
    model, bundle = bundle_of(VARIANTS["large"], tmp_path, precision=precision)
    (found,) = session(bundle).run(None, {"samples": wave[None]})
    expected = torch_log_probs(model, wave)
    # Log-probabilities span about 8; random weights have no outliers, so a tenth of a nat is what eight bits leave.
    assert np.abs(found[0] - expected).mean() < 0.1
    assert (found[0].argmax(1) == expected.argmax(1)).mean() > 0.85
    assert np.abs(found[0] - expected).max() > 1e-5  # it is quantised


def test_given_statistics_replace_the_clips_own(wave: np.ndarray, tmp_path: Path) -> None:
    _, bundle = bundle_of(VARIANTS["large"], tmp_path)
    run = session(bundle)
    statistics = np.array([wave.mean(), np.sqrt(wave.var() + 1e-7)], np.float32)
    (own,) = run.run(None, {"samples": wave[None]})
    (given,) = run.run(None, {"samples": wave[None], "statistics": statistics})
    np.testing.assert_allclose(own, given, atol=1e-4)
    (other,) = run.run(None, {"samples": wave[None], "statistics": 3 * statistics})
    assert np.abs(own - other).max() > 0.1


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    config = replace(BASE, vocab_size=0)
    save_checkpoint(tmp_path / "checkpoint", {"wav2vec2.masked_spec_embed": torch.zeros(48)}, config)
    with pytest.raises(CheckpointError, match=r"without a CTC head.*--init-from"):
        convert(tmp_path / "checkpoint", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_bad_choices_and_foreign_tensors_are_named(tmp_path: Path) -> None:
    bundle_of(BASE, tmp_path)
    with pytest.raises(ExportError, match="accepted: fp32, int8, int8-careful"):
        convert(tmp_path / "checkpoint", tmp_path / "other", precision="int4")
    with pytest.raises(ExportError, match="already holds a bundle"):
        convert(tmp_path / "checkpoint", tmp_path / "bundle")
    model = network(BASE)
    weights = model.state_dict() | {"wav2vec2.adapter.layers.0.conv.weight": torch.zeros(1)}
    save_checkpoint(tmp_path / "foreign", weights, BASE, VOCABULARY)
    with pytest.raises(CheckpointError, match=r"1 tensors that wav2vec 2.0 does not know: wav2vec2\.adapter"):
        convert(tmp_path / "foreign", tmp_path / "other")
    wrong = model.state_dict() | {"lm_head.bias": torch.zeros(3)}
    save_checkpoint(tmp_path / "wrong", wrong, BASE, VOCABULARY)
    with pytest.raises(CheckpointError, match=r"'lm_head.bias' has shape \[3\]"):
        convert(tmp_path / "wrong", tmp_path / "other")
