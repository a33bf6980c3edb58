"""Four ways to bring sound and sight together, all of the same signature; each returns x [B, L, D].

    simple      a linear layer on both, side by side
    weighted    a learned weight per stream and feature, the same at all times; present streams share the weight
    attention   each stream looks at the other along time, a little out of step as lips and voice are; then both add up
    adaptive    a gate per step and feature, which sees both streams, whether they are there, and how sure each is

Shapes: B clips, L steps, D width, V vocabulary; `has_*` are masks [B, L, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from linnet.runtime.avsr_config import AVSRConfig, attention_slopes


class SimpleFusion(nn.Module):
    """Concatenation and a linear layer."""

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * config.width, config.width)

    def forward(
        self, audio: Tensor, video: Tensor, has_audio: Tensor, has_video: Tensor, _audio: Tensor, _video: Tensor
    ) -> Tensor:
        mixed: Tensor = self.mix(torch.cat([audio, video], -1))
        return mixed


class WeightedFusion(nn.Module):
    """A convex combination per feature with learned weights; an absent stream's share goes to the other."""

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, config.width))
        self.mix = nn.Linear(config.width, config.width)

    def forward(
        self, audio: Tensor, video: Tensor, has_audio: Tensor, has_video: Tensor, _audio: Tensor, _video: Tensor
    ) -> Tensor:
        share = self.weights.softmax(0)
        audio_share, video_share = share[0] * has_audio, share[1] * has_video
        # 1e-6 for steps with neither stream, which are padding.
        x = (audio * audio_share + video * video_share) / (audio_share + video_share + 1e-6)
        mixed: Tensor = self.mix(x)
        return mixed


class AttentionFusion(nn.Module):
    """Cross-attention both ways with a bias against distance, then the sum of what the streams became."""

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        self.to_video = CrossAttention(config)
        self.to_audio = CrossAttention(config)

    def forward(
        self, audio: Tensor, video: Tensor, has_audio: Tensor, has_video: Tensor, _audio: Tensor, _video: Tensor
    ) -> Tensor:
        heard = audio + self.to_video(audio, video, has_video)
        seen = video + self.to_audio(video, audio, has_audio)
        return heard + seen


class CrossAttention(nn.Module):
    """Queries of one stream, keys and values of the other; a learned "nothing" can always be attended to."""

    slopes: Tensor

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.nothing = nn.Parameter(torch.zeros(config.attention_heads))
        self.register_buffer("slopes", torch.from_numpy(attention_slopes(config.attention_heads)), persistent=False)

    def forward(self, x: Tensor, other: Tensor, has_other: Tensor) -> Tensor:
        batch, steps, width = x.shape
        split = (batch, steps, self.heads, width // self.heads)
        query, key, value = (
            layer(part).view(split).transpose(1, 2)  # [B, H, L, D/H]
            for layer, part in ((self.query, x), (self.key, other), (self.value, other))
        )
        places = torch.arange(steps, device=x.device)
        distance = (places[:, None] - places[None]).abs()
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        scores = scores - self.slopes[:, None, None] * distance
        scores = scores.masked_fill(has_other[:, None, None, :, 0] == 0, -1e9)
        nothing = self.nothing[None, :, None, None].expand(batch, -1, steps, 1)
        weights = torch.cat([scores, nothing], -1).softmax(-1)[..., :-1]
        seen: Tensor = self.out((weights @ value).transpose(1, 2).reshape(batch, steps, width))
        return seen


class AdaptiveFusion(nn.Module):
    """A gate per step and feature between the streams, from the streams themselves and from how reliable each is.

    Reliability is what the stream's own CTC head says: the entropy of its distribution over symbols and the
    probability of the likeliest one, averaged over about half a second (stream weighting by entropy: Gurban & Thiran
    2008). Noise raises the entropy, a closed or hidden mouth too.
    """

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * config.width + 6, config.width)
        self.gate = nn.Linear(config.width, config.width)
        self.mix = nn.Linear(config.width, config.width)

    def forward(
        self,
        audio: Tensor,
        video: Tensor,
        has_audio: Tensor,
        has_video: Tensor,
        audio_log_probs: Tensor,
        video_log_probs: Tensor,
    ) -> Tensor:
        seen = [
            audio,
            video,
            reliability(audio_log_probs, has_audio),
            reliability(video_log_probs, has_video),
            has_audio,
            has_video,
        ]
        # Never quite 0 or 1: an only stream must come through whatever the gate thinks of it.
        gate = 0.01 + 0.98 * self.gate(torch.relu(self.hidden(torch.cat(seen, -1)))).sigmoid()
        audio_share = gate * has_audio
        video_share = (1 - gate) * has_video
        x = (audio * audio_share + video * video_share) / (audio_share + video_share + 1e-6)
        mixed: Tensor = self.mix(x)
        return mixed


RELIABILITY_STEPS = 13  # 0.52 s


def reliability(log_probs: Tensor, has: Tensor) -> Tensor:
    """Entropy / log V and largest probability [B, L, 2] of log_probs [B, L, V], averaged over neighbours that exist.

    The heads learn from their own CTC loss alone: through here they would learn to look sure.
    """
    log_probs = log_probs.detach()
    probabilities = log_probs.exp()
    entropy = -(probabilities * log_probs).sum(-1, keepdim=True) / math.log(log_probs.shape[-1])
    raw = torch.cat([entropy, probabilities.amax(-1, keepdim=True)], -1) * has
    pooled = nn.functional.avg_pool1d(
        torch.cat([raw, has], -1).transpose(1, 2), RELIABILITY_STEPS, stride=1, padding=RELIABILITY_STEPS // 2
    ).transpose(1, 2)
    return pooled[..., :2] / (pooled[..., 2:] + 1e-6) * has


FUSION_OF: dict[str, Callable[[AVSRConfig], nn.Module]] = {
    "simple": SimpleFusion,
    "weighted": WeightedFusion,
    "attention": AttentionFusion,
    "adaptive": AdaptiveFusion,
}
