"""The fine-tuning task: CTC over characters, convolutions frozen, the transformer unfrozen in stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linnet import ctc
from linnet.data.batching import Loader
from linnet.data.clips import load_clips
from linnet.errors import ConfigError
from linnet.manifest import Utterance
from linnet.metrics import cer, wer
from linnet.models.wav2vec2.checkpoint import FROZEN, initial_vocabulary, initial_weights, save_assets
from linnet.models.wav2vec2.config import Wav2Vec2CtcConfig
from linnet.models.wav2vec2.data import Batch, Preflight, WaveDataset, preflight, read_manifests, warn
from linnet.models.wav2vec2.model import Wav2Vec2ForCTC, initialise
from linnet.runtime.wav2vec2_vocabulary import Vocabulary, vocabulary_of
from linnet.train.task import Split, StepOutput


class Wav2Vec2CtcTask:
    """The `Task` of fine-tuning; also `LayerwiseRates`."""

    def __init__(self, config: Wav2Vec2CtcConfig) -> None:
        self.config = config
        self.train = _labelled(read_manifests(config.train_manifests, what="--train-manifests"))
        dev = _labelled(read_manifests(config.dev_manifests, what="--dev-manifests")) if config.dev_manifests else []
        self.dev = dev[:: max(1, len(dev) // config.dev_utterances)][: config.dev_utterances]
        self.shape, self._weights = config.shape, dict[str, Tensor]()
        known: Vocabulary | None = None
        if config.init_from:
            known = initial_vocabulary(config.init_from)
            parts = ("lm_head",) if known else ()
            self.shape, self._weights = initial_weights(config.init_from, parts=parts)
        texts = [(utterance.text or "", utterance.language) for utterance in self.train]
        self.vocabulary = known or vocabulary_of(texts, min_count=config.min_character_count)
        if known is None:
            self.shape = replace(self.shape, vocab_size=len(self.vocabulary.labels), blank_id=0)
        self.languages = sorted({utterance.language for utterance in self.train if utterance.language})
        self.preflight: Preflight | None = None
        self._model: Wav2Vec2ForCTC | None = None

    def build_model(self) -> nn.Module:
        """The network with its head; pretrained convolutions are frozen."""
        config = self.config
        model = Wav2Vec2ForCTC(self.shape, config.regularisation)
        initialise(model)
        if config.init_from:
            missing, unexpected = model.load_state_dict(self._weights, strict=False)
            if unexpected or {name.split(".")[0] for name in missing} - {"lm_head"}:
                raise ConfigError(f"{config.init_from} does not fit the network: {[*missing, *unexpected][:5]}.")
            if config.freeze_feature_encoder:
                model.wav2vec2.feature_extractor.requires_grad_(False)
        if not config.regularisation.mask_time:
            model.wav2vec2.masked_spec_embed.requires_grad_(False)
        model.wav2vec2.encoder.gradient_checkpointing = config.gradient_checkpointing
        model.wav2vec2.feature_extractor.gradient_checkpointing = config.gradient_checkpointing
        self._model = model
        return model

    def build_loader(self, split: Split) -> Loader:
        """Batches of `batch_audio_s` seconds; what pre-flight leaves out is in preflight.json."""
        config = self.config
        if split == "dev":
            return self._dev().loader(max_batch_s=config.batch_audio_s, shuffle=False)
        utterances, clips = load_clips(self.train, config.run_dir.parent / "cache")
        found = preflight(
            utterances,
            clips,
            self.shape,
            vocabulary=self.vocabulary,
            max_duration_s=config.max_duration_s,
            max_left_out=config.max_left_out,
        )
        self.preflight = found
        warn(found, "training data")
        dataset = WaveDataset(
            clips, found, seed=config.seed, augment=config.augment, normalised=self.vocabulary.normalise
        )
        return dataset.loader(max_batch_s=config.batch_audio_s, workers=config.workers)

    def lr_ratio(self, name: str) -> float:
        """Head, then layer by layer downwards."""
        if name.startswith("lm_head."):
            return self.config.head_lr_ratio
        depth = self.shape.layers + 1  # projection, positions and convolutions lie below the first layer
        if ".encoder.layers." in name:
            depth = self.shape.layers - int(name.split(".encoder.layers.")[1].split(".")[0])
        elif name.startswith("wav2vec2.encoder.layer_norm") and self.shape.pre_norm:
            depth = 0
        return float(self.config.layer_lr_decay**depth)

    def step(self, model: nn.Module, batch: Batch, step: int) -> StepOutput:
        """CTC per target label; the labels are the batch's weight."""
        frozen = self.config.frozen_layers(step, self.shape.layers)
        logits, frames = model(batch.samples, batch.lengths, frozen_layers=frozen)
        loss, labels = ctc_loss(logits, frames, batch.targets, blank=self.shape.blank_id)
        logs = {
            "ctc": float(loss.detach()),
            "frozen_layers": float(frozen),
            "audio_s": float(batch.lengths.sum()) / 16e3,
        }
        return StepOutput(loss, logs, labels)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """WER and CER of greedy decoding, scored as `linnet evaluate` does."""
        if not self.dev:
            return {}
        utterances, _ = load_clips(self.dev, self.config.run_dir.parent / "cache")
        device = next(model.parameters()).device
        dataset = self._dev()
        hypotheses = [""] * len(utterances)  # a clip that is too short or silent has no words
        loader = dataset.loader(max_batch_s=self.config.batch_audio_s, shuffle=False)
        order = [key[1] for batch in loader.sampler.batches(0) for key in batch]
        position = 0
        for batch in loader.epoch(0):
            logits, frames = model(batch.samples.to(device), batch.lengths.to(device))
            log_probs = logits.float().log_softmax(-1).cpu().numpy()
            for row, count in enumerate(frames.tolist()):
                hypotheses[dataset.found.kept[order[position]]] = self.decode(log_probs[row, :count])
                position += 1
        references = [utterance.text or "" for utterance in utterances]
        language = utterances[0].language or "en"
        return {
            "wer": wer(references, hypotheses, language=language).rate,
            "cer": cer(references, hypotheses, language=language).rate,
        }

    def decode(self, log_probs: np.ndarray) -> str:
        """Greedy text of log_probs [T, V]."""
        decoded = ctc.greedy(log_probs, blank_id=self.shape.blank_id, frame_s=self.shape.frame_s)
        return " ".join(word.text for word in self.vocabulary.words(decoded))

    def save_assets(self, folder: Path) -> None:
        """Shape, vocabulary, languages, frozen weights, and what pre-flight left out."""
        save_assets(folder, self.shape, self.vocabulary, languages=self.languages)
        if self.preflight is not None:
            self.preflight.write(folder / "preflight.json")
        if self._model is not None:
            frozen = {name: p.detach().cpu() for name, p in self._model.named_parameters() if not p.requires_grad}
            if frozen and not (folder / FROZEN).exists():
                save_file(frozen, folder / FROZEN)
            elif frozen:  # a resumed run goes on with what it began with
                self._model.load_state_dict(load_file(folder / FROZEN), strict=False)

    def _dev(self) -> WaveDataset:
        utterances, clips = load_clips(self.dev, self.config.run_dir.parent / "cache")
        found = preflight(utterances, clips, self.shape)
        return WaveDataset(clips, found, seed=self.config.seed, normalised=self.vocabulary.normalise)


def ctc_loss(logits: Tensor, frames: Tensor, targets: Sequence[Tensor], *, blank: int) -> tuple[Tensor, Tensor]:
    """CTC (float32) per target label of logits [B, T, V] with `frames` [B] real ones, and the number of labels.

    Pre-flight has left out what does not fit, so that nothing infinite has to be hidden here.
    """
    counts = torch.tensor([len(target) for target in targets], device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            torch.cat(list(targets)),
            frames,
            counts,
            blank=blank,
            reduction="sum",
        )
    total = counts.sum()
    return loss / total.clamp(min=1), total


def _labelled(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Those with a text, be it empty (pre-flight names these); machine-made references are not."""
    return [utterance for utterance in utterances if utterance.text is not None]
