"""The pretraining task: masks, temperature, losses per masked frame, and the collapse monitor."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from linnet.data.batching import Loader
from linnet.data.clips import load_clips
from linnet.models.wav2vec2.checkpoint import initial_weights, save_assets
from linnet.models.wav2vec2.config import Wav2Vec2PretrainConfig
from linnet.models.wav2vec2.data import Batch, Preflight, WaveDataset, preflight, read_manifests, warn
from linnet.models.wav2vec2.masking import span_mask
from linnet.models.wav2vec2.model import initialise
from linnet.models.wav2vec2.monitor import CollapseMonitor
from linnet.models.wav2vec2.pretraining import PretrainingLosses, Wav2Vec2ForPreTraining, initialise_heads
from linnet.train.task import Split, StepOutput


class Wav2Vec2PretrainingTask:
    """The `Task` of pretraining; also `Monitored`."""

    def __init__(self, config: Wav2Vec2PretrainConfig) -> None:
        self.config = config
        self.train = read_manifests(config.train_manifests, what="--train-manifests")
        dev = read_manifests(config.dev_manifests, what="--dev-manifests") if config.dev_manifests else []
        self.dev = dev[:: max(1, len(dev) // config.dev_utterances)][: config.dev_utterances]
        self.shape, self._weights = config.shape, None
        if config.init_from:
            self.shape, self._weights = initial_weights(config.init_from, parts=("quantizer",))
        self.monitor = CollapseMonitor(
            config.collapse, negatives=config.negatives, checkpoint=config.run_dir / "checkpoints" / "last"
        )
        self.preflight: Preflight | None = None

    def build_model(self) -> nn.Module:
        """A fresh or pretrained network; everything is trainable."""
        config = self.config
        model = Wav2Vec2ForPreTraining(
            self.shape,
            config.regularisation,
            kappa=config.kappa,
            diversity_weight=config.diversity_weight,
            penalty_weight=config.penalty_weight,
            negatives=config.negatives,
        )
        if self._weights is not None:
            model.load_state_dict(self._weights)
        else:
            initialise(model)
            initialise_heads(model, quantizer_std=config.quantizer_std)
        model.wav2vec2.feature_gradient = config.feature_gradient
        model.wav2vec2.feature_extractor.gradient_checkpointing = config.gradient_checkpointing
        model.wav2vec2.encoder.gradient_checkpointing = config.gradient_checkpointing
        return model

    def build_loader(self, split: Split) -> Loader:
        """Batches of `batch_audio_s` seconds; what pre-flight leaves out is in preflight.json."""
        config, train = self.config, split == "train"
        utterances, clips = load_clips(self.train if train else self.dev, config.run_dir.parent / "cache")
        found = preflight(utterances, clips, self.shape, min_duration_s=config.min_duration_s)
        if train:
            self.preflight = found
            warn(found, "training data")
        dataset = WaveDataset(clips, found, seed=config.seed, crop_s=config.crop_s)
        workers = config.workers if train else 0
        return dataset.loader(max_batch_s=config.batch_audio_s, workers=workers, shuffle=train)

    def step(self, model: nn.Module, batch: Batch, step: int) -> StepOutput:
        """Losses per masked frame; the frames are the batch's weight."""
        losses: PretrainingLosses = model(
            batch.samples, batch.lengths, self.mask(batch), temperature=self.temperature(step)
        )
        return StepOutput(losses.loss, _logs(losses) | {"temperature": self.temperature(step)}, losses.masked)

    def mask(self, batch: Batch) -> Tensor:
        """Mask [B, T] of a batch."""
        lengths = batch.lengths
        for kernel, stride in zip(self.shape.conv_kernel, self.shape.conv_stride, strict=True):
            lengths = (lengths - kernel).div(stride, rounding_mode="floor") + 1
        width = self.shape.frames(batch.samples.shape[1])
        config = self.config
        return span_mask(lengths, width, share=config.mask_share, length=config.mask_length, at_least=2)

    def temperature(self, step: int) -> float:
        """Of the Gumbel softmax."""
        start, end, decay = self.config.temperature
        return max(end, start * decay**step)

    def check(self, step: int, figures: dict[str, float]) -> bool:
        """The collapse monitor."""
        return self.monitor.check(step, figures)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Share of masked frames whose target is not found, and more; always the same masks and negatives.

        The share and not the loss selects the best checkpoint: a collapsed network has a loss of 0.
        """
        if not self.dev:
            return {}
        device = next(model.parameters()).device
        sums: dict[str, float] = {}
        masked = 0.0
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.config.seed)
            for batch in self.build_loader("dev").epoch(0):
                losses: PretrainingLosses = model(
                    (here := batch.to(device)).samples, here.lengths, self.mask(here), temperature=1.0
                )
                weight = float(losses.masked)
                masked += weight
                for name, value in _logs(losses).items():
                    sums[name] = sums.get(name, 0.0) + weight * value
        means = {name: total / max(1.0, masked) for name, total in sums.items()}
        return {"error": 1.0 - means["accuracy"], **means}

    def save_assets(self, folder: Path) -> None:
        """The shape in Hugging Face's keys, and what pre-flight left out."""
        save_assets(folder, self.shape, None)
        if self.preflight is not None:
            self.preflight.write(folder / "preflight.json")


def _logs(losses: PretrainingLosses) -> dict[str, float]:
    logs = {
        name: float(getattr(losses, name).detach())
        for name in ("contrastive", "diversity", "penalty", "accuracy", "cosine", "negative_cosine")
    }
    return logs | {f"perplexity_{g}": float(value) for g, value in enumerate(losses.perplexity.detach())}
