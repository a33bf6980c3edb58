"""The forced aligner's graph against the torch network, whose decoder agrees with the official one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from linnet.audio import read_audio
from linnet.export.qwen3_aligner import convert_aligner
from linnet.export.qwen3_asr_checkpoint import expected_shapes, read_config
from linnet.export.safetensors import open_checkpoint
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.runtime.aligner import Aligner
from linnet.runtime.encoder import clip_features
from linnet.runtime.words import sounds, split_words
from tiny_aligner import write_aligner_checkpoint

TEXT = "And so, my fellow Americans: 你好世界!"


@pytest.mark.parametrize(
    ("precision", "agreement"),
    [
        ("fp32", 1.0),
        ("int8", 0.8),
        ("int8-careful", 0.8),
        ("int4", 0.2),
    ],  # random weights: a rounding moves many classes
)
def test_classes_are_those_of_the_torch_network(
    golden: Path, clip: Path, tmp_path: Path, precision: str, agreement: float
) -> None:
    folder = write_aligner_checkpoint(golden, tmp_path / "checkpoint")
    bundle = convert_aligner(folder, tmp_path / "out", encoder="fp32", decoders={"onnx": precision})
    aligner = Aligner(bundle, threads=1)
    samples, words = read_audio(clip)[:50_000], split_words(TEXT)
    found = aligner._classify(samples, words)

    config = read_config(folder)
    classes = bundle.model["classes"]
    with open_checkpoint(
        folder, expected=expected_shapes(config) | {"lm_head.weight": (classes, config.hidden_size)}
    ) as tensors:
        weights = {name: torch.from_numpy(tensors.get(name)) for name in tensors.names()}
    head = weights.pop("lm_head.weight")
    network = Qwen3ASR(config)
    network.load_state_dict(weights)
    network.eval()
    timestamp, ids = bundle.model["timestamp_token_id"], []
    for word in words:
        ids += [*aligner._tokenizer.encode(sounds(word)).ids, timestamp, timestamp]
    with torch.inference_mode():
        mel = torch.from_numpy(clip_features(samples, bundle.features))
        (audio,) = network.audio_tower([mel])
        tokens = [config.audio_start_token_id, *[config.audio_token_id] * len(audio), config.audio_end_token_id, *ids]
        logits = network.model(network.embed(torch.tensor([tokens]), [audio])) @ head.T
    expected = logits[0, [place for place, token in enumerate(tokens) if token == timestamp]].argmax(dim=1).tolist()
    assert len(found) == len(expected) == 2 * len(words)
    assert np.mean(np.array(found) == expected) >= agreement
