"""The torch network by itself, and its training step: caching, positions, padding, masked labels, CTC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from linnet.audio import read_audio
from linnet.data.dataset import Example
from linnet.errors import ConfigError, TrainingError
from linnet.features import log_mel
from linnet.manifest import Utterance, write_manifest
from linnet.models.qwen3_asr.config import Qwen3ASRTrainConfig
from linnet.models.qwen3_asr.model import DropPath, KVCache, Qwen3ASR
from linnet.models.qwen3_asr.positions import rotary_table, rotate, sinusoids
from linnet.models.qwen3_asr.task import (
    CTC_BLANK,
    CTC_CLASSES,
    CTC_STEPS,
    IGNORED,
    Batch,
    Qwen3ASRTask,
    TrainableQwen3ASR,
)
from linnet.runtime.prompt import build_prompt, encode_answer
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

SUMS = 5e-5  # float32 sums of up to a few hundred terms in another order; 1.5e-5 is seen, mistakes give 1e-3 and more


def mel(frames: int, *, seed: int = 0) -> Tensor:
    return torch.randn(128, frames, generator=torch.Generator().manual_seed(1000 * seed + frames))


# ── decoder ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cached_steps_equal_the_full_forward(model: Qwen3ASR) -> None:
    embeddings = torch.randn(2, 9, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = model.model(embeddings)
        for cuts in ([4, 1, 1, 1, 1, 1], [1] * 9, [3, 4, 2]):  # prefill and steps, steps only, pieces of a prompt
            caches = [KVCache() for _ in model.model.layers]
            stepped = torch.cat([model.model(piece, caches=caches) for piece in embeddings.split(cuts, dim=1)], dim=1)
            torch.testing.assert_close(stepped, full, atol=SUMS, rtol=0)


def test_the_decoder_never_looks_ahead(model: Qwen3ASR) -> None:
    embeddings = torch.randn(1, 6, model.config.hidden_size, generator=torch.Generator().manual_seed(2))
    changed = embeddings.clone()
    changed[:, 4:] += 1
    with torch.no_grad():
        before, after = model.model(embeddings), model.model(changed)
    torch.testing.assert_close(after[:, :4], before[:, :4], atol=SUMS, rtol=0)
    assert (after[:, 4:] - before[:, 4:]).abs().min(dim=-1).values.max() > 1e-3


def test_generate_equals_repeated_full_forwards(model: Qwen3ASR, tokenizer: Tokenizer) -> None:
    clip = mel(130)
    prompt = build_prompt(tokenizer, model.config.audio_tokens(130)).ids
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(12):
            tokens.append(int(model([clip], torch.tensor([tokens]))[0, -1].argmax()))
    expected = tokens[len(prompt) :]
    assert len(set(expected)) > 2  # a constant answer would prove little
    assert not set(expected) & set(model.config.eos_token_ids)
    assert model.generate([clip], [prompt], max_new_tokens=12) == [expected]


def test_generate_stops_at_the_end_token(model: Qwen3ASR, tokenizer: Tokenizer) -> None:
    prompts = [build_prompt(tokenizer, model.config.audio_tokens(60)).ids] * 2
    clips = [mel(60), mel(60, seed=1)]
    free = model.generate(clips, prompts, max_new_tokens=10)
    assert free[0] != free[1]
    end = next(token for token in free[0] if token not in free[1])
    model.config = replace(model.config, eos_token_ids=(model.config.vocab_size - 1, end))
    stopped = model.generate(clips, prompts, max_new_tokens=10)
    assert stopped[0] == free[0][: free[0].index(end)]
    assert stopped[1] == free[1]  # a finished neighbour changes nothing
    assert model.generate(clips, prompts, max_new_tokens=0) == [[], []]


def test_batches_with_different_prompts_and_lengths_equal_single_clips(model: Qwen3ASR, tokenizer: Tokenizer) -> None:
    lengths, contexts = [50, 230, 50, 101, 1000], ["", "", "cats", "the mat", ""]
    clips = [mel(frames, seed=place) for place, frames in enumerate(lengths)]
    prompts = [
        build_prompt(tokenizer, model.config.audio_tokens(frames), context=context).ids
        for frames, context in zip(lengths, contexts, strict=True)
    ]
    single = [
        model.generate([clip], [prompt], max_new_tokens=8)[0] for clip, prompt in zip(clips, prompts, strict=True)
    ]
    assert len({tuple(answer) for answer in single}) > 1
    assert model.generate(clips, prompts, max_new_tokens=8) == single


def interleaved_mrope(positions: Tensor, sections: Sequence[int], head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, head_dim] of three position streams [3, T], as `Qwen3ASRThinkerTextRotaryEmbedding` of
    qwen-asr 0.0.6 (transformers 4.57, `apply_interleaved_mrope`): frequencies go T H W T H W … T T."""
    inverse = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    frequencies = positions.float()[:, :, None] * inverse  # [3, T, head_dim / 2]
    mixed = frequencies[0].clone()
    for stream, offset in ((1, 1), (2, 2)):
        places = slice(offset, sections[stream] * 3, 3)
        mixed[:, places] = frequencies[stream][:, places]
    both = torch.cat([mixed, mixed], dim=-1)
    return both.cos(), both.sin()


def test_interleaved_mrope_with_equal_streams_is_plain_rope(config: Qwen3ASRConfig) -> None:
    head_dim, length = 128, 3000
    shape = replace(config, head_dim=head_dim)
    plain = rotary_table(0, length, shape, torch.zeros(1))
    streams = torch.arange(length).expand(3, length)
    official = interleaved_mrope(streams, [24, 20, 20], head_dim, shape.rope_theta)
    # Angles reach 3000, where neighbouring float32 are 2.4e-4 apart; the two round theirs in a different order.
    for ours, theirs in zip(plain, official, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=0)

    x = torch.randn(1, 2, length, head_dim, generator=torch.Generator().manual_seed(3))
    halves = torch.cat([-x[..., head_dim // 2 :], x[..., : head_dim // 2]], dim=-1)
    rotated = x * official[0] + halves * official[1]
    torch.testing.assert_close(rotate(x, plain), rotated, atol=5e-3, rtol=0)  # |x| up to 5, two terms

    # With streams that differ, as for images, plain rope would be wrong: the equality above is not trivial.
    apart = interleaved_mrope(torch.stack([streams[0], streams[0] + 7, streams[0]]), [24, 20, 20], head_dim, 1e6)
    assert (apart[0] - plain[0]).abs().max() > 0.5


def test_rotary_positions_continue_where_the_cache_ends(config: Qwen3ASRConfig) -> None:
    whole, tail = rotary_table(0, 50, config, torch.zeros(1)), rotary_table(37, 13, config, torch.zeros(1))
    for a, b in zip(whole, tail, strict=True):
        assert torch.equal(a[37:], b)


# ── encoder ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def convolve_directly(model: Qwen3ASR, clip: Tensor) -> Tensor:
    """The official rule, chunk by chunk: the tail of a longer clip is padded to a whole one, a lone chunk is not."""
    tower, size, rows = model.audio_tower, model.config.chunk_frames, []
    for start in range(0, clip.shape[1], size):
        chunk = clip[:, start : start + size]
        tokens = math.ceil(math.ceil(math.ceil(chunk.shape[1] / 2) / 2) / 2)
        if clip.shape[1] > size:
            chunk = F.pad(chunk, (0, size - chunk.shape[1]))
        x = chunk[None, None]
        for conv in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
            x = F.gelu(F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1))
        _, channels, bands, time = x.shape
        x = x.permute(0, 3, 1, 2).reshape(time, channels * bands)  # features are channel by channel, band by band
        rows.append((x @ tower.conv_out.weight.T + sinusoids(time, tower.config.d_model))[:tokens])
    return torch.cat(rows)


@pytest.mark.parametrize("chunk_frames", [100, 400])  # the published models' chunks, and longer ones
@pytest.mark.parametrize("lengths", [[1], [7], [50], [99], [100], [101], [250], [400], [401, 37, 900, 1, 100, 399]])
def test_convolutions_follow_the_official_rule(config: Qwen3ASRConfig, chunk_frames: int, lengths: list[int]) -> None:
    torch.manual_seed(0)
    model = Qwen3ASR(replace(config, chunk_frames=chunk_frames)).eval()
    clips = [mel(frames) for frames in lengths]
    with torch.no_grad():
        tokens, counts = model.audio_tower.convolve(clips)
        assert counts == [model.config.audio_tokens(frames) for frames in lengths]
        for clip, part in zip(clips, tokens.split(counts), strict=True):
            torch.testing.assert_close(part, convolve_directly(model, clip), atol=SUMS, rtol=0)


def test_a_padded_lone_chunk_would_differ(model: Qwen3ASR) -> None:
    # The rule is worth its code: padding a clip of 51 frames to 100 changes its last token.
    clip = mel(51)
    with torch.no_grad():
        right = model.audio_tower.convolve([clip])[0]
        padded = model.audio_tower.convolve([F.pad(clip, (0, 49))])[0][: len(right)]
    torch.testing.assert_close(padded[:-1], right[:-1], atol=SUMS, rtol=0)
    assert (padded[-1] - right[-1]).abs().max() > 1e-3


def test_positions_are_whispers_sinusoids() -> None:
    table = sinusoids(13, 8)
    for index in range(4):  # written out: rates fall from 1 to 1/10000 in equal ratios
        rate = 10_000 ** (-index / 3)
        np.testing.assert_allclose(table[:, index], np.sin(np.arange(13) * rate), atol=1e-6)
        np.testing.assert_allclose(table[:, 4 + index], np.cos(np.arange(13) * rate), atol=1e-6)


def test_windows_are_independent_of_each_other(model: Qwen3ASR) -> None:
    window = model.config.window_tokens  # 8 s
    clip = mel(1700)
    changed = clip.clone()
    changed[:, 800:1600] += 1
    with torch.no_grad():
        (before,), (after,) = model.audio_tower([clip]), model.audio_tower([changed])
        model.audio_tower.attention = "full"
        (full_before,), (full_after,) = model.audio_tower([clip]), model.audio_tower([changed])
    outside = torch.ones(len(before), dtype=torch.bool)
    outside[window : 2 * window] = False
    torch.testing.assert_close(after[outside], before[outside], atol=SUMS, rtol=0)
    assert (after[~outside] - before[~outside]).abs().max() > 1e-2
    assert (full_after[outside] - full_before[outside]).abs().max() > 1e-3


def test_channels_last_weights_change_nothing(model: Qwen3ASR) -> None:
    # The task keeps the convolutions in this layout because it is faster on CPU.
    clips = [mel(60), mel(150)]
    with torch.no_grad():
        before = model.audio_tower(clips)
        model.audio_tower.to(memory_format=torch.channels_last)
        assert model.audio_tower.conv2d2.weight.is_contiguous(memory_format=torch.channels_last)
        for a, b in zip(model.audio_tower(clips), before, strict=True):
            torch.testing.assert_close(a, b, atol=SUMS, rtol=0)


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_drop_path_keeps_the_expectation_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    rows, probability = 20_000, 0.3
    layer = DropPath(probability).train()
    branch = torch.full((rows, 2, 3), 2.0)
    out = layer(branch)
    assert out.unique().tolist() == pytest.approx([0.0, 2 / 0.7])
    assert torch.equal(out.amin(dim=(1, 2)), out.amax(dim=(1, 2)))  # a clip is dropped as a whole
    deviation = 2 * math.sqrt(probability / (1 - probability) / rows)
    assert float(out.mean()) == pytest.approx(2.0, abs=5 * deviation)  # five standard errors
    assert layer.eval()(branch) is branch
    assert DropPath(0.0).train()(branch) is branch


@pytest.fixture
def task(tmp_path: Path, tokenizer: Tokenizer, config: Qwen3ASRConfig) -> Qwen3ASRTask:
    """A task whose tokenizer and shape are the tiny ones; its manifest is never read beyond the text."""
    write_manifest(
        tmp_path / "train.jsonl",
        [Utterance(audio_path=Path("a.wav"), duration_s=1.0, text="one two three", language="en")],
    )
    task = Qwen3ASRTask(Qwen3ASRTrainConfig(train_manifests=(tmp_path / "train.jsonl",), drop_path=0.0))
    task.tokenizer, task.shape = tokenizer, config
    return task


@pytest.fixture
def trainable(task: Qwen3ASRTask) -> TrainableQwen3ASR:
    torch.manual_seed(1)
    model = task.build_model()
    assert isinstance(model, TrainableQwen3ASR)
    return model.train()


@pytest.fixture
def batch(task: Qwen3ASRTask) -> Batch:
    texts = ["One two, three!", "the cat", "zero"]
    return task.collate(
        [Example(mel(frames).numpy(), text, "en") for frames, text in zip((180, 60, 50), texts, strict=True)]
    )


def test_labels_stand_on_the_answer_only(task: Qwen3ASRTask, batch: Batch, tokenizer: Tokenizer) -> None:
    for row, (frames, text) in enumerate(zip((180, 60, 50), ("one two three", "the cat", "zero"), strict=True)):
        prompt = build_prompt(tokenizer, task.shape.audio_tokens(frames)).ids
        answer = encode_answer(tokenizer, f" {text}", language="en")
        assert tokenizer.decode(answer, skip_special_tokens=False) == f"language English<asr_text> {text}<|im_end|>"
        kept = batch.labels[row] != IGNORED
        assert int(kept.sum()) == len(answer)
        assert batch.labels[row][kept].tolist() == answer
        assert kept.nonzero()[:, 0].tolist() == list(range(len(prompt) - 1, len(prompt) - 1 + len(answer)))
        assert batch.tokens[row][: len(prompt) + len(answer)].tolist() == prompt + answer
        assert int((batch.tokens[row] == task.shape.audio_token_id).sum()) == task.shape.audio_tokens(frames)
        assert bytes(batch.transcripts[row].tolist()).decode() == text
    assert [clip.shape for clip in batch.clips()] == [(128, 180), (128, 60), (128, 50)]
    assert torch.equal(batch.clips()[1], mel(60))


def test_loss_is_the_cross_entropy_of_each_answer_token(
    task: Qwen3ASRTask, trainable: TrainableQwen3ASR, batch: Batch
) -> None:
    trainable.label_smoothing = 0.0
    with torch.no_grad():
        losses = trainable(batch)
        cross_entropy, right = losses.cross_entropy, losses.right
        total, count, hits = 0.0, 0, 0
        for row, clip in enumerate(batch.clips()):  # clip by clip, token by token
            length = int((batch.labels[row] != IGNORED).nonzero()[-1]) + 1
            scores = trainable.asr([clip], batch.tokens[row : row + 1, :length])[0].log_softmax(-1)
            for place in range(length):
                if (label := int(batch.labels[row, place])) != IGNORED:
                    assert label == int(batch.tokens[row, place + 1])
                    total, count = total - float(scores[place, label]), count + 1
                    hits += int(scores[place].argmax()) == label
    assert float(cross_entropy) == pytest.approx(total / count, abs=1e-5)
    assert right == hits


def test_only_the_answer_is_learned(trainable: TrainableQwen3ASR, batch: Batch, task: Qwen3ASRTask) -> None:
    """The loss's gradient with respect to the logits is zero at every prompt and padding position."""
    seen: list[Tensor] = []
    original = trainable.asr.model.forward

    def keep(*args: Tensor, **options: Sequence[KVCache] | None) -> Tensor:
        states: Tensor = original(*args, **options)
        states.retain_grad()
        seen.append(states)
        return states

    trainable.asr.model.forward = keep  # type: ignore[method-assign]
    cross_entropy, *_ = trainable(batch)
    cross_entropy.backward()
    gradient = seen[0].grad
    assert gradient is not None
    strength = gradient.abs().amax(dim=-1)
    assert (strength[batch.labels == IGNORED] == 0).all()
    assert (strength[batch.labels != IGNORED] > 0).all()


def test_padding_does_not_change_the_loss(task: Qwen3ASRTask, trainable: TrainableQwen3ASR, batch: Batch) -> None:
    wider = replace(
        batch,
        tokens=F.pad(batch.tokens, (0, 5), value=7),
        labels=F.pad(batch.labels, (0, 5), value=IGNORED),
    )
    with torch.no_grad():
        torch.testing.assert_close(trainable(wider)[0], trainable(batch)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_gradient_checkpointing_gives_the_same_gradients(
    trainable: TrainableQwen3ASR, batch: Batch, probability: float
) -> None:
    for module in trainable.modules():
        if isinstance(module, DropPath):
            module.probability = probability
    gradients = []
    for checkpointing in (False, True):
        trainable.asr.audio_tower.gradient_checkpointing = trainable.asr.model.gradient_checkpointing = checkpointing
        trainable.zero_grad()
        torch.manual_seed(5)  # the same branches are dropped, also when they are computed again
        cross_entropy, ctc, *_ = trainable(batch)
        (cross_entropy + ctc).backward()
        gradients.append({name: p.grad.clone() for name, p in trainable.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == dict(trainable.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    assert max(float(g.abs().max()) for g in gradients[0].values()) > 1e-3


def test_ctc_is_summed_over_alignments(trainable: TrainableQwen3ASR) -> None:
    """Two tokens are four steps; every path over two labels and the blank that collapses to them, written out."""
    hidden = torch.randn(2, trainable.asr.config.d_model, generator=torch.Generator().manual_seed(6))
    a, b = 3, 5
    p = trainable.ctc_head(hidden).detach().double().view(2 * CTC_STEPS, CTC_CLASSES).softmax(-1)
    total = 0.0
    for path in product((a, b, CTC_BLANK), repeat=2 * CTC_STEPS):
        collapsed = [label for label, _ in groupby(path) if label != CTC_BLANK]
        if collapsed == [a, b]:
            total += math.prod(float(p[step, label]) for step, label in enumerate(path))
    loss, skipped = trainable._ctc(hidden, [2], [torch.tensor([a, b])])
    assert skipped == 0
    assert loss.item() == pytest.approx(-math.log(total) / 2, abs=1e-5)  # per target byte


def test_clips_too_short_for_ctc_are_left_out_and_counted(trainable: TrainableQwen3ASR) -> None:
    width = trainable.asr.config.d_model
    hidden = torch.randn(8, width, generator=torch.Generator().manual_seed(7), requires_grad=True)
    fits, repeated, empty = torch.tensor([3, 4]), torch.tensor([3, 3]), torch.tensor([], dtype=torch.long)
    # Two equal labels need a blank between them and so do not fit into the two steps of one token.
    loss, skipped = trainable._ctc(hidden, [4, 1, 3], [fits, repeated, empty])
    alone, none = trainable._ctc(hidden[:4], [4], [fits])
    assert (skipped, none) == (2, 0)
    assert trainable._ctc(hidden[4:5], [1], [fits])[1] == 0  # two different ones do
    torch.testing.assert_close(loss, alone, atol=1e-6, rtol=0)
    loss.backward()
    assert hidden.grad is not None
    assert (hidden.grad[:4].abs().amax(dim=1) > 0).all()
    assert (hidden.grad[4:] == 0).all()


def test_ctc_without_any_clip_that_fits_is_zero_with_zero_gradients(trainable: TrainableQwen3ASR) -> None:
    hidden = torch.randn(1, trainable.asr.config.d_model)
    loss, skipped = trainable._ctc(hidden, [1], [torch.tensor([3, 4, 5])])
    assert (loss.item(), skipped) == (0.0, 1)
    loss.backward()
    assert trainable.ctc_head.weight.grad is not None  # DDP waits for every parameter's gradient
    assert not trainable.ctc_head.weight.grad.any()


def test_the_encoder_learns_from_ctc_alone_at_first(
    task: Qwen3ASRTask, trainable: TrainableQwen3ASR, batch: Batch
) -> None:
    task.config = replace(task.config, encoder_warmup_steps=5, ctc_weight=0.5)
    encoder = [trainable.asr.audio_tower.layers[0].fc1.weight, trainable.asr.audio_tower.conv2d1.weight]
    rest = [trainable.asr.audio_tower.proj1.weight, trainable.asr.model.norm.weight]
    gradients = []
    for step in (4, 5):
        trainable.zero_grad()
        task.step(trainable, batch, step).loss.backward()
        gradients.append([p.grad.clone() for p in (*encoder, *rest) if p.grad is not None])
    hidden, lengths = trainable.asr.audio_tower.hidden(batch.clips())
    ctc, _ = trainable._ctc(hidden, lengths, batch.transcripts)
    assert len(gradients[0]) == 2 and len(gradients[1]) == 4  # projection and decoder do not even run
    for number, expected in enumerate(torch.autograd.grad(ctc, encoder)):
        torch.testing.assert_close(gradients[0][number], expected, atol=1e-5, rtol=1e-4)
        assert (gradients[1][number] - 0.5 * expected).abs().max() > 1e-4  # afterwards the decoder's part is added


def test_step_mixes_both_losses_and_logs_them(task: Qwen3ASRTask, trainable: TrainableQwen3ASR, batch: Batch) -> None:
    task.config = replace(task.config, ctc_weight=0.25)
    output = task.step(trainable, batch, 0)
    logs = output.logs
    assert output.loss.item() == pytest.approx(0.75 * logs["ce"] + 0.25 * logs["ctc"], rel=1e-6)
    assert logs["audio_s"] == pytest.approx(2.9)
    assert 0 <= logs["token_accuracy"] <= 1
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in trainable.parameters())


def test_fresh_weights_let_the_sound_through(task: Qwen3ASRTask, trainable: TrainableQwen3ASR, clip: Path) -> None:
    """At the transformer's input the sound varies about as much as the positions do; at a twentieth of that, as with
    torch's own initialisation, nothing was learned."""
    tower = trainable.asr.audio_tower
    speech = torch.from_numpy(log_mel(read_audio(clip)[: 5 * 16_000]))
    with torch.no_grad():
        tokens, _ = tower.convolve([speech])
    positions = tower.positions.repeat(5, 1)[: len(tokens)]
    sound_over_time, positions_over_time = (float(x.std(dim=0).mean()) for x in (tokens - positions, positions))
    assert 0.3 < sound_over_time / positions_over_time < 10


def test_a_task_without_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--train-manifests"):
        Qwen3ASRTask(Qwen3ASRTrainConfig())
    utterance = Utterance(audio_path=Path("a.wav"), duration_s=1.0, text="one", corpus="other")
    write_manifest(tmp_path / "train.jsonl", [utterance])
    with pytest.raises(TrainingError, match="no labelled utterance"):
        Qwen3ASRTask(Qwen3ASRTrainConfig(train_manifests=(tmp_path / "train.jsonl",), corpora={"fsdd": 1.0}))
