"""Training a tokenizer: reconstruct the clean log-mel and the clean wave from bits of a corrupted recording.

Losses: L1 of the normalised log-mel, the quantiser's (commitment and entropy), and on the wave multi-resolution STFT
and log-mel. All are means over tokens or clips of all processes: two processes train as one with both batches would.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linnet.data.batching import BucketBatchSampler, Loader
from linnet.data.clips import Clips, load_clips
from linnet.errors import ConfigError
from linnet.features import log_mel
from linnet.manifest import Utterance, read_manifest
from linnet.models.bsq.config import BSQTrainConfig
from linnet.models.bsq.data import Batch, ReconstructionDataset, collate, mel_statistics, token_sample
from linnet.models.bsq.initialise import start_linear
from linnet.models.bsq.model import BSQ, token_mask
from linnet.models.bsq.quantizer import BinarySphericalQuantizer, everywhere
from linnet.models.bsq.waveform import WaveformLoss
from linnet.train.task import Split, StepOutput

DB_PER_NEPER = 10 / math.log(10)  # log-mel is the natural log of a power


@dataclass(frozen=True)
class Losses:
    """All scalars with gradient, except the usage."""

    mel: Tensor
    quantizer: Tensor
    stft: Tensor
    wave_mel: Tensor
    sample_entropy: Tensor
    codebook_entropy: Tensor
    distinct: float
    """Different tokens over all tokens of this process's batch."""


class TrainableBSQ(nn.Module):
    """The tokenizer and its losses; `forward` gives all of them, so that DDP sees one call."""

    def __init__(self, bsq: BSQ, *, hidden_ratio: float) -> None:
        super().__init__()
        self.bsq, self.hidden_ratio = bsq, hidden_ratio
        self.waveform_loss = WaveformLoss(bsq.config.features)
        if hidden_ratio:
            bsq.encoder.allow_masking()

    def forward(self, batch: Batch) -> Losses:
        """Losses of one batch."""
        hidden_tokens = None
        if self.hidden_ratio:
            hidden_tokens = (torch.rand(batch.mask.shape, device=batch.mask.device) < self.hidden_ratio) & batch.mask
        out = self.bsq(batch.input_mel, batch.mask, hidden_tokens)
        counted = batch.mask if hidden_tokens is None else hidden_tokens
        errors = (out.log_mel - self.bsq.normalise(batch.target_mel)).abs().mean(-1)  # [B, F]
        frames = counted.repeat_interleave(self.bsq.config.frames_per_token, dim=1)
        quantized = out.quantized
        stft = wave_mel = quantized.loss.new_zeros(())
        if self.bsq.waveform is not None:
            wave = self.bsq.waveform(out.hidden.float(), batch.mask)
            lengths = batch.mask.sum(1) * self.bsq.config.token_samples
            compared = self.waveform_loss(wave, batch.samples, lengths)
            stft, wave_mel = _mean(compared.stft), _mean(compared.log_mel)
        ids = self.bsq.quantizer.ids(quantized.codes.detach())[batch.mask]
        return Losses(
            mel=_mean(errors[frames]),
            quantizer=quantized.loss,
            stft=stft,
            wave_mel=wave_mel,
            sample_entropy=quantized.sample_entropy,
            codebook_entropy=quantized.codebook_entropy,
            distinct=len(ids.unique()) / max(1, len(ids)),
        )


class BSQTask:
    """The `Task` of this family."""

    def __init__(self, config: BSQTrainConfig) -> None:
        self.config = config
        if not config.train_manifests:
            raise ConfigError("No training data: give --train-manifests a JSONL manifest (see `linnet prepare`).")
        self.train = self._read(config.train_manifests, weighted=True)
        dev = self._read(config.dev_manifests, weighted=False)
        # Spread over the manifest, which lists speaker after speaker.
        self.dev = dev[:: max(1, len(dev) // config.dev_utterances)][: config.dev_utterances]
        if not self.train:
            raise ConfigError("The training manifests hold no recording of the configured corpora.")
        _, clips = self._clips(self.train)
        mean, std = mel_statistics(clips, config.shape.features)
        self.shape = replace(config.shape, mel_mean=tuple(mean.tolist()), mel_std=tuple(std.tolist()))

    def build_model(self) -> nn.Module:
        """A fresh network; everything is trainable."""
        config = self.config
        quantizer = BinarySphericalQuantizer(
            config.shape.bits,
            group_size=config.group_size,
            entropy=config.entropy,
            beta=config.commitment_weight,
            zeta=config.entropy_weight,
            inverse_temperature=config.inverse_temperature,
        )
        bsq = BSQ(self.shape, quantizer)
        start_linear(bsq, token_sample(self._clips(self.train)[1], self.shape))
        bsq.encoder.layers.gradient_checkpointing = config.gradient_checkpointing
        bsq.decoder.layers.gradient_checkpointing = config.gradient_checkpointing
        return TrainableBSQ(bsq, hidden_ratio=config.hidden_ratio)

    def build_loader(self, split: Split) -> Loader:
        """Batches of about `batch_audio_s` seconds."""
        config, training = self.config, split == "train"
        utterances, clips = self._clips(self.train if training else self.dev)
        draws = [config.corpora.get(utterance.corpus or "", 1.0) for utterance in utterances]
        longest = config.crop_s if training else math.inf
        sampler = BucketBatchSampler(
            [min(longest, max(0.1, clips.duration_s(i))) for i in range(len(clips))],
            max_batch_s=config.batch_audio_s,
            seed=config.seed,
            draws=draws if training and config.corpora else None,
            shuffle=training,
            rank=int(os.environ.get("RANK", "0")) if training else 0,
            world_size=int(os.environ.get("WORLD_SIZE", "1")) if training else 1,
        )
        dataset = ReconstructionDataset(clips, config, training=training)
        gather = partial(collate, shape=self.shape)
        return Loader(dataset, sampler, collate=gather, workers=config.workers if training else 0)

    def step(self, model: nn.Module, batch: Batch, step: int) -> StepOutput:
        """Log-mel + quantiser + wave."""
        losses: Losses = model(batch)
        config = self.config
        loss = losses.mel + losses.quantizer
        loss = loss + config.stft_weight * losses.stft + config.wave_mel_weight * losses.wave_mel
        logs = {
            "mel": float(losses.mel.detach()),
            "quantizer": float(losses.quantizer.detach()),
            "stft": float(losses.stft.detach()),
            "wave_mel": float(losses.wave_mel.detach()),
            "sample_entropy_bits": float(losses.sample_entropy.detach()) / math.log(2),
            "codebook_entropy_bits": float(losses.codebook_entropy.detach()) / math.log(2),
            "distinct_tokens": losses.distinct,
            "bits_per_token": float(config.shape.bits),
            "audio_s": float(batch.mask.sum()) / config.shape.tokens_per_s,
        }
        return StepOutput(loss, logs)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Distance in dB between log-mels, the decoder's own and its wave's (means over clips), and use of the code."""
        if not self.dev:
            return {}
        bsq = model.bsq
        assert isinstance(bsq, BSQ)
        _, clips = self._clips(self.dev)
        dataset = ReconstructionDataset(clips, self.config, training=False)
        device = next(bsq.parameters()).device
        pictures, waves, ids = [], [], []
        for index in range(len(dataset)):
            example = dataset[(0, index)]
            mask = token_mask([len(example.samples) // self.shape.token_samples], device=device)
            found = bsq.encode(torch.from_numpy(example.target_mel)[None].to(device), mask)
            picture, wave = bsq.decode(found, mask)
            pictures.append(np.abs(picture[0].cpu().numpy() - example.target_mel).mean())
            if wave is not None:
                heard = log_mel(wave[0].cpu().numpy(), self.shape.features).T
                waves.append(np.abs(heard - example.target_mel).mean())
            ids.append(found[0].cpu())
        figures = {"mel_db": DB_PER_NEPER * float(np.mean(pictures))}
        if waves:
            figures["wave_mel_db"] = DB_PER_NEPER * float(np.mean(waves))
        bits = (bsq.quantizer.codes(torch.cat(ids).to(device)) > 0).double().mean(0).clamp(1e-9, 1 - 1e-9)
        entropy = -(bits * bits.log2() + (1 - bits) * (1 - bits).log2())
        figures["bit_entropy"] = float(entropy.sum())  # of single bits: an upper bound on bits per token
        figures["distinct_tokens"] = len(torch.cat(ids).unique()) / len(torch.cat(ids))
        return figures

    def save_assets(self, folder: Path) -> None:
        """shape.json: the network's shape with the training data's statistics."""
        (folder / "shape.json").write_text(json.dumps(self.shape.to_dict(), indent=2) + "\n")

    def _read(self, manifests: Sequence[Path], *, weighted: bool) -> list[Utterance]:
        """Recordings of the manifests; of the corpora that the configuration names, if it names any."""
        corpora = self.config.corpora if weighted else {}
        found = [utterance for manifest in manifests for utterance in read_manifest(manifest)]
        return [utterance for utterance in found if not corpora or utterance.corpus in corpora]

    def _clips(self, utterances: list[Utterance]) -> tuple[list[Utterance], Clips]:
        rate_hz = self.config.shape.features.sample_rate_hz
        return load_clips(utterances, self.config.run_dir.parent / "cache", sample_rate_hz=rate_hz)


def _mean(values: Tensor) -> Tensor:
    """Mean over the values of all processes."""
    count: Any = torch.tensor(float(values.numel()), device=values.device)
    return everywhere(values.sum()) / everywhere(count).clamp_min(1.0)
