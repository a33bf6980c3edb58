"""Adapters: what the published operator is, that they start as the base, and what may not change their result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linnet.errors import ConfigError, TrainingError
from linnet.export.qwen3_asr_adapter import (
    MODES,
    AdapterConfig,
    Mode,
    count_parameters,
    fourier,
    parse_sites,
    real_fourier,
)
from linnet.models.qwen3_asr.adapters import (
    Adapter,
    adapter_weights,
    add_adapters,
    base_only,
    check_trainable,
    published_transform,
)
from linnet.models.qwen3_asr.model import KVCache, Qwen3ASR
from linnet.runtime.prompt import build_prompt
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

EVERYWHERE = ("encoder.0", "encoder.1", "encoder.output")
MIXED = [mode for mode in MODES if mode != "lora"]


def clips(*frames: int) -> list[Tensor]:
    return [torch.from_numpy(np.random.default_rng(n).standard_normal((128, n), np.float32)) for n in frames]


def moved(asr: Qwen3ASR) -> Qwen3ASR:
    """The adapters as if they were trained: away from zero."""
    torch.manual_seed(1)
    for parameter in asr.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return asr


@pytest.fixture
def adapted(model: Qwen3ASR) -> Callable[..., Qwen3ASR]:
    def make(mode: Mode, *, trained: bool = True, sites: tuple[str, ...] = EVERYWHERE, **options: object) -> Qwen3ASR:
        add_adapters(model, AdapterConfig(mode=mode, bottleneck=6, sites=sites, **options))  # type: ignore[arg-type]
        return moved(model) if trained else model

    return make


# --- the operators -------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 24), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_published_operator_is_the_identity(tokens: int, width: int, seed: int) -> None:
    """FFT along time, FFT along the width, then the inverse of both: nothing is mixed, at any size."""
    z = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, tokens, width)))
    # Rounding of a few additions in float64 on values of about 1; 1.8e-15 is what is seen at 104 × 64.
    torch.testing.assert_close(published_transform(z), z, atol=1e-13, rtol=0)


def operator(mode: Mode, shape: Qwen3ASRConfig, inner: int) -> np.ndarray:
    """What a mode does to a whole window, as a matrix [N·b, N·b]."""
    config = AdapterConfig(mode=mode, bottleneck=inner)
    (site,) = parse_sites(config, shape)
    adapter = Adapter(config, site, shape)
    basis = torch.eye(shape.window_tokens * inner).reshape(-1, shape.window_tokens, inner)
    return adapter.mix(adapter, basis).flatten(1).T.numpy()


def grid(config: Qwen3ASRConfig) -> Qwen3ASRConfig:
    """The 13 × 8 grid of the documentation."""
    from dataclasses import replace

    return replace(config, window_tokens=13)


def test_the_published_formula_drops_half_and_hartley_drops_nothing(config: Qwen3ASRConfig) -> None:
    fnet, hartley = operator("fnet", grid(config), 8), operator("hartley", grid(config), 8)
    assert np.linalg.matrix_rank(fnet) == 53  # of 104
    assert np.linalg.matrix_rank(hartley) == 104
    np.testing.assert_allclose(hartley @ hartley.T, np.eye(104), atol=2e-6)  # float32 sums of 104 products


def test_constant_matrices_are_the_fft(config: Qwen3ASRConfig) -> None:
    z = np.random.default_rng(0).standard_normal((13, 8))
    spectrum = np.fft.fft2(z, norm="ortho")
    for mode, expected in (("fnet", spectrum.real), ("hartley", spectrum.real - spectrum.imag)):
        found = operator(mode, grid(config), 8) @ z.ravel()
        np.testing.assert_allclose(found, expected.ravel(), atol=5e-6)  # float32 against float64


@pytest.mark.parametrize("size", [1, 2, 7, 100, 104])
def test_real_fourier_analyses_and_synthesises(size: int) -> None:
    analysis, synthesis = real_fourier(size)
    signal = np.random.default_rng(size).standard_normal(size)
    spectrum = np.fft.rfft(signal, norm="ortho")
    np.testing.assert_allclose(analysis @ signal, np.concatenate([spectrum.real, spectrum.imag]), atol=5e-6)
    np.testing.assert_allclose(synthesis @ analysis, np.eye(size), atol=2e-6)
    cosine, sine = fourier(size)
    np.testing.assert_allclose(cosine @ cosine + sine @ sine, np.eye(size), atol=2e-6)


def test_a_gate_filters_along_time_as_a_circular_convolution(config: Qwen3ASRConfig) -> None:
    (site,) = parse_sites(AdapterConfig(mode="gate"), grid(config))
    adapter = Adapter(AdapterConfig(mode="gate"), site, grid(config))
    inner = adapter.down.out_features
    rng = np.random.default_rng(0)
    kernel, z = rng.standard_normal((13, inner)), rng.standard_normal((13, inner))
    factors = np.fft.rfft(kernel, axis=0)
    adapter.filter.data = torch.from_numpy(np.stack([factors.real, factors.imag]).astype(np.float32))
    slow = np.array(
        [[sum(kernel[k, c] * z[(n - k) % 13, c] for k in range(13)) for c in range(inner)] for n in range(13)]
    )
    found = adapter.mix(adapter, torch.from_numpy(z[None].astype(np.float32)))[0]
    expected = torch.nn.functional.gelu(torch.from_numpy(slow))
    np.testing.assert_allclose(found.detach().numpy(), expected.numpy(), atol=2e-5)


# --- in the network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_adapted_model_starts_as_its_base(
    model: Qwen3ASR, mode: Mode, tokenizer: object, config: Qwen3ASRConfig
) -> None:
    mels = clips(830, 120, 45)
    prompts = [build_prompt(tokenizer, config.audio_tokens(mel.shape[1])).ids for mel in mels]  # type: ignore[arg-type]
    with torch.no_grad():
        before = model.audio_tower(mels)
        answers = model.generate(mels, prompts, max_new_tokens=5)
        sites = EVERYWHERE if mode == "lora" else (*EVERYWHERE, "decoder.1")
        add_adapters(model, AdapterConfig(mode=mode, bottleneck=6, sites=sites))
        after = model.audio_tower(mels)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert model.generate(mels, prompts, max_new_tokens=5) == answers
        moved(model)
        assert not torch.allclose(model.audio_tower(mels)[0], before[0], atol=1e-3)
        with base_only(model):
            assert all(torch.equal(a, b) for a, b in zip(before, model.audio_tower(mels), strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attention", ["windowed", "full"])
def test_neither_neighbours_nor_padding_change_a_clip(
    adapted: Callable[..., Qwen3ASR], mode: Mode, attention: str
) -> None:
    tower = adapted(mode).audio_tower
    tower.attention = attention  # type: ignore[assignment]
    mels = clips(1690, 130, 30, 800)  # two windows and a rest; a short clip; a fraction of a chunk; a window exactly
    with torch.no_grad():
        together = tower(mels)
        for mel, expected in zip(mels, together, strict=True):
            # Other batch shapes take other paths through the matrix kernels: the last bits of sums of some hundred.
            torch.testing.assert_close(tower([mel])[0], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MIXED)
def test_a_window_never_hears_the_next(adapted: Callable[..., Qwen3ASR], mode: Mode) -> None:
    tower = adapted(mode, sites=("encoder.output",)).audio_tower
    adapter = tower.adapters["output"]
    x = torch.randn(2, 150, 32)
    keep = torch.ones(2, 150, dtype=torch.bool)
    keep[1, 120:] = False
    with torch.no_grad():
        before = adapter(x, keep)
        changed = x.clone()
        changed[:, 104:] += 1.0  # the second window, and what lies in its padding
        after = adapter(changed, keep)
        assert torch.equal(before[:, :104], after[:, :104])
        x[1, 120:] = 1e4  # padding may hold anything
        torch.testing.assert_close(adapter(x, keep)[1, :120], before[1, :120])


@pytest.mark.parametrize("mode", MIXED)
def test_decoder_adapters_agree_between_prefill_and_steps(
    adapted: Callable[..., Qwen3ASR], mode: Mode, tokenizer: object, config: Qwen3ASRConfig
) -> None:
    """Teacher forcing sees the whole answer at once, decoding one token at a time: they must give the same."""
    asr = adapted(mode, sites=("decoder.0", "decoder.2"))
    (mel,) = clips(900)  # more than one window
    prompt = build_prompt(tokenizer, config.audio_tokens(900)).ids  # type: ignore[arg-type]
    answer = [5, 9, 30, 31, 7]
    with torch.no_grad():
        whole = asr([mel], torch.tensor([prompt + answer]))[0]
        tokens = torch.tensor([prompt])
        caches = [KVCache() for _ in asr.model.layers]
        embeddings = asr.embed(tokens, asr.audio_tower([mel]))
        states = [asr.model(embeddings, caches=caches, audio_places=asr.audio_places(tokens))[0]]
        for token in answer:
            states.append(asr.model(asr.model.embed_tokens(torch.tensor([[token]])), caches=caches)[0])
        steps = asr.logits(torch.cat(states))
        torch.testing.assert_close(steps, whole, atol=1e-3, rtol=1e-4)
        with base_only(asr):
            assert not torch.allclose(asr([mel], torch.tensor([prompt + answer]))[0], whole, atol=1e-2)


def test_decoder_adapters_ignore_who_else_is_in_the_batch(
    adapted: Callable[..., Qwen3ASR], tokenizer: object, config: Qwen3ASRConfig
) -> None:
    asr, mels = adapted("gate", sites=("decoder.1",)), clips(900, 60)
    prompts = [build_prompt(tokenizer, config.audio_tokens(mel.shape[1])).ids for mel in mels]  # type: ignore[arg-type]
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    with torch.no_grad():
        both = asr(mels, rows)
        for row, (mel, prompt) in enumerate(zip(mels, prompts, strict=True)):
            alone = asr([mel], torch.tensor([prompt]))[0]
            torch.testing.assert_close(both[row, : len(prompt)], alone, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_layers_below_the_first_adapter_can_be_cached(adapted: Callable[..., Qwen3ASR], mode: Mode) -> None:
    asr, mels = adapted(mode, sites=("encoder.1", "encoder.output")), clips(830, 120)
    tower, start = asr.audio_tower, 1 if mode == "lora" else 2
    with torch.no_grad():
        tokens, lengths = tower.convolve(mels)
        with base_only(asr):
            cached = tower.transform(tokens, lengths, stop=start)
        hidden = tower.ln_post(tower.transform(cached, lengths, start=start))
        assert torch.equal(hidden, tower.hidden(mels)[0])


# --- parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bottleneck", [32, 64, 128, 256])
def test_every_mode_has_the_budget_of_the_bottleneck(config: Qwen3ASRConfig, mode: Mode, bottleneck: int) -> None:
    from dataclasses import replace

    shape = replace(config, d_model=896, output_dim=1024, encoder_layers=18, encoder_heads=14)
    for sites in (("encoder.output",), ("encoder.3",), ("encoder.17", "encoder.output")):
        linear = count_parameters(AdapterConfig(mode="linear", bottleneck=bottleneck, sites=sites), shape)
        other = count_parameters(AdapterConfig(mode=mode, bottleneck=bottleneck, sites=sites), shape)
        # Whole ranks and widths only: never more than the budget, and less by one rank and the norm at most.
        assert 0.9 * linear <= other <= linear


def test_the_published_count_is_reproduced(config: Qwen3ASRConfig) -> None:
    from dataclasses import replace

    shape = replace(config, output_dim=2048)
    assert count_parameters(AdapterConfig(mode="identity", bottleneck=128), shape) == 2 * 2048 * 128 + 2 * 2048


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_the_adapter_and_nothing_else(adapted: Callable[..., Qwen3ASR], mode: Mode) -> None:
    asr = adapted(mode)
    torch.cat(asr.audio_tower(clips(230, 90))).square().mean().backward()
    weights = adapter_weights(asr, AdapterConfig(mode=mode, bottleneck=6, sites=EVERYWHERE))
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in weights.values())
    names = {name for name, parameter in asr.named_parameters() if parameter.grad is not None}
    assert names == set(weights)


def test_published_norm_changes_the_base_at_once(adapted: Callable[..., Qwen3ASR]) -> None:
    asr, mels = adapted("identity", trained=False, norm="post"), clips(130)
    with torch.no_grad():
        after = asr.audio_tower(mels)[0]
        with base_only(asr):
            before = asr.audio_tower(mels)[0]
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(after, torch.nn.functional.layer_norm(after, after.shape[-1:]), atol=1e-4, rtol=0)


def test_anything_else_that_is_trainable_is_refused(adapted: Callable[..., Qwen3ASR]) -> None:
    config = AdapterConfig(mode="lora", bottleneck=6, sites=EVERYWHERE)
    asr = adapted("lora")
    check_trainable(asr, config)
    asr.model.norm.weight.requires_grad_(True)
    with pytest.raises(TrainingError, match=r"not the adapter's alone.*model\.norm\.weight"):
        check_trainable(asr, config)


@pytest.mark.parametrize("site", ["encoder.2", "encoder.-1", "decoder.3", "decoder.output", "encoder", "attention.1"])
def test_sites_that_do_not_exist_are_named(model: Qwen3ASR, site: str) -> None:
    with pytest.raises(ConfigError, match=r"accepted: encoder\.0 … encoder\.1, encoder\.output, decoder\.0"):
        add_adapters(model, AdapterConfig(sites=(site,)))


def test_bad_configurations_are_named() -> None:
    for options, message in (
        ({"mode": "wavelet"}, "mode 'wavelet' is unknown"),
        ({"bottleneck": 1}, "at least 2"),
        ({"sites": ()}, "one or more"),
        ({"norm": "both"}, "norm 'both' is unknown"),
        ({"mode": "lora", "sites": ("decoder.1",)}, "lora changes a layer"),
    ):
        with pytest.raises(ConfigError, match=message):
            AdapterConfig(**options)  # type: ignore[arg-type]
