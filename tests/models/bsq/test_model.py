"""The network: masks, time and frequency, positions, lengths, and each defect of the published audio port."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import bsq_runs
from linnet.errors import ConfigError
from linnet.features import FeatureSpec, log_mel, mel_filters
from linnet.models.bsq.model import Convolution, token_mask, visible
from linnet.models.bsq.waveform import WaveformLoss, inverse_stft
from linnet.runtime.bsq_config import FEATURES, BSQConfig
from linnet.runtime.istft import InverseSTFT, griffin_lim, istft, magnitudes, stft

CONFIGS = {
    "blocks": bsq_runs.TINY,
    "whole": replace(bsq_runs.TINY, block_tokens=None),
    "causal": bsq_runs.causal(),
    "without convolution": replace(bsq_runs.TINY, convolution=False),
}


def pictures(tokens: list[int], bands: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(len(tokens), max(tokens) * 2, bands, generator=torch.Generator().manual_seed(seed)) * 3 - 8


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_batch_gives_what_each_clip_gives_alone(kind: str) -> None:
    """Padding means nothing, whatever its value (the published port padded with the loudest one)."""
    bsq, tokens = bsq_runs.model(CONFIGS[kind]), [37, 12, 1, 25]
    mels, mask = pictures(tokens), token_mask(tokens)
    padding = ~mask.repeat_interleave(2, dim=1)
    together = bsq(mels.masked_fill(padding[..., None], 50.0), mask)
    assert bsq.waveform is not None
    waves = bsq.waveform(together.hidden, mask)
    for row, count in enumerate(tokens):
        alone = bsq(mels[row : row + 1, : 2 * count], token_mask([count]))
        # float32 sums in another order; bits are compared exactly
        torch.testing.assert_close(together.log_mel[row, : 2 * count], alone.log_mel[0], rtol=0, atol=2e-5)
        assert torch.equal(together.quantized.codes[row, :count] > 0, alone.quantized.codes[0] > 0)
        wave = bsq.waveform(alone.hidden, token_mask([count]))[0]
        torch.testing.assert_close(
            waves[row, : count * 320], wave, rtol=0, atol=1e-4 * float(wave.detach().abs().max())
        )
        assert not waves[row, count * 320 :].any()


@pytest.mark.parametrize("tokens", [1, 2, 9, 511, 512, 513, 700])
def test_any_number_of_frames(tokens: int) -> None:
    """The published port took 1024 frames (512 tokens), neither more nor fewer."""
    bsq = bsq_runs.model()
    ids = bsq.encode(pictures([tokens]), token_mask([tokens]))
    picture, wave = bsq.decode(ids, token_mask([tokens]))
    assert ids.shape == (1, tokens) and picture.shape == (1, 2 * tokens, 40)
    assert wave is not None and wave.shape == (1, 320 * tokens)


def test_the_convolution_runs_along_time_and_not_along_frequency() -> None:
    """In the published port neighbours along the convolution were patches of one moment, frequency fastest."""
    torch.manual_seed(0)
    config = CONFIGS["whole"]
    module, mask = Convolution(config).eval(), token_mask([40])
    x = torch.randn(1, 40, config.d_model)
    changed = x.clone()
    changed[:, 20] = torch.randn(config.d_model)
    moved = (module(changed, mask) - module(x, mask)).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(17, 24))  # kernel 7: three tokens, 60 ms, on each side
    # One token holds all bands of its frames, so a convolution has no frequency axis to run along.
    mels = pictures([40])
    louder = mels.clone()
    louder[:, 40:42, 5] += 9.0
    bsq = bsq_runs.model(config)
    embedded = [bsq.encoder.embed(m.unflatten(1, (-1, 2)).flatten(2)) for m in (mels, louder)]
    moved = (embedded[1] - embedded[0]).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [20]


@pytest.mark.parametrize(("kind", "last"), [("blocks", 29), ("causal", 20)])
def test_streaming_models_do_not_look_beyond_their_block(kind: str, last: int) -> None:
    bsq, mask = bsq_runs.model(CONFIGS[kind]), token_mask([60])
    mels = pictures([60])
    changed = mels.clone()
    changed[:, 2 * (last + 1) :] = pictures([60], seed=1)[:, 2 * (last + 1) :]
    before, after = (bsq.encoder(bsq.normalise(m), mask)[0] for m in (mels, changed))
    torch.testing.assert_close(before[: last + 1], after[: last + 1], rtol=0, atol=1e-5)
    assert (before - after)[last + 1 :].abs().amax(-1).min() > 1e-3


def test_attention_sees_block_and_left_context() -> None:
    allowed = visible(50, bsq_runs.TINY)  # blocks of 10, 15 to the left
    assert allowed[34].nonzero().flatten().tolist() == list(range(15, 40))
    assert allowed[3].nonzero().flatten().tolist() == list(range(10))
    assert visible(50, CONFIGS["whole"]).all()
    assert torch.equal(visible(9, replace(bsq_runs.causal(), left_tokens=100)), torch.ones(9, 9).tril().bool())


def test_only_differences_of_positions_matter() -> None:
    """Rotary: what stands 60 tokens later has the same bits, so no length was trained for."""
    bsq = bsq_runs.model()
    quiet = torch.full((1, 120, 40), -20.0)
    mels = pictures([40])
    once = bsq.encode(torch.cat([quiet, mels], dim=1), token_mask([100]))
    later = bsq.encode(torch.cat([quiet, quiet, mels], dim=1), token_mask([160]))
    differing = once[0, 60:] != later[0, 120:]
    assert int(differing.sum()) <= 1


def test_loud_speech_is_not_clamped() -> None:
    """The published port clamped at 0 dB; the log-mel of speech reaches +20 to +35 dB."""
    spec, rng = bsq_runs.TINY.features, np.random.default_rng(0)
    loud = log_mel(0.9 * np.sign(rng.standard_normal(16_000)).astype(np.float32), spec)
    assert 10 / np.log(10) * loud.max() > 0  # above the clamp
    louder = log_mel(30 * np.sign(rng.standard_normal(16_000)).astype(np.float32), spec)
    assert 10 / np.log(10) * louder.max() > 25
    bsq = bsq_runs.model()
    mel = torch.from_numpy(louder.T.copy())
    back = bsq.normalise(mel) * bsq.mel_std + bsq.mel_mean
    torch.testing.assert_close(back, mel, rtol=1e-5, atol=1e-5)
    # and 6 dB more are 6 dB more, at any level
    torch.testing.assert_close(
        bsq.normalise(torch.from_numpy(log_mel(np.full(4000, 8.0, np.float32), spec))[0, 5] * torch.ones(40))
        - bsq.normalise(torch.from_numpy(log_mel(np.full(4000, 4.0, np.float32), spec))[0, 5] * torch.ones(40)),
        2 * np.log(2) / bsq.mel_std,
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip


def test_gradient_checkpointing_changes_no_gradient() -> None:
    bsq, mask = bsq_runs.model().train(), token_mask([20])
    gradients = []
    for checkpointing in (False, True):
        bsq.encoder.layers.gradient_checkpointing = bsq.decoder.layers.gradient_checkpointing = checkpointing
        bsq.zero_grad()
        bsq(pictures([20]), mask).log_mel.square().mean().backward()
        gradients.append([p.grad.clone() for p in bsq.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_hidden_tokens_leave_no_trace() -> None:
    bsq, mask = bsq_runs.model(), token_mask([20])
    bsq.encoder.allow_masking()
    hidden = torch.zeros(1, 20, dtype=torch.bool)
    hidden[0, 5:9] = True
    mels = pictures([20])
    changed = mels.clone()
    changed[:, 10:18] += 5.0
    first, second = (bsq(m, mask, hidden).log_mel for m in (mels, changed))
    torch.testing.assert_close(first, second)


def test_bitrates_of_the_presets() -> None:
    for bits, rate in ((9, 450), (18, 900), (36, 1800)):
        assert BSQConfig(bits=bits, mel_mean=(), mel_std=()).bits_per_s == rate
    for features in FEATURES.values():
        assert BSQConfig(features=features).tokens_per_s == 50
        assert mel_filters(features).sum(1).min() > 0  # no band without a bin


@pytest.mark.parametrize(
    "change",
    [{"heads": 5}, {"d_model": 51, "heads": 3}, {"kernel_size": 4}, {"block_tokens": 0}, {"left_tokens": -1},
     {"mel_mean": (1.0,)}, {"features": FeatureSpec(log="whisper")},
     {"features": FeatureSpec(n_fft=200, hop_length=160, n_mels=40, log="natural")}],
)  # fmt: skip
def test_impossible_shapes_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(bsq_runs.TINY, **change)  # type: ignore[arg-type]


def test_a_shape_comes_back_from_json() -> None:
    assert BSQConfig.from_dict(bsq_runs.TINY.to_dict()) == bsq_runs.TINY
    with pytest.raises(ConfigError, match="not the shape"):
        BSQConfig.from_dict({"bits": 9})
    with pytest.raises(ConfigError, match="not the shape"):
        BSQConfig.from_dict({**bsq_runs.TINY.to_dict(), "colour": "red"})


@pytest.mark.parametrize("kind", FEATURES)
def test_inverse_transforms_give_the_sound_back(kind: str) -> None:
    """NumPy's, torch's, and in pieces: the same samples as went in (weights of the windows' edges are small)."""
    spec, rng = FEATURES[kind], np.random.default_rng(0)
    samples = rng.standard_normal(40 * spec.hop_length).astype(np.float32)
    frames = stft(samples, spec)
    inner = slice(0, len(samples) - spec.n_fft)  # the last frame would be centred at N and is left out
    np.testing.assert_allclose(istft(frames, spec)[inner], samples[inner], rtol=0, atol=2e-3)
    window = torch.hann_window(spec.n_fft)
    ours = inverse_stft(torch.from_numpy(frames)[None], spec, window, torch.ones(1, 40, dtype=torch.bool))[0]
    np.testing.assert_allclose(istft(frames, spec), ours, rtol=0, atol=2e-3)
    inverse = InverseSTFT(spec)
    pieces = [inverse.push(frames[start : start + 7]) for start in range(0, 40, 7)]
    given = sum(len(piece) for piece in pieces)
    np.testing.assert_allclose(
        np.concatenate([*pieces, inverse.finish(len(samples) - given)]), istft(frames, spec), rtol=0, atol=1e-5
    )


def test_griffin_lim_comes_close_to_the_log_mel_it_was_given(clip: object) -> None:
    from linnet.audio import read_audio

    spec, samples = FEATURES["speech"], read_audio(clip)[:32_000]  # type: ignore[arg-type]
    mel = log_mel(samples, spec).T
    found = griffin_lim(mel, spec, iterations=16)
    assert found.shape == (32_000,)
    np.testing.assert_array_equal(found, griffin_lim(mel, spec, iterations=16))
    distance = np.abs(log_mel(found, spec).T - mel).mean()
    assert distance < 0.35 * np.abs(mel - mel.mean(0)).mean()
    # the magnitudes themselves have this mel
    again = np.log(np.maximum(magnitudes(mel, spec) ** 2 @ mel_filters(spec).T, 1e-10))
    assert np.abs(again - mel).mean() < 0.1


def test_waveform_losses_know_right_from_wrong() -> None:
    torch.manual_seed(0)
    loss, wave = WaveformLoss(FEATURES["speech"]), torch.randn(2, 8000) * 0.1
    lengths = torch.tensor([8000, 8000])
    same, other = loss(wave, wave, lengths), loss(wave.flip(1) * 2, wave, lengths)
    assert float(same.stft.sum()) == 0 == float(same.log_mel.sum())
    assert float(other.stft.min()) > 0.5 and float(other.log_mel.min()) > 1
    silent = loss(wave * 0.1, wave * 0, lengths)
    assert torch.isfinite(silent.stft).all()
