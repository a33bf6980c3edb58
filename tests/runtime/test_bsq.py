"""The tokenizer in ONNX Runtime: against torch, streaming against offline, any length, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bsq_runs
from linnet.audio import read_audio
from linnet.bundle import read_bundle
from linnet.codes import Codes
from linnet.errors import AudioContentError, BundleError, CodesError, ConfigError, ExportError
from linnet.features import log_mel
from linnet.models.bsq.data import whole_tokens
from linnet.models.bsq.export import export_run
from linnet.models.bsq.model import BSQ, token_mask
from linnet.runtime.bsq import BSQCodec
from linnet.runtime.bsq_config import MUSIC
from linnet.runtime.loader import load_codec, load_model


@pytest.fixture(scope="module")
def bsq() -> BSQ:
    return bsq_runs.model()


@pytest.fixture(scope="module")
def bundle(bsq: BSQ, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bsq")
    run = bsq_runs.write_run(folder / "run", bsq)
    return export_run(run, folder / "bundle").path


@pytest.fixture(scope="module")
def codec(bundle: Path) -> BSQCodec:
    return load_codec(bundle, threads=1)


@pytest.fixture(scope="module")
def speech(clip: Path) -> np.ndarray:
    return read_audio(clip)[: 16_000 * 3 + 123]


def torch_ids(bsq: BSQ, samples: np.ndarray) -> np.ndarray:
    samples = whole_tokens(samples, bsq.config)
    mel = torch.from_numpy(log_mel(samples, bsq.config.features).T.copy())[None]
    return bsq.encode(mel, token_mask([len(samples) // bsq.config.token_samples]))[0].numpy()


def test_tokens_are_those_of_the_whole_recording_in_torch(codec: BSQCodec, bsq: BSQ, speech: np.ndarray) -> None:
    """Caches, rotated positions and convolutions block by block against one masked pass over everything."""
    found, expected = codec.encode(speech), torch_ids(bsq, speech)
    assert len(found.ids) == len(expected) > 5 * bsq.config.block_tokens  # type: ignore[operator]
    flipped = sum(int(word).bit_count() for word in found.ids ^ expected)
    assert flipped <= 2  # of 2700: a latent within rounding of zero may fall on either side
    assert len(set(found.ids.tolist())) > 50


def test_sound_is_that_of_torch(codec: BSQCodec, bsq: BSQ, speech: np.ndarray) -> None:
    codes = codec.encode(speech)
    picture, wave = bsq.decode(torch.from_numpy(codes.ids)[None], token_mask([len(codes.ids)]))
    assert wave is not None
    np.testing.assert_allclose(codec.decode_mel(codes), picture[0], rtol=0, atol=2e-4)
    sound = codec.decode(codes, vocoder="head")
    assert len(sound) == len(speech) and np.abs(sound).max() > 1e-3
    np.testing.assert_allclose(sound, wave[0, : len(speech)], rtol=0, atol=1e-3 * float(np.abs(sound).max()))


@pytest.mark.parametrize("piece", [1, 160, 333, 5000, 47_000])
def test_streaming_equals_offline_to_the_bit(codec: BSQCodec, speech: np.ndarray, piece: int) -> None:
    speech = speech[:9000] if piece == 1 else speech
    offline = codec.encode(speech)
    stream = codec.stream_encoder()
    parts = [stream.push(speech[start : start + piece]) for start in range(0, len(speech), piece)]
    ids = np.concatenate([*parts, stream.finish()])
    assert codec.codes(ids, stream.samples) == offline
    decoder = codec.stream_decoder()
    count = max(1, piece // 320)
    heard = [decoder.push(offline.ids[start : start + count]) for start in range(0, len(offline.ids), count)]
    sound = np.concatenate([*heard, decoder.finish()])[: offline.samples]
    np.testing.assert_array_equal(sound, codec.decode(offline, vocoder="head"))


def test_tokens_come_before_the_recording_ends(codec: BSQCodec, speech: np.ndarray) -> None:
    stream = codec.stream_encoder()
    waited = round(codec.latency_s * 16_000)
    assert len(stream.push(speech[:waited])) == codec.config.block_tokens
    decoder = codec.stream_decoder()
    assert len(decoder.push(codec.encode(speech).ids[:10])) == 10 * 320 - 320


@pytest.mark.parametrize("samples", [1, 159, 320, 321, 800, 3200, 3201, 3520, 6400, 16_001])
def test_any_length_comes_back_as_long_as_it_was(codec: BSQCodec, bsq: BSQ, speech: np.ndarray, samples: int) -> None:
    codes = codec.encode(speech[5000 : 5000 + samples])
    assert len(codes.ids) == -(-samples // 320)
    assert sum(int(word).bit_count() for word in codes.ids ^ torch_ids(bsq, speech[5000 : 5000 + samples])) <= 1
    for vocoder in ("head", "griffin-lim"):
        sound = codec.decode(codes, vocoder=vocoder)  # type: ignore[arg-type]
        assert sound.shape == (samples,) and np.isfinite(sound).all()


def test_a_long_recording_is_its_parts(codec: BSQCodec, speech: np.ndarray) -> None:
    """Nothing depends on the position: after silence longer than all context, the same sound has the same tokens."""
    silence = np.zeros(320 * 10 * 12, np.float32)
    twice = codec.encode(np.concatenate([silence, speech[:32_000], silence, silence, speech[:32_000], silence]))
    first, second = 120, 120 + 100 + 240
    assert np.array_equal(twice.ids[first + 2 : first + 98], twice.ids[second + 2 : second + 98])


def test_blocks_are_the_whole_and_bounded(codec: BSQCodec, speech: np.ndarray) -> None:
    long = np.tile(speech, 1 + 50 * 16_000 // len(speech))[: 50 * 16_000 + 123]  # 2501 tokens, the last one not full
    codes = codec.encode(long)
    seen: list[float] = []
    blocks = list(codec.decode_blocks(codes, progress=lambda done, total: seen.append(done / total)))
    assert len(blocks) >= 3 and max(map(len, blocks)) <= 21 * 16_000  # 1000 tokens are 20 s, and a block may be waiting
    np.testing.assert_array_equal(np.concatenate(blocks), codec.decode(codes))
    assert len(np.concatenate(blocks)) == len(long)
    assert seen == sorted(seen) and 0.3 < seen[0] < 0.5 and seen[-1] <= 1


def test_files_and_arrays_agree(codec: BSQCodec, clip: Path) -> None:
    assert codec.encode(clip) == codec.encode(read_audio(clip))
    assert codec.encode(str(clip)).samples == len(read_audio(clip))


@pytest.mark.parametrize("precision", ["int8", "int8_blocks"])
def test_eight_bits_stay_close(precision: str, bsq: BSQ, tmp_path: Path, codec: BSQCodec, speech: np.ndarray) -> None:
    run = bsq_runs.write_run(tmp_path / "run", bsq)
    small = load_codec(export_run(run, tmp_path / "bundle", precision=precision).path)  # type: ignore[arg-type]
    flips = small.bundle.parity["flipped_bits"]
    assert 0 < flips < 0.05  # something was rounded, and little was lost
    codes = codec.encode(speech)
    assert small.fingerprint == codec.fingerprint  # codes may be decoded at any precision
    np.testing.assert_allclose(small.decode_mel(codes), codec.decode_mel(codes), rtol=0, atol=1.5)


def test_every_token_on_its_own(tmp_path: Path, speech: np.ndarray) -> None:
    """block_tokens=1 is causal; with music's frames the analysis reaches further than a block."""
    for config in (bsq_runs.causal(), replace(bsq_runs.causal(), features=MUSIC, mel_mean=(), mel_std=())):
        bsq = bsq_runs.model(config)
        run = bsq_runs.write_run(tmp_path / str(config.features.n_mels), bsq)
        codec = load_codec(export_run(run, run / "bundle").path)
        found = codec.encode(speech[:20_000], sample_rate_hz=config.features.sample_rate_hz)
        assert sum(int(word).bit_count() for word in found.ids ^ torch_ids(bsq, speech[:20_000])) <= 2
        assert codec.decode(found, vocoder="head").shape == (20_000,)


def test_a_model_without_convolutions_and_waveform_head(tmp_path: Path, speech: np.ndarray) -> None:
    bsq = bsq_runs.model(replace(bsq_runs.TINY, convolution=False, waveform_channels=0))
    codec = load_codec(export_run(bsq_runs.write_run(tmp_path / "run", bsq), tmp_path / "bundle").path)
    codes = codec.encode(speech[:16_000])
    assert sum(int(word).bit_count() for word in codes.ids ^ torch_ids(bsq, speech[:16_000])) <= 1
    assert codec.decode(codes).shape == (16_000,)
    with pytest.raises(ConfigError, match="no waveform head"):
        codec.decode(codes, vocoder="head")


def test_codes_of_another_tokenizer_are_refused(codec: BSQCodec, tmp_path: Path, speech: np.ndarray) -> None:
    other = export_run(bsq_runs.write_run(tmp_path / "run", bsq_runs.model(seed=1)), tmp_path / "bundle")
    with pytest.raises(CodesError, match="Decode with the bundle"):
        codec.decode(BSQCodec(other).encode(speech[:4000]))
    with pytest.raises(CodesError, match="9 bits"):
        codec.decode(Codes(np.zeros(1, np.int64), 9, 320, 16_000, 320))


def test_bad_samples_are_refused(codec: BSQCodec) -> None:
    for samples in (np.zeros(0, np.float32), np.full(800, np.nan, np.float32), np.zeros((800, 2), np.float32)):
        with pytest.raises(AudioContentError):
            codec.encode(samples)
    with pytest.raises(ConfigError, match="Unknown vocoder"):
        codec.decode(codec.encode(np.zeros(800, np.float32)), vocoder="lpc")  # type: ignore[arg-type]


def test_digital_silence_and_clipping_are_sounds(codec: BSQCodec) -> None:
    for samples in (np.zeros(8000, np.float32), np.ones(8000, np.float32), 40 * np.ones(8000, np.float32)):
        assert np.isfinite(codec.decode(codec.encode(samples))).all()


def test_bundles_of_other_families_are_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="family 'bsq'"):
        load_codec("nano")
    with pytest.raises(BundleError, match="recognises speech"):
        load_model(bundle)


def test_a_model_that_needs_the_whole_recording_is_not_exported(tmp_path: Path) -> None:
    run = bsq_runs.write_run(tmp_path / "run", bsq_runs.model(replace(bsq_runs.TINY, block_tokens=None)))
    with pytest.raises(ExportError, match="block_tokens=None"):
        export_run(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(ExportError, match="not offered"):
        export_run(run, tmp_path / "bundle", precision="int4")  # type: ignore[arg-type]


def test_an_export_replaces_nothing(bundle: Path) -> None:
    before = read_bundle(bundle)
    with pytest.raises(ExportError, match="already holds a bundle"):
        export_run(bundle.parent / "run", bundle)
    assert read_bundle(bundle) == before
