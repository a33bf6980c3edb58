"""From the decoder's states to sound: a Vocos-style head (Siuzdak 2023, arXiv:2306.00814) and its losses.

ConvNeXt blocks along time at the frame rate predict log-magnitude and phase of every frame's spectrum; the inverse
STFT does the upsampling. Losses on the wave: multi-resolution STFT (Yamamoto et al. 2020, arXiv:1910.11480), log-mel.

Shapes: B clips, T tokens, C channels, R frames per token, F = T·R frames, K = n_fft / 2 + 1 bins, N = F·hop samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.features import FeatureSpec, mel_filters
from linnet.runtime.bsq_config import BSQConfig

MAX_LOG_MAGNITUDE = 6.0  # e⁶: above any spectrum of samples in −1…1 with these windows; keeps exp finite
QUIET = 5.0  # norm of a second of −60 dB noise: below it, spectral convergence would be a division by nothing
RESOLUTIONS = ((256, 64), (640, 160), (2048, 512))  # (n_fft, hop) of the STFT losses


class WaveformHead(nn.Module):
    """Decoder states → samples."""

    window: Tensor

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        self.config = config
        width, bins = config.waveform_channels, config.features.n_fft // 2 + 1
        self.embed = nn.Linear(config.d_model, config.frames_per_token * width)
        self.blocks = nn.ModuleList(ConvNeXt(config) for _ in range(config.waveform_layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 2 * bins)
        self.register_buffer("window", torch.hann_window(config.features.n_fft), persistent=False)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Samples [B, N] of states [B, T, C]; zeros where mask [B, T] is False."""
        real = mask.repeat_interleave(self.config.frames_per_token, dim=1)
        wave = inverse_stft(self.spectrum(hidden, real), self.config.features, self.window, real)
        return wave * mask.repeat_interleave(self.config.token_samples, dim=1)

    def spectrum(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Complex spectra [B, F, K], zeros where real [B, F] is False."""
        x = self.embed(hidden).unflatten(2, (self.config.frames_per_token, -1)).flatten(1, 2)  # [B, F, C]
        for block in self.blocks:
            x = block(x, real)
        magnitude, phase = self.project(self.norm(x)).chunk(2, dim=-1)
        size = magnitude.clamp_max(MAX_LOG_MAGNITUDE).exp() * real[..., None]
        return torch.complex(size * phase.cos(), size * phase.sin())


class ConvNeXt(nn.Module):
    """Depthwise convolution along time, layer norm, two linear layers (Liu et al. 2022, arXiv:2201.03545)."""

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        width, kernel = config.waveform_channels, config.waveform_kernel
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 3 * width)
        self.fc2 = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1 / max(1, config.waveform_layers)))
        self.padding = (kernel - 1, 0) if config.block_tokens else (kernel // 2, kernel // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, F, C] → [B, F, C]; frames where mask [B, F] is False are read as zeros."""
        branch = x.masked_fill(~mask[..., None], 0.0).transpose(1, 2)
        branch = self.depthwise(F.pad(branch, self.padding)).transpose(1, 2)
        return x + self.scale * self.fc2(F.gelu(self.fc1(self.norm(branch))))


def inverse_stft(spectrum: Tensor, features: FeatureSpec, window: Tensor, real: Tensor) -> Tensor:
    """Samples [B, F · hop] of centred frames, complex [B, F, K]: overlap-add over the sum of the squared windows.

    Frames where real [B, F] is False have no window, so that a clip ends alike with and without padding.
    """
    n_fft, hop, frames = features.n_fft, features.hop_length, spectrum.shape[1]
    pieces = torch.fft.irfft(spectrum, n=n_fft, dim=-1) * window  # [B, F, n_fft]
    total = (frames - 1) * hop + n_fft
    fold = {"output_size": (1, total), "kernel_size": (1, n_fft), "stride": (1, hop)}
    wave = F.fold(pieces.transpose(1, 2), **fold)[:, 0, 0]
    weights = F.fold((window**2)[:, None] * real[:, None].to(window.dtype), **fold)[:, 0, 0]
    start = n_fft // 2
    stop = start + frames * hop
    wave, weights = (F.pad(part, (0, max(0, stop - total)))[:, start:stop] for part in (wave, weights))
    return wave / weights.clamp_min(1e-3)


@dataclass(frozen=True)
class WaveformLosses:
    """One number per clip [B], each a mean over its real frames."""

    stft: Tensor
    """Spectral convergence plus L1 of log-magnitudes, mean over RESOLUTIONS."""
    log_mel: Tensor
    """L1 of log-mel in natural log, mean over bands."""


class WaveformLoss(nn.Module):
    """Compare samples [B, N] with the clean ones, both zero on padding."""

    filters: Tensor

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("filters", torch.from_numpy(mel_filters(features).copy()), persistent=False)
        for n_fft in {size for size, _ in RESOLUTIONS} | {features.n_fft}:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor, lengths: Tensor) -> WaveformLosses:
        """`lengths` [B] counts each clip's real samples."""
        spec = self.features
        own = (spec.n_fft, spec.hop_length)
        # Silence behind every clip, so that the frames across its end are counted in any company.
        waves = F.pad(torch.cat([estimate, reference]), (0, max(n_fft for n_fft, _ in (*RESOLUTIONS, own))))
        spectra = {size: self._magnitude(waves, *size) for size in {*RESOLUTIONS, own}}
        terms = []
        for n_fft, hop in RESOLUTIONS:
            guess, wanted = spectra[n_fft, hop].chunk(2)  # [B, K, frames]
            convergence = (guess - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2)).clamp_min(QUIET)
            logs = (guess.log() - wanted.log()).abs().mean(1).sum(1) / (lengths / hop)
            terms.append(convergence + logs)
        mel = self.filters @ spectra[own].square()
        guess, wanted = mel.clamp_min(1e-7).log().chunk(2)
        mels = (guess - wanted).abs().mean(1).sum(1) / (lengths / spec.hop_length)
        return WaveformLosses(torch.stack(terms).mean(0), mels)

    def _magnitude(self, wave: Tensor, n_fft: int, hop: int) -> Tensor:
        """[B, K, frames], at least 1e-4: quieter bins are below the noise of 16 bits."""
        # Zeros beyond the ends, as behind a clip that is padded: the longest clip of a batch must not be special.
        window = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(wave, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
        return spectrum.abs().clamp_min(1e-4)
