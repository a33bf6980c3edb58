"""Training the audio-visual recogniser: CTC on both streams together and on each alone.

Before training, every target is held against the steps of its clip: CTC gives an infinite loss where labels do not
fit, and hiding that (`zero_infinity`) is how a model can train for days on nothing. Clips that do not fit, or whose
transcript has characters outside the vocabulary, are left out, counted and named in `<run>/left_out.txt`.

Shapes: B clips, M mel bands, F mel frames, T pictures of S × S pixels, L steps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet import noise as noises
from linnet.audio import SAMPLE_RATE_HZ
from linnet.ctc import greedy, min_frames
from linnet.data.av_dataset import AVDataset, AVExample, VideoAugment
from linnet.data.batching import BucketBatchSampler, Loader
from linnet.data.clips import Clips, load_clips
from linnet.data.video import Mouths, load_mouths
from linnet.errors import AudioContentError, CheckpointError, ConfigError, TrainingError
from linnet.features import log_mel
from linnet.manifest import Utterance, read_manifest
from linnet.metrics import cer, wer
from linnet.models.avsr.config import AVSRTrainConfig
from linnet.models.avsr.model import AVSR, Output
from linnet.runtime.avsr_config import CLOCK_HZ, Vocabulary, steps
from linnet.train.run_folder import RunFolder
from linnet.train.task import Split, StepOutput

SHAPE_FILE, VOCABULARY_FILE, LEFT_OUT_FILE = ("shape.json", "vocabulary.json", "left_out.txt")


@dataclass
class Batch:
    """mel [B, M, F] and pictures [B, T, S, S] right-padded, valid frames [B] (0: absent), labels [ΣN], counts [B]."""

    mel: Tensor
    mel_frames: Tensor
    video: Tensor
    video_frames: Tensor
    labels: Tensor
    label_lengths: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class _Data:
    """Usable utterances of a split: row i of each is the same clip."""

    utterances: list[Utterance]
    clips: Clips
    mouths: Mouths
    labels: list[list[int]]
    rows: list[int]
    """Which of them fit; the others have no labels."""
    left_out: list[str]


class AVSRTask:
    """The `Task` of this family."""

    def __init__(self, config: AVSRTrainConfig) -> None:
        self.config = config
        if not config.train_manifests:
            raise ConfigError("No training data: give --train-manifests a JSONL manifest (see `linnet prepare`).")
        self.vocabulary = Vocabulary()
        self.cache = config.run_dir.parent / "cache"
        self.train = self._load(_labelled(config.train_manifests))
        dev = _labelled(config.dev_manifests)
        # Spread over the manifest, which lists speaker after speaker.
        dev = dev[:: max(1, len(dev) // config.dev_utterances)][: config.dev_utterances]
        self.dev = self._load(dev) if dev else None

    def build_model(self) -> nn.Module:
        """A fresh network, or that of `init_from`; everything is trainable."""
        model = AVSR(self.config.shape, self.vocabulary)
        if self.config.init_from:
            run = RunFolder(self.config.init_from)
            weights, _ = run.load("best" if run.has("best") else "last")
            try:
                model.load_state_dict(weights)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{self.config.init_from} has another shape than this configuration: {str(error)[:200]}. Give the "
                    "same --shape options."
                ) from error
        return model

    def build_loader(self, split: Split) -> Loader:
        """Batches of about `batch_audio_s` seconds."""
        config, data = self.config, self.train if split == "train" else self.dev
        if data is None:
            raise ConfigError("There is no dev data: give --dev-manifests.")
        durations = [max(0.5, data.clips.duration_s(row)) for row in range(len(data.labels))]
        draws = [float(bool(labels)) for labels in data.labels]
        sampler = BucketBatchSampler(
            durations,
            max_batch_s=config.batch_audio_s,
            seed=config.seed,
            draws=draws,
            shuffle=split == "train",
            rank=int(os.environ.get("RANK", "0")) if split == "train" else 0,
            world_size=int(os.environ.get("WORLD_SIZE", "1")) if split == "train" else 1,
        )
        return Loader(self._dataset(data, split), sampler, collate=self.collate, workers=config.workers)

    def collate(self, examples: Sequence[AVExample]) -> Batch:
        """Pad to the longest; a stream that no clip has keeps one empty step, since convolutions need something."""
        frames = [example.mel.shape[1] for example in examples]
        pictures = [len(example.video) for example in examples]
        size = self.config.shape.video_px
        mel = np.zeros((len(examples), self.config.shape.n_mels, max(1, *frames)), np.float32)
        video = np.zeros((len(examples), max(1, *pictures), size, size), np.uint8)
        for row, example in enumerate(examples):
            mel[row, :, : frames[row]] = example.mel
            video[row, : pictures[row]] = example.video
        return Batch(
            torch.from_numpy(mel),
            torch.tensor(frames),
            torch.from_numpy(video),
            torch.tensor(pictures),
            torch.tensor([label for example in examples for label in example.labels]),
            torch.tensor([len(example.labels) for example in examples]),
        )

    def step(self, model: nn.Module, batch: Batch, step: int) -> StepOutput:
        """CTC of both streams together, and `stream_ctc_weight` times that of each stream that is there."""
        out: Output = model(batch.mel, batch.mel_frames, batch.video, batch.video_frames)
        joint, left_out = _ctc(out.log_probs, out.lengths, batch, self.vocabulary.blank_id)
        audio, _ = _ctc(out.audio_log_probs, out.audio_lengths, batch, self.vocabulary.blank_id)
        video, _ = _ctc(out.video_log_probs, out.video_lengths, batch, self.vocabulary.blank_id)
        loss = joint + self.config.stream_ctc_weight * (audio + video)
        logs = {
            "ctc": float(joint.detach()),
            "audio_ctc": float(audio.detach()),
            "video_ctc": float(video.detach()),
            "ctc_skipped": float(left_out),
            "audio_s": float(batch.mel_frames.sum()) / 100,
        }
        return StepOutput(loss, logs)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """WER and CER of greedy decoding with every second clip in babble, and WER of each stream alone, if trained."""
        if self.dev is None:
            return {}
        config = self.config
        conditions = {"": (config.drop_audio < 1, config.drop_video < 1)}
        if config.drop_audio < 1 and config.drop_video < 1:
            conditions |= {"audio_": (True, False), "video_": (False, True)}
        figures: dict[str, float] = {}
        references = [self.dev.utterances[row].text or "" for row in self.dev.rows]
        for prefix, (hear, see) in conditions.items():
            texts = self._transcribe(model, self.dev, hear=hear, see=see)
            figures[f"{prefix}wer"] = wer(references, texts, language="en").rate
            if not prefix:
                figures["cer"] = cer(references, texts, language="en").rate
        return figures

    def save_assets(self, folder: Path) -> None:
        """The shape, the vocabulary, and the names of the clips that are left out."""
        (folder / SHAPE_FILE).write_text(json.dumps(self.config.shape.to_dict(), indent=2) + "\n")
        (folder / VOCABULARY_FILE).write_text(json.dumps(self.vocabulary.symbols) + "\n")
        left_out = self.train.left_out + (self.dev.left_out if self.dev else [])
        (folder / LEFT_OUT_FILE).write_text("".join(f"{line}\n" for line in left_out))

    def _load(self, utterances: Sequence[Utterance]) -> _Data:
        kept, clips = load_clips(utterances, self.cache)
        mouths = load_mouths(kept, self.cache, size_px=self.config.shape.video_px, crop=self.config.crop)
        left_out = [f"{u.audio_path}: unreadable sound" for u in utterances if u not in kept]
        labels: list[list[int]] = []
        for row, utterance in enumerate(kept):
            try:
                labels.append(self._labels(utterance, clips.duration_s(row), mouths.frames(row)))
            except ConfigError as error:
                labels.append([])
                left_out.append(f"{utterance.audio_path}: {error}")
        rows = [row for row, found in enumerate(labels) if found]
        if len(rows) < len(utterances) / 2:
            raise TrainingError(
                f"Only {len(rows)} of {len(utterances)} clips can be trained on. The first reasons: "
                + " ".join(left_out[:3])
            )
        return _Data(kept, clips, mouths, labels, rows, left_out)

    def _labels(self, utterance: Utterance, duration_s: float, pictures: int) -> list[int]:
        labels = self.vocabulary.encode(utterance.text or "")
        config = self.config
        if duration_s > config.max_duration_s:
            raise ConfigError(f"{duration_s:.1f} s is longer than max_duration_s={config.max_duration_s:g}.")
        if pictures == 0 and config.drop_audio >= 1:
            raise ConfigError("there are no pictures, and drop_audio=1 trains on pictures alone.")
        # The shortest the clip can become: each stream may be dropped, and speed may shorten both.
        alone = [int(pictures / config.augment.speed[1])] if pictures and config.drop_audio > 0 else []
        if config.drop_audio < 1:
            frames = int(config.shape.features.frames(int(duration_s * SAMPLE_RATE_HZ)) / config.augment.speed[1])
            alone.append(steps(frames, 0))
        needed, there = min_frames(labels), min(alone)
        if not labels or needed > there:
            raise ConfigError(
                f"{len(labels)} letters need {needed} CTC steps; {duration_s:.2f} s have {there} at {CLOCK_HZ:g} Hz. "
                "Check that text and recording belong together."
            )
        return labels

    def _dataset(self, data: _Data, split: Split) -> AVDataset:
        config, train = self.config, split == "train"
        return AVDataset(
            data.clips,
            data.mouths,
            data.labels,
            features=config.shape.features,
            seed=config.seed,
            augment=config.augment if train else None,
            video_augment=VideoAugment() if train and config.augment_video else None,
            ramp_epochs=config.ramp_epochs,
            drop_audio=config.drop_audio if train else float(config.drop_audio == 1),
            drop_video=config.drop_video if train else float(config.drop_video == 1),
        )

    def _transcribe(self, model: nn.Module, data: _Data, *, hear: bool, see: bool) -> list[str]:
        """Texts of the usable clips; half of them in noise where they are heard."""
        examples = []
        for number, row in enumerate(data.rows):
            mel = np.zeros((self.config.shape.n_mels, 0), np.float32)
            if hear:
                mel = log_mel(self._disturbed(data, number, row), self.config.shape.features)
            pictures = data.mouths[row]
            examples.append(AVExample(mel, pictures if see else pictures[:0], data.labels[row]))
        texts = [""] * len(examples)
        order = sorted(range(len(examples)), key=lambda i: examples[i].mel.shape[1])
        device = next(model.parameters()).device
        for start in range(0, len(order), 25):
            rows = order[start : start + 25]
            batch = self.collate([examples[row] for row in rows]).to(device)
            out: Output = model(batch.mel, batch.mel_frames, batch.video, batch.video_frames)
            for row, log_probs, length in zip(rows, out.log_probs.cpu().numpy(), out.lengths.tolist(), strict=True):
                answer = greedy(log_probs[:length], frame_s=1 / CLOCK_HZ)
                texts[row] = self.vocabulary.decode(answer.tokens)
        return texts

    def _disturbed(self, data: _Data, number: int, row: int) -> np.ndarray:
        samples = data.clips[row]
        if self.config.dev_snr_db is None or number % 2 == 0 or len(data.clips) < 4:
            return samples
        rng = np.random.default_rng([7, row])  # the same babble at every validation
        others = [int(other) for other in rng.permutation(len(data.clips)) if other != row][:4]
        try:
            babble = noises.babble([data.clips[i] for i in others], len(samples), rate_hz=SAMPLE_RATE_HZ, rng=rng)
            mixed = noises.mix_at_snr(samples, babble, self.config.dev_snr_db, rate_hz=SAMPLE_RATE_HZ, rng=rng)
        except AudioContentError:
            return samples
        return mixed.mixed


def _ctc(log_probs: Tensor, lengths: Tensor, batch: Batch, blank_id: int) -> tuple[Tensor, int]:
    """CTC per label over the clips that have this stream, and how many others whose labels do not fit its steps."""
    targets = list(batch.labels.split(batch.label_lengths.tolist()))
    needed = torch.tensor([min_frames(target.tolist()) for target in targets], device=lengths.device)
    there, fits = lengths > 0, needed <= lengths
    rows = (there & fits).nonzero()[:, 0]
    if len(rows) == 0:
        return log_probs.sum() * 0.0, int((there & ~fits).sum())
    chosen = [targets[row] for row in rows.tolist()]
    loss = F.ctc_loss(
        log_probs[rows].float().transpose(0, 1),
        torch.cat(chosen),
        lengths[rows],
        batch.label_lengths[rows],
        blank=blank_id,
        reduction="sum",
    )
    return loss / sum(len(target) for target in chosen), int((there & ~fits).sum())


def _labelled(manifests: Sequence[Path]) -> list[Utterance]:
    return [utterance for manifest in manifests for utterance in read_manifest(manifest) if utterance.text]
