"""The written encoder graphs, run by ONNX Runtime, against the official outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from linnet.errors import ExportError
from linnet.export import onnx_graph
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.export.qwen3_asr_encoder import positions, write_encoder
from linnet.export.safetensors import open_checkpoint
from linnet.runtime.providers import session_options
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
AGREEMENT = 2e-4  # the project's bound for other implementations of the same float32 sums; 5e-6 is seen


class Encoder:
    """Chunks, tail and windows by the official rule, written out the slow way."""

    def __init__(self, checkpoint: Path, out: Path, precision: str) -> None:
        self.config: Qwen3ASRConfig = read_config(checkpoint)
        out.mkdir(exist_ok=True)
        with open_checkpoint(checkpoint) as tensors:
            write_encoder(tensors, self.config, out, precision=precision)
        options = session_options(1)
        self.conv_session = ort.InferenceSession(out / "encoder_conv.onnx", options)
        self.session = ort.InferenceSession(out / "encoder.onnx", options)

    def conv(self, mel: FloatArray) -> FloatArray:
        return self.conv_session.run(["hidden"], {"mel": mel})[0]

    def transformer(self, hidden: FloatArray) -> FloatArray:
        return self.session.run(["audio"], {"hidden": hidden})[0]

    def __call__(self, mel: FloatArray, *, windowed: bool) -> FloatArray:
        size, frames, hidden = self.config.chunk_frames, mel.shape[1], []
        for start in range(0, frames, size):
            chunk = mel[:, start : start + size]
            tokens = self.config.chunk_tokens(chunk.shape[1])
            if frames > size:  # the tail of a longer clip is padded with zeros; a clip of one chunk is not
                chunk = np.pad(chunk, ((0, 0), (0, size - chunk.shape[1])))
            hidden.append(self.conv(chunk[None])[0, :tokens])
        joined = np.concatenate(hidden)
        window = self.config.window_tokens if windowed else len(joined)
        starts = range(0, len(joined), window)
        return np.concatenate([self.transformer(joined[None, start : start + window])[0] for start in starts])


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, FloatArray]:
    return dict(np.load(golden / "qwen3_asr" / "cases.npz"))


@pytest.fixture(scope="module")
def load(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Encoder]:
    made: dict[str, Encoder] = {}

    def encoder(precision: str) -> Encoder:
        if precision not in made:
            made[precision] = Encoder(golden / "qwen3_asr", tmp_path_factory.mktemp(precision), precision)
        return made[precision]

    return encoder


@pytest.mark.parametrize("attention", ["full", "windowed"])
def test_float_encoder_agrees_with_the_official_one(
    load: Callable[[str], Encoder], cases: dict[str, FloatArray], attention: str
) -> None:
    encoder = load("fp32")
    names = [name.removesuffix(".mel") for name in cases if name.endswith(".mel")]
    assert names
    for name in names:
        audio = encoder(cases[f"{name}.mel"], windowed=attention == "windowed")
        expected = cases[f"{name}.encoder_{attention}"]
        assert audio.shape == expected.shape
        np.testing.assert_allclose(audio, expected, atol=AGREEMENT, rtol=0, err_msg=f"{name} {attention}")


@pytest.mark.parametrize("precision", ["int8", "int8-careful"])
def test_int8_encoder_stays_close_in_every_frame(
    load: Callable[[str], Encoder], cases: dict[str, FloatArray], precision: str
) -> None:
    # Eight bits for weights and activations leave about 3 % of noise; 4-bit encoders, which break recognition, 25 %.
    encoder = load(precision)
    for name in [name for name in cases if name.endswith(".encoder_windowed")]:
        expected = cases[name]
        audio = encoder(cases[name.replace("encoder_windowed", "mel")], windowed=True)
        relative = np.linalg.norm(audio - expected) / np.linalg.norm(expected)
        norms = np.linalg.norm(audio, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = (audio * expected).sum(axis=1) / norms
        assert 1e-3 < relative < 0.05, f"{name}: {relative:.4f} (below 1e-3 it is not int8)"
        assert cosine.min() > 0.998, f"{name}: {cosine.min():.5f}"


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-careful"])
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 16, 17, 50, 99, 100])
def test_tokens_of_a_chunk_follow_the_formula(load: Callable[[str], Encoder], precision: str, frames: int) -> None:
    encoder = load(precision)
    mel = np.random.default_rng(frames).standard_normal((1, encoder.config.n_mels, frames), np.float32)
    hidden = encoder.conv(mel)
    assert hidden.shape == (1, encoder.config.audio_tokens(frames), encoder.config.d_model)
    assert encoder.transformer(hidden).shape == (1, hidden.shape[1], encoder.config.output_dim)


def test_int8_convolution_matches_the_float_one_at_every_length(load: Callable[[str], Encoder]) -> None:
    # Odd and even lengths take the nine slices to different ends.
    int8, fp32 = load("int8"), load("fp32")
    for frames in range(1, 101):
        mel = np.random.default_rng(frames).standard_normal((1, int8.config.n_mels, frames), np.float32)
        exact = fp32.conv(mel)
        relative = np.linalg.norm(int8.conv(mel) - exact) / np.linalg.norm(exact)
        assert relative < 0.03, f"{frames} frames: {relative:.4f}"  # 0.01 is seen; a misplaced slice gives 0.5


def test_batches_equal_single_items(load: Callable[[str], Encoder]) -> None:
    encoder = load("fp32")
    mel = np.random.default_rng(0).standard_normal((3, encoder.config.n_mels, 100), np.float32)
    hidden = encoder.conv(mel)
    singles = np.concatenate([encoder.conv(chunk[None]) for chunk in mel])
    np.testing.assert_allclose(hidden, singles, atol=1e-5)  # float32 sums in another order
    windows = np.random.default_rng(1).standard_normal((4, 104, encoder.config.d_model), np.float32)
    singles = np.concatenate([encoder.transformer(window[None]) for window in windows])
    np.testing.assert_allclose(encoder.transformer(windows), singles, atol=1e-5)


def test_positions_are_whispers_sinusoids() -> None:
    table = positions(13, 8)
    assert table.shape == (13, 8) and table.dtype == np.float32
    for index in range(4):  # written out: rates fall from 1 to 1/10000 in equal ratios
        rate = 10_000 ** (-index / 3)
        np.testing.assert_allclose(table[:, index], np.sin(np.arange(13) * rate), atol=1e-6)
        np.testing.assert_allclose(table[:, 4 + index], np.cos(np.arange(13) * rate), atol=1e-6)


def test_large_weights_lie_beside_the_graph(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Encoder(checkpoint, tmp_path / "inside", "int8")
    monkeypatch.setattr(onnx_graph, "INLINE_BYTES", 0)
    beside = Encoder(checkpoint, tmp_path / "beside", "int8")
    assert sorted(path.name for path in (tmp_path / "inside").iterdir()) == ["encoder.onnx", "encoder_conv.onnx"]
    assert (tmp_path / "beside" / "encoder.onnx.data").stat().st_size > 0
    mel = np.random.default_rng(0).standard_normal((128, 250), np.float32)
    np.testing.assert_array_equal(beside(mel, windowed=True), inside(mel, windowed=True))


@pytest.mark.parametrize("precision", ["int4", "fp16", ""])
def test_other_precisions_are_refused(golden: Path, tmp_path: Path, precision: str) -> None:
    with (
        pytest.raises(ExportError, match=r"accepted: fp32, int8, int8-careful"),
        open_checkpoint(golden / "qwen3_asr") as tensors,
    ):
        write_encoder(tensors, read_config(golden / "qwen3_asr"), tmp_path, precision=precision)


def test_a_failure_leaves_no_files(checkpoint: Path, tmp_path: Path) -> None:
    class Failing:
        def __init__(self, tensors: Any) -> None:
            self.tensors = tensors

        def get(self, name: str) -> FloatArray:
            if "layers.1" in name:
                raise KeyboardInterrupt
            values: FloatArray = self.tensors.get(name)
            return values

    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt), open_checkpoint(checkpoint) as tensors:
        write_encoder(Failing(tensors), read_config(checkpoint), out, precision="fp32")  # type: ignore[arg-type]
    assert [path.name for path in out.iterdir()] == ["encoder_conv.onnx"]
