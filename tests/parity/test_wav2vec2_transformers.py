"""wav2vec 2.0 against transformers: the same random checkpoint, samples, masks, negatives and Gumbel noise.

Tolerance 1e-4 throughout: both sides run the same float32 operations in another order, on values of order 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from linnet.audio import read_audio
from linnet.errors import CheckpointError
from linnet.export.wav2vec2_checkpoint import open_weights, read_config
from linnet.models.wav2vec2.checkpoint import load_ctc, load_pretraining, save_checkpoint
from linnet.models.wav2vec2.masking import masked_positions
from linnet.models.wav2vec2.model import normalise

transformers = pytest.importorskip("transformers", minversion="4.48")
modeling = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
# Every size differs, so that a swapped pair of dimensions cannot pass.
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "conv_dim": (12, 10, 10, 14, 10, 10, 18),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 7,
    "num_codevector_groups": 2,
    "codevector_dim": 20,
    "proj_codevector_dim": 22,
    "num_negatives": 6,
    "vocab_size": 13,
    "pad_token_id": 2,
    "layerdrop": 0.0,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "large-lv60": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    # Both are legal in config.json, though no published model mixes them; an odd position kernel keeps all frames.
    "mixed": {"feat_extract_norm": "layer", "do_stable_layer_norm": False, "num_conv_pos_embeddings": 15},
}


@dataclass
class Pair:
    """The official model and ours, from the same folder."""

    official: Any
    ours: Any
    folder: Path


def save(model: Any, folder: Path) -> None:
    """As transformers writes it, with norms and biases moved away from ones and zeros."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "masked_spec_embed" not in name:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=list(VARIANTS))
def pretraining(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    official = modeling.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**{**TINY, **VARIANTS[request.param]}))
    save(official, folder)
    return Pair(official.eval(), load_pretraining(folder), folder)


@pytest.fixture(scope="module", params=list(VARIANTS))
def ctc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp(request.param)
    official = modeling.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**{**TINY, **VARIANTS[request.param]}))
    save(official, folder)
    return Pair(official.eval(), load_ctc(folder), folder)


@pytest.fixture(scope="module")
def clips(clip: Path) -> list[Tensor]:
    """Three pieces of a real recording, of 401, 16,000 and 23,457 samples."""
    samples = torch.from_numpy(read_audio(clip))
    return [normalise(samples[start : start + n]) for start, n in ((20_000, 401), (8_000, 16_000), (16_000, 23_457))]


def padded(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])


@torch.no_grad()
def test_logits_of_single_clips_agree(ctc: Pair, clips: list[Tensor]) -> None:
    for clip in clips:
        logits, frames = ctc.ours(clip[None])
        torch.testing.assert_close(logits, ctc.official(clip[None]).logits, **TOLERANCE)
        assert frames is None and logits.shape[1] == ctc.ours.config.frames(len(clip))


@torch.no_grad()
def test_hidden_states_of_every_layer_agree(ctc: Pair, clips: list[Tensor]) -> None:
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda *given: seen.append(given[2])) for layer in ctc.ours.wav2vec2.encoder.layers
    ]
    encoded = ctc.ours.wav2vec2(clips[1][None])
    official = ctc.official.wav2vec2(clips[1][None], output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(encoded.hidden, official.last_hidden_state, **TOLERANCE)
    torch.testing.assert_close(encoded.features, official.extract_features, **TOLERANCE)
    # transformers' last entry is after the final norm of the pre-norm variant; the others are the layers' own.
    assert len(seen) == 3
    for ours, theirs in zip(seen[:-1], official.hidden_states[1:-1], strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@torch.no_grad()
def test_a_batch_follows_the_rule_of_its_variant(ctc: Pair, clips: list[Tensor]) -> None:
    samples, lengths = padded(clips)
    logits, frames = ctc.ours(samples, lengths)
    masked = ctc.ours.config.norm == "layer"
    mask = (torch.arange(samples.shape[1]) < lengths[:, None]).long()
    official = ctc.official(samples, attention_mask=mask if masked else None).logits
    assert frames.tolist() == [1, 49, 73]
    for row, n in enumerate(frames.tolist()):
        torch.testing.assert_close(logits[row, :n], official[row, :n], **TOLERANCE)
        if masked:  # padding-correct: what a clip gives does not depend on its neighbours
            torch.testing.assert_close(logits[row, :n], ctc.ours(clips[row][None])[0][0], **TOLERANCE)


def test_the_ctc_loss_and_its_gradient_agree(ctc: Pair, clips: list[Tensor]) -> None:
    samples, lengths = padded(clips[1:])
    labels = torch.tensor([[3, 4, 4, 5, -100], [1, 12, 3, 3, 7]])
    mask = (torch.arange(samples.shape[1]) < lengths[:, None]).long()
    masked = ctc.ours.config.norm == "layer"
    ctc.official.zero_grad(), ctc.ours.zero_grad()
    official = ctc.official(samples, attention_mask=mask if masked else None, labels=labels)
    official.loss.backward()
    logits, frames = ctc.ours(samples, lengths)
    if not masked:  # without an attention mask transformers counts padding as frames
        frames = torch.full_like(frames, logits.shape[1])
    targets = [row[row >= 0] for row in labels]
    loss = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.cat(targets),
        frames,
        torch.tensor([len(target) for target in targets]),
        blank=2,
        reduction="sum",
    )
    loss.backward()
    torch.testing.assert_close(loss, official.loss, **TOLERANCE)
    for name in (
        "wav2vec2.feature_extractor.conv_layers.0.conv.weight",
        "wav2vec2.encoder.layers.1.attention.q_proj.weight",
    ):
        ours, theirs = ctc.ours.get_parameter(name).grad, ctc.official.get_parameter(name).grad
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-3)


def official_losses(
    official: Any, samples: Tensor, attention_mask: Tensor | None, mask: Tensor, noise: Tensor, negatives: np.ndarray
) -> Any:
    """transformers' forward pass in training mode, with given Gumbel noise [B·T·G, V]."""

    def with_noise(logits: Tensor, tau: float, hard: bool) -> Tensor:
        assert hard
        soft = ((logits + noise) / tau).softmax(-1)
        index = soft.argmax(-1, keepdim=True)
        return torch.zeros_like(soft).scatter_(-1, index, 1.0) - soft.detach() + soft

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "gumbel_softmax", with_noise)
        return official.train()(
            samples,
            attention_mask=attention_mask,
            mask_time_indices=mask,
            sampled_negative_indices=torch.from_numpy(negatives),
        )


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_every_loss_term_and_its_gradient_agree(pretraining: Pair, clips: list[Tensor], temperature: float) -> None:
    samples, lengths = padded(clips[1:])
    config, official, ours = pretraining.ours.config, pretraining.official, pretraining.ours
    frames = config.frames(samples.shape[1])
    attention = (torch.arange(samples.shape[1]) < lengths[:, None]).long() if config.norm == "layer" else None
    np.random.seed(0)
    rows = torch.ones(2, frames, dtype=torch.long)
    rows[0, config.frames(int(lengths[0])) :] = 0
    mask_array = modeling._compute_mask_indices((2, frames), 0.5, 5, attention_mask=rows, min_masks=2)
    absolute = modeling._sample_negative_indices((2, frames), 6, mask_time_indices=mask_array)
    mask = torch.from_numpy(mask_array)
    noise = -torch.empty(2 * frames * 2, 7).exponential_().log()
    official.set_gumbel_temperature(temperature)
    official.zero_grad(), ours.zero_grad()
    theirs = official_losses(official, samples, attention, mask, noise, absolute)
    theirs.loss.backward()

    positions, counts = masked_positions(mask)
    assert counts.tolist() == mask_array.sum(1).tolist() and len(set(counts.tolist())) == 2
    rank = mask.long().cumsum(1) - 1  # position in the clip → rank among its masked frames
    negatives = torch.zeros(2, positions.shape[1], 6, dtype=torch.long)
    for row in range(2):
        chosen = torch.from_numpy(absolute[row][mask_array[row]]).long() - row * frames
        negatives[row, : len(chosen)] = rank[row][chosen]
    gumbel = noise.view(2, frames, 2, 7)[torch.arange(2)[:, None], positions]
    losses = ours.train()(
        samples,
        lengths if attention is not None else None,
        mask,
        temperature=temperature,
        negatives=negatives,
        gumbel=gumbel,
    )
    n = mask.sum()
    torch.testing.assert_close(losses.masked, n)
    torch.testing.assert_close(losses.contrastive * n, theirs.contrastive_loss, **TOLERANCE)
    torch.testing.assert_close(losses.diversity * n, theirs.diversity_loss, **TOLERANCE)
    torch.testing.assert_close(losses.perplexity.sum(), theirs.codevector_perplexity, **TOLERANCE)
    raw = official.wav2vec2.feature_extractor(samples)  # transformers has no penalty; the definition, then
    torch.testing.assert_close(losses.penalty, raw.square().mean(), **TOLERANCE)
    without_penalty = losses.loss - 10.0 * losses.penalty
    torch.testing.assert_close(without_penalty * n, theirs.loss, **TOLERANCE)
    (without_penalty * n).backward()
    for name in ("quantizer.codevectors", "quantizer.weight_proj.weight", "project_hid.weight",
                 "wav2vec2.masked_spec_embed", "wav2vec2.feature_extractor.conv_layers.0.conv.weight"):  # fmt: skip
        expected = official.get_parameter(name).grad
        difference = (ours.get_parameter(name).grad - expected).abs().max()
        assert float(difference) <= 1e-4 * max(1.0, float(expected.abs().max())), name
    official.eval(), ours.eval()


def test_what_we_write_transformers_reads(ctc: Pair, clips: list[Tensor], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ctc.ours.state_dict(), ctc.ours.config)
    again = modeling.Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(clips[1][None]).logits, ctc.official(clips[1][None]).logits, **TOLERANCE)


def test_a_pretraining_checkpoint_gives_the_encoder_for_fine_tuning(pretraining: Pair) -> None:
    config = read_config(pretraining.folder)
    assert config.vocab_size == 0  # transformers writes one even where there is no head
    with open_weights(pretraining.folder, config, parts=()) as tensors:
        assert "wav2vec2.encoder.layers.2.attention.k_proj.weight" in tensors.names()
    with pytest.raises(CheckpointError, match=r"lacks 2 tensors.*lm_head"):
        open_weights(pretraining.folder, config, parts=("lm_head",))


def test_normalising_is_that_of_the_feature_extractor(clips: list[Tensor]) -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    samples = 3 * clips[1].numpy() + 0.5
    expected = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values[0]
    torch.testing.assert_close(normalise(torch.from_numpy(samples)), expected, atol=1e-5, rtol=1e-5)
    assert normalise(torch.full((500,), 0.3)).abs().max() < 1e-2  # silence, with an offset: no division by zero
