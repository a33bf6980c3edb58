"""The audio-visual recogniser: two encoders, temporal blocks, one of four fusions, a CTC head.

Specification in README.md. Everything that mixes time is masked, so a clip gives the same answer alone and in a batch.

Shapes: B clips, M mel bands, F mel frames, T video frames, S pixels, L = max(⌈F/4⌉, T) steps, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.errors import ConfigError
from linnet.models.avsr.fusion import FUSION_OF
from linnet.runtime.avsr_config import MAX_PARAMETERS, AVSRConfig, Vocabulary

EPSILON = 1e-5
_CONTRAST = 8.0  # grey levels added to a picture's own contrast: a black frame must not become amplified noise


class Output(NamedTuple):
    """Log-probabilities [B, L, V] of all streams together and of each alone, and the valid steps of each [B]."""

    log_probs: Tensor
    lengths: Tensor
    audio_log_probs: Tensor
    audio_lengths: Tensor
    video_log_probs: Tensor
    video_lengths: Tensor


class AVSR(nn.Module):
    """Reads a log-mel and mouth pictures; either may be absent (length 0)."""

    def __init__(self, config: AVSRConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.audio = AudioEncoder(config)
        self.video = VideoEncoder(config)
        self.audio_blocks = nn.ModuleList(Block(config) for _ in range(config.stream_blocks))
        self.video_blocks = nn.ModuleList(Block(config) for _ in range(config.stream_blocks))
        self.audio_head = nn.Linear(config.width, len(vocabulary))
        self.video_head = nn.Linear(config.width, len(vocabulary))
        self.no_audio = nn.Parameter(torch.zeros(config.width))
        self.no_video = nn.Parameter(torch.zeros(config.width))
        self.fusion = FUSION_OF[config.fusion](config)
        self.joint_blocks = nn.ModuleList(Block(config) for _ in range(config.joint_blocks))
        self.norm = nn.LayerNorm(config.width, EPSILON)
        self.head = nn.Linear(config.width, len(vocabulary))
        count = sum(parameter.numel() for parameter in self.parameters())
        if count >= MAX_PARAMETERS:
            raise ConfigError(f"The network has {count:,} parameters; accepted: below {MAX_PARAMETERS:,}. Narrow it.")

    def forward(self, mel: Tensor, mel_frames: Tensor, video: Tensor, video_frames: Tensor) -> Output:
        """mel float [B, M, F], video uint8 [B, T, S, S]; valid frames of each [B] (0: the stream is absent)."""
        audio, audio_lengths = self.audio(mel, mel_frames)
        pictures, video_lengths = self.video(video, video_frames), video_frames
        steps = max(audio.shape[1], pictures.shape[1])
        lengths = torch.maximum(audio_lengths, video_lengths)
        audio, has_audio = _stretch(audio, audio_lengths, steps)
        pictures, has_video = _stretch(pictures, video_lengths, steps)
        for block in self.audio_blocks:
            audio = block(audio, has_audio)
        for block in self.video_blocks:
            pictures = block(pictures, has_video)
        audio_log_probs = self.audio_head(audio).log_softmax(-1)
        video_log_probs = self.video_head(pictures).log_softmax(-1)
        mask = _mask(lengths, steps)
        x = self.fusion(
            # Where a stream is absent, a learned vector says so: zeros could mean silence.
            torch.where(has_audio > 0, audio, self.no_audio) * mask,
            torch.where(has_video > 0, pictures, self.no_video) * mask,
            has_audio,
            has_video,
            audio_log_probs,
            video_log_probs,
        )
        x = x * mask
        for block in self.joint_blocks:
            x = block(x, mask)
        log_probs = self.head(self.norm(x)).float().log_softmax(-1)
        return Output(log_probs, lengths, audio_log_probs, audio_lengths, video_log_probs, video_lengths)


class AudioEncoder(nn.Module):
    """Three 3×3 convolutions, which halve the bands each time and the frames twice, then one vector per step."""

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        first, second, third = config.audio_channels
        self.conv1 = nn.Conv2d(1, first, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, stride=(2, 1), padding=1)
        self.project = nn.Linear(third * config.n_mels // 8, config.width)
        self.norm = nn.LayerNorm(config.width, EPSILON)
        _initialise(self)

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, ⌈F/4⌉, D] of mel [B, M, F], zero beyond the second result, the valid steps [B]."""
        x = (mel * _mask(frames, mel.shape[2]).transpose(1, 2))[:, None]
        for conv, halves in ((self.conv1, True), (self.conv2, True), (self.conv3, False)):
            if halves:
                frames = (frames + 1) // 2
            x = F.relu(conv(x))
            x = x * _mask(frames, x.shape[3])[:, None].transpose(2, 3)  # [B, C, bands, frames]
        x = x.permute(0, 3, 1, 2).flatten(2)
        return self.norm(self.project(x)) * _mask(frames, x.shape[1]), frames


class VideoEncoder(nn.Module):
    """Three convolutions of stride 2 on each picture, mean-pooled to 2 × 2 places, then one vector per picture.

    Pooling keeps the projection at 4·C·D weights; flattening the whole map would take most of the parameters.
    """

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        first, second, third = config.video_channels
        self.conv1 = nn.Conv2d(1, first, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, stride=2, padding=1)
        self.pool = config.video_px // 16
        self.project = nn.Linear(4 * third, config.width)
        self.norm = nn.LayerNorm(config.width, EPSILON)
        _initialise(self)

    def forward(self, video: Tensor, frames: Tensor) -> Tensor:
        """Features [B, T, D] of pictures uint8 [B, T, S, S], zero beyond `frames` [B]."""
        batch, count = video.shape[:2]
        x = video.flatten(0, 1)[:, None].float()  # [B·T, 1, S, S]
        mean = x.mean((2, 3), keepdim=True)
        # Each picture's own brightness and contrast: neither skin nor lamp says what is spoken.
        x = (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True).sqrt() + _CONTRAST)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu(conv(x))
        x = F.avg_pool2d(x, self.pool).flatten(1)
        return self.norm(self.project(x)).view(batch, count, -1) * _mask(frames, count)


class Block(nn.Module):
    """Depth-wise convolution along time, then two linear layers, added to the input (ConvNeXt, Liu et al. 2022)."""

    def __init__(self, config: AVSRConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            config.width, config.width, config.kernel, padding=config.kernel // 2, groups=config.width
        )
        self.norm = nn.LayerNorm(config.width, EPSILON)
        self.up = nn.Linear(config.width, 2 * config.width)
        self.down = nn.Linear(2 * config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, L, D] → [B, L, D]; both zero where `mask` [B, L, 1] is."""
        mixed = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return (x + self.down(F.gelu(self.up(self.norm(mixed))))) * mask


def _mask(lengths: Tensor, steps: int) -> Tensor:
    """1.0 on the first `lengths` [B] steps, else 0.0: [B, steps, 1]."""
    return (torch.arange(steps, device=lengths.device)[None] < lengths[:, None]).float()[..., None]


def _stretch(x: Tensor, lengths: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """x [B, L', D] with zeros up to `steps`, and its mask."""
    return F.pad(x, (0, 0, 0, steps - x.shape[1])), _mask(lengths, steps)


def _initialise(encoder: nn.Module) -> None:
    """Keep the variance through ReLU (He et al. 2015); torch's default loses most of it in three convolutions."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
