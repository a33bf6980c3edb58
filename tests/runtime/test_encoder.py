"""The encoder's runtime against the official implementation's vectors, and its front end."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from linnet.bundle import Bundle
from linnet.errors import BundleCorruptError, ConfigError
from linnet.features import WHISPER_128, log_mel
from linnet.runtime.encoder import Encoder, clip_features
from linnet.runtime.qwen3_asr import _read_config

TOLERANCE = 2e-4  # fp32 in another order of summation


@pytest.mark.parametrize("attention", ["windowed", "full"])
def test_embeddings_equal_the_official_ones(
    golden: Path, tiny_bundle: Bundle, attention: Literal["windowed", "full"]
) -> None:
    vectors = np.load(golden / "qwen3_asr/cases.npz")
    encoder = Encoder(tiny_bundle.path, _read_config(tiny_bundle), attention=attention, threads=1)
    names = sorted({name.split(".")[0] for name in vectors.files})
    assert names
    for name in names:
        audio = encoder(vectors[f"{name}.mel"])
        np.testing.assert_allclose(audio, vectors[f"{name}.encoder_{attention}"], atol=TOLERANCE, err_msg=name)


def test_a_long_clip_is_the_sum_of_its_windows(tiny_bundle: Bundle) -> None:
    # 6 full windows of 800 frames pass in two calls; each must equal the window alone.
    config = _read_config(tiny_bundle)
    encoder = Encoder(tiny_bundle.path, config, threads=1)
    mel = np.random.default_rng(0).standard_normal((config.n_mels, 6 * 800 + 30)).astype(np.float32)
    whole = encoder(mel)
    assert whole.shape == (config.audio_tokens(mel.shape[1]), config.output_dim)
    for window in range(6):
        alone = encoder(mel[:, window * 800 : (window + 1) * 800])
        np.testing.assert_allclose(whole[window * 104 : (window + 1) * 104], alone, atol=TOLERANCE)


@pytest.mark.parametrize(("samples", "frames"), [(160, 50), (7999, 50), (8000, 50), (8160, 51)])
def test_clips_below_half_a_second_are_padded(samples: int, frames: int) -> None:
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
    mel = clip_features(wave, WHISPER_128)
    assert mel.shape == (128, frames)
    np.testing.assert_array_equal(mel, log_mel(np.concatenate([wave, np.zeros(max(0, 8000 - samples))]), WHISPER_128))


def test_wrong_input_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    config = _read_config(tiny_bundle)
    with pytest.raises(ConfigError, match="attention"):
        Encoder(tiny_bundle.path, config, attention="sparse")  # type: ignore[arg-type]
    encoder = Encoder(tiny_bundle.path, config, threads=1)
    for shape in [(80, 100), (128, 0), (1, 128, 100)]:
        with pytest.raises(ConfigError, match="log-mel"):
            encoder(np.zeros(shape, np.float32))
    (tmp_path / "encoder_conv.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleCorruptError, match="encoder_conv"):
        Encoder(tmp_path, config)
