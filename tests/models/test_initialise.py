"""Fresh weights: the sound reaches the transformer, layers start weak, and heads look at their neighbours."""

from __future__ import annotations

import numpy as np
import torch

from linnet.audio import read_audio
from linnet.features import WHISPER_128, log_mel
from linnet.models.presets import NANO
from linnet.models.qwen3_asr.initialise import NEIGHBOURS, initialise
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.runtime.loader import _ASSETS


def fresh() -> Qwen3ASR:
    torch.manual_seed(0)
    asr = Qwen3ASR(NANO.shape).eval()
    initialise(asr)
    return asr


@torch.no_grad()
def test_heads_of_the_first_layers_attend_to_their_neighbours() -> None:
    tower = fresh().audio_tower
    mel = torch.from_numpy(log_mel(read_audio(_ASSETS / "sample.flac"), WHISPER_128))
    x = tower.convolve([mel])[0][None]
    for layer in list(tower.layers)[:2]:
        attention = layer.self_attn
        seen = layer.self_attn_layer_norm(x)
        split = (1, -1, attention.heads, x.shape[2] // attention.heads)
        queries, keys = (p(seen).view(split).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
        weights = (queries @ keys.transpose(2, 3) / split[3] ** 0.5).softmax(-1)[0]
        for head, offset in enumerate(NEIGHBOURS):
            # More than half of the attention lies within two tokens of where the head is to look.
            shares = [
                float(weights[head, at, at + offset - 2 : at + offset + 3].sum()) for at in range(8, x.shape[1] - 8)
            ]
            assert np.mean(shares) > 0.5, (head, np.mean(shares))
        x = layer(x, None)


@torch.no_grad()
def test_the_sound_is_as_strong_as_the_positions_and_grows_little() -> None:
    tower = fresh().audio_tower
    mel = torch.from_numpy(log_mel(read_audio(_ASSETS / "sample.flac"), WHISPER_128))
    x = tower.convolve([mel])[0]
    sound = x - tower.positions[: len(x)]
    assert 0.3 < float(sound.std(0).mean() / tower.positions[: len(x)].std(0).mean()) < 6
    deep = x[None]
    for layer in tower.layers:
        deep = layer(deep, None)
    assert float(deep.std() / x.std()) < 2  # Xavier alone made it 2.6
