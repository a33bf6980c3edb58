"""A tiny Qwen3-ASR with random weights, and the tokenizer of a model trained from scratch."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.models.qwen3_asr.task import shape_for
from linnet.models.qwen3_asr.tokenizer import train_tokenizer
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

TEXTS = ["one two three", "the cat sat on the mat", "zero nine eight", "it's seven o'clock", "你好", "three cats"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=320)


@pytest.fixture(scope="session")
def config(tokenizer: Tokenizer) -> Qwen3ASRConfig:
    """Every size is different, so that a swapped pair of dimensions cannot pass."""
    shape = Qwen3ASRConfig(
        n_mels=128,
        conv_channels=6,
        d_model=24,
        encoder_layers=2,
        encoder_heads=3,
        encoder_ffn_dim=40,
        output_dim=32,
        vocab_size=0,
        hidden_size=32,
        decoder_layers=3,
        decoder_heads=4,
        decoder_kv_heads=2,
        head_dim=16,
        intermediate_size=48,
        audio_token_id=0,
        audio_start_token_id=0,
        audio_end_token_id=0,
        eos_token_ids=(0,),
    )
    return shape_for(tokenizer, shape)


@pytest.fixture
def model(config: Qwen3ASRConfig) -> Qwen3ASR:
    """In evaluation mode; weights large enough that greedy answers vary."""
    torch.manual_seed(0)
    model = Qwen3ASR(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()
