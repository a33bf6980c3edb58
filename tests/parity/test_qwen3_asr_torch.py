"""The torch Qwen3-ASR against the official package's outputs, whatever sizes and seed they were made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.models.qwen3_asr.checkpoint import load_weights
from linnet.models.qwen3_asr.model import Attention, Qwen3ASR
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

AGREEMENT = 2e-4  # the project's bound for float32 sums in another order; 5e-6 is seen


@dataclass(frozen=True)
class Case:
    """One clip with its official outputs; logits [1 + target, V] belong to the last prompt token and the target."""

    name: str
    mel: Tensor
    encoder: dict[str, npt.NDArray[np.float32]]
    logits: npt.NDArray[np.float32]
    audio_tokens: int
    prompt: list[int]
    target: list[int]
    greedy: list[int]


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "qwen3_asr"


@pytest.fixture(scope="module")
def described(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "cases.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def cases(folder: Path, described: dict[str, Any]) -> list[Case]:
    vectors = dict(np.load(folder / "cases.npz"))
    assert described["cases"]
    return [
        Case(
            name=(name := case["name"]),
            mel=torch.from_numpy(vectors[f"{name}.mel"]),
            encoder={kind: vectors[f"{name}.encoder_{kind}"] for kind in ("full", "windowed")},
            logits=vectors[f"{name}.logits"],
            **{key: case[key] for key in ("audio_tokens", "prompt", "target", "greedy")},
        )
        for case in described["cases"]
    ]


def load(folder: Path, attention: Attention) -> Qwen3ASR:
    model = Qwen3ASR(read_config(folder), attention=attention)
    model.load_state_dict(load_weights(folder))
    return model.eval()


@pytest.fixture(scope="module")
def full(folder: Path) -> Qwen3ASR:
    return load(folder, "full")


@pytest.fixture(scope="module")
def windowed(folder: Path) -> Qwen3ASR:
    return load(folder, "windowed")


@pytest.mark.parametrize("attention", ["full", "windowed"])
def test_encoder_agrees_with_the_official_one(
    full: Qwen3ASR, windowed: Qwen3ASR, cases: list[Case], attention: Attention
) -> None:
    model = full if attention == "full" else windowed
    for case in cases:
        with torch.no_grad():
            (audio,) = model.audio_tower([case.mel])
        assert audio.shape == case.encoder[attention].shape
        np.testing.assert_allclose(audio, case.encoder[attention], atol=AGREEMENT, rtol=0, err_msg=case.name)


def test_the_two_kinds_of_attention_differ_on_a_long_clip(cases: list[Case], full: Qwen3ASR) -> None:
    # Otherwise the test above could not tell one from the other.
    longest = max(cases, key=lambda case: case.mel.shape[1])
    if longest.audio_tokens <= full.config.window_tokens:
        pytest.skip("these vectors have no clip of more than one window")
    assert np.abs(longest.encoder["full"] - longest.encoder["windowed"]).max() > 100 * AGREEMENT


@pytest.mark.parametrize("attention", ["full", "windowed"])
def test_clips_of_all_lengths_in_one_batch_equal_single_clips(
    full: Qwen3ASR, windowed: Qwen3ASR, cases: list[Case], attention: Attention
) -> None:
    model = full if attention == "full" else windowed
    with torch.no_grad():
        batched = model.audio_tower([case.mel for case in cases])
    for case, audio in zip(cases, batched, strict=True):
        np.testing.assert_allclose(audio, case.encoder[attention], atol=AGREEMENT, rtol=0, err_msg=case.name)


def test_teacher_forced_logits_agree(full: Qwen3ASR, cases: list[Case]) -> None:
    for case in cases:
        with torch.no_grad():
            logits = full([case.mel], torch.tensor([case.prompt + case.target]))[0, -len(case.logits) :]
        assert logits.shape == (len(case.target) + 1, full.config.vocab_size)
        np.testing.assert_allclose(logits, case.logits, atol=AGREEMENT, rtol=0, err_msg=case.name)


def test_teacher_forced_logits_of_a_padded_batch_agree(full: Qwen3ASR, cases: list[Case]) -> None:
    rows = [torch.tensor(case.prompt + case.target) for case in cases]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=cases[0].target[0])
    with torch.no_grad():
        logits = full([case.mel for case in cases], tokens)
    for case, row, scores in zip(cases, rows, logits, strict=True):
        kept = scores[len(row) - len(case.logits) : len(row)]
        np.testing.assert_allclose(kept, case.logits, atol=AGREEMENT, rtol=0, err_msg=case.name)


def test_greedy_answers_are_token_exact(full: Qwen3ASR, cases: list[Case]) -> None:
    for case in cases:
        (answer,) = full.generate([case.mel], [case.prompt], max_new_tokens=len(case.greedy))
        assert answer == without_end(case.greedy, full.config), case.name


def test_greedy_answers_of_a_batch_are_token_exact(full: Qwen3ASR, cases: list[Case]) -> None:
    answers = full.generate(
        [case.mel for case in cases],
        [case.prompt for case in cases],
        max_new_tokens=max(len(case.greedy) for case in cases),
    )
    for case, answer in zip(cases, answers, strict=True):
        expected = without_end(case.greedy, full.config)
        assert answer[: len(expected)] == expected, case.name


def without_end(tokens: list[int], config: Qwen3ASRConfig) -> list[int]:
    ends = [place for place, token in enumerate(tokens) if token in config.eos_token_ids]
    return tokens[: ends[0]] if ends else tokens


def test_token_counts_agree_for_every_length(full: Qwen3ASR, described: dict[str, Any], cases: list[Case]) -> None:
    official = described["audio_tokens_for_mel_frames_1_to_3000"]
    assert len(official) == 3000
    assert [full.config.audio_tokens(frames) for frames in range(1, 3001)] == official
    for case in cases:
        assert full.config.audio_tokens(case.mel.shape[1]) == case.audio_tokens


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 99, 100, 101, 108, 109, 199, 200, 900])
def test_the_network_gives_as_many_tokens_as_the_formula(windowed: Qwen3ASR, frames: int) -> None:
    with torch.no_grad():
        (audio,) = windowed.audio_tower([torch.zeros(windowed.config.n_mels, frames)])
    assert audio.shape == (windowed.config.audio_tokens(frames), windowed.config.output_dim)


def test_the_hf_layout_loads_to_the_same_network(
    folder: Path, tmp_path: Path, full: Qwen3ASR, cases: list[Case]
) -> None:
    write_hf_layout(folder, tmp_path)
    assert read_config(tmp_path) == full.config
    model = load(tmp_path, "full")
    for name, weight in full.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    (answer,) = model.generate([cases[0].mel], [cases[0].prompt], max_new_tokens=len(cases[0].greedy))
    assert answer == without_end(cases[0].greedy, model.config)


def write_hf_layout(official: Path, out: Path) -> None:
    """The same checkpoint as transformers ≥ 5.13 stores it: no thinker level, other prefixes, tied head left out."""
    described = json.loads((official / "config.json").read_text())
    thinker = described["thinker_config"]
    text = dict(thinker["text_config"])
    text["rope_parameters"] = dict(text.pop("rope_scaling"), rope_theta=text.pop("rope_theta"))
    audio = thinker["audio_config"]
    config = {
        "model_type": "qwen3_asr",
        "audio_config": audio,
        "text_config": text,
        "audio_token_id": thinker["audio_token_id"],
    }
    (out / "config.json").write_text(json.dumps(config))
    added = {
        str(thinker["audio_start_token_id"]): {"content": "<|audio_start|>"},
        str(thinker["audio_end_token_id"]): {"content": "<|audio_end|>"},
    }
    (out / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    tensors = {}
    for name, tensor in load_file(official / "model.safetensors").items():
        if name == "thinker.lm_head.weight":
            continue
        for theirs, hf in (
            ("thinker.audio_tower.proj1.", "model.multi_modal_projector.linear_1."),
            ("thinker.audio_tower.proj2.", "model.multi_modal_projector.linear_2."),
            ("thinker.audio_tower.", "model.audio_tower."),
            ("thinker.model.", "model.language_model."),
        ):
            if name.startswith(theirs):
                tensors[hf + name.removeprefix(theirs)] = tensor
                break
        else:
            raise AssertionError(f"unexpected tensor {name}")
    save_file(tensors, out / "model.safetensors")
