"""Training an adapter: the base stays frozen, in bf16 if wanted, and only the adapter's parameters get gradients.

Feature matching asks the encoder to make of a noisy clip what the base makes of the clean one; the decoder is not even
loaded. Its loss is the squared distance, as a share of the target's energy: 0 is perfect, 1 as bad as silence.

Shapes: B clips, F mel frames, L encoder tokens, D encoder width, O output width, T decoder positions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.data.batching import BucketBatchSampler, Loader
from linnet.data.clips import Clips, load_clips
from linnet.errors import ConfigError
from linnet.export.qwen3_asr_adapter import fingerprint
from linnet.export.safetensors import open_checkpoint
from linnet.manifest import Utterance, read_manifest
from linnet.models.qwen3_asr.adapter_config import BITS, AdapterTrainConfig
from linnet.models.qwen3_asr.adapter_data import CachedPairs, FloatArray, NoisyPairs, Pair, noise_only
from linnet.models.qwen3_asr.adapters import add_adapters, base_only
from linnet.models.qwen3_asr.checkpoint import as_checkpoint, load_frozen, load_tokenizer, save_assets
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.models.qwen3_asr.task import IGNORED, spoken_text, with_answer
from linnet.runtime.prompt import build_prompt, encode_answer
from linnet.train.task import Split, StepOutput

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.bfloat16, "int4": torch.bfloat16}


@dataclass
class AdapterBatch:
    """Clips side by side. Fresh: clean, noisy [128, ΣF], frames. Cached: hidden [ΣL, D], target [ΣL, O], lengths.

    tokens, labels [B, T]: right-padded prompts with answers, empty if the decoder is not trained through.
    """

    tokens: Tensor
    labels: Tensor
    frames: list[int]
    lengths: list[int]
    clean: Tensor | None = None
    noisy: Tensor | None = None
    hidden: Tensor | None = None
    target: Tensor | None = None

    def to(self, device: torch.device) -> AdapterBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


class AdapterLosses(NamedTuple):
    """Share of the target's energy that is missed, and cross-entropy per answer token; zeros for what is off."""

    feature: Tensor
    cross_entropy: Tensor


class TrainableAdapter(nn.Module):
    """The network with its adapter; `forward` gives all losses, so that DDP sees one call."""

    def __init__(self, asr: Qwen3ASR, *, loss: str, start: int | None) -> None:
        """`start`: the layer where cached clips enter the encoder; None if they enter behind the projection."""
        super().__init__()
        self.asr, self.loss, self.start = asr, loss, start

    def forward(self, batch: AdapterBatch) -> AdapterLosses:
        audio = self.encode(batch)
        zero = audio.new_zeros((), dtype=torch.float32)
        feature = feature_loss(audio, self.target(batch)) if self.loss != "ce" else zero
        cross_entropy = self._cross_entropy(audio, batch) if self.loss != "feature" else zero
        return AdapterLosses(feature, cross_entropy)

    def encode(self, batch: AdapterBatch) -> Tensor:
        """Encoder output [ΣL, O] of the noisy clips, adapted."""
        tower = self.asr.audio_tower
        if batch.noisy is not None:
            return torch.cat(tower([mel.to(self.dtype) for mel in batch.noisy.split(batch.frames, dim=1)]))
        assert batch.hidden is not None
        embeddings = batch.hidden.to(self.dtype)
        if self.start is not None:
            hidden = tower.ln_post(tower.transform(embeddings, batch.lengths, start=self.start))
            embeddings = tower.project(hidden)
        return tower.adapt_output(embeddings, batch.lengths)

    @torch.no_grad()
    def target(self, batch: AdapterBatch) -> Tensor:
        """Encoder output [ΣL, O] of the clean clips by the base."""
        if batch.target is not None:
            return batch.target
        assert batch.clean is not None
        with base_only(self.asr):
            return torch.cat(self.asr.audio_tower(
                [mel.to(self.dtype) for mel in batch.clean.split(batch.frames, dim=1)]))  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen weights."""
        return self.asr.audio_tower.conv_out.weight.dtype

    def _cross_entropy(self, audio: Tensor, batch: AdapterBatch) -> Tensor:
        embeddings = self.asr.embed(batch.tokens, [audio])
        states = self.asr.model(embeddings, audio_places=self.asr.audio_places(batch.tokens))
        wanted = batch.labels != IGNORED
        return F.cross_entropy(self.asr.logits(states[wanted]).float(), batch.labels[wanted])


def feature_loss(audio: Tensor, target: Tensor) -> Tensor:
    """‖audio − target‖² / ‖target‖² over all tokens, in float32."""
    difference = audio.float() - target.float()
    return difference.square().sum() / target.float().square().sum()


class AdapterTask:
    """The `Task` of adapters."""

    def __init__(self, config: AdapterTrainConfig) -> None:
        self.config = config
        if config.base is None:
            raise ConfigError("No base: give --base the checkpoint folder or run folder that the adapter is for.")
        if not config.train_manifests:
            raise ConfigError("No training data: give --train-manifests a JSONL manifest (see `linnet prepare`).")
        self.needs_text = config.loss != "feature"
        self.train = self._read(config.train_manifests, config.corpora)
        dev = self._read(config.dev_manifests, ())
        self.dev = dev[:: max(1, len(dev) // config.dev_utterances)][: config.dev_utterances]
        with as_checkpoint(config.base) as folder:
            with open_checkpoint(folder) as tensors:
                self.fingerprint = fingerprint(tensors)
            self.tokenizer = load_tokenizer(folder)
            self.asr = load_frozen(
                folder, dtype=DTYPES[config.backbone], decoder=self.needs_text, bits=BITS.get(config.backbone)
            )
        self.shape = self.asr.config
        self.start = first_layer(config, self.shape.encoder_layers)

    def build_model(self) -> nn.Module:
        """The frozen base with the adapter, which alone is trainable (checked)."""
        add_adapters(self.asr, self.config.adapter)
        self.asr.audio_tower.gradient_checkpointing = self.config.gradient_checkpointing
        if self.needs_text:
            self.asr.model.gradient_checkpointing = self.config.gradient_checkpointing
        return TrainableAdapter(self.asr, loss=self.config.loss, start=self.start)

    def build_loader(self, split: Split) -> Loader:
        """Batches of about `batch_audio_s` seconds; dev clips come with the same noise every time."""
        config, train = self.config, split == "train"
        cache = config.run_dir.parent / "cache"
        utterances, clips = load_clips(self.train if train else self.dev, cache)
        kept = [i for i in range(len(clips)) if clips.duration_s(i) <= config.max_duration_s]
        utterances, clips = [utterances[i] for i in kept], _Chosen(clips, kept)
        noise = noise_only(config.noise_probability, config.snr_db, config.reverb_probability, config.rt60_s)
        pairs = NoisyPairs(
            utterances,
            clips,
            augment=noise,
            noise_manifests=config.noise_manifests,
            seed=config.noise_seed + (not train),
        )
        dataset: NoisyPairs | CachedPairs = pairs
        if config.cached_variants:
            dataset = CachedPairs(
                pairs,
                cache,
                key=f"{self.fingerprint} {self.start} {noise} {config.noise_manifests} {pairs.seed} {config.backbone} "
                f"{config.cached_variants if train else 1}",
                variants=config.cached_variants if train else 1,
                lower=self._lower,
                output=self._output,
                dtype=DTYPES[config.backbone],
            )
        sampler = BucketBatchSampler(
            [max(0.5, clips.duration_s(i)) for i in range(len(clips))],
            max_batch_s=config.batch_audio_s,
            seed=config.seed,
            shuffle=train,
        )
        return Loader(dataset, sampler, collate=self.collate, workers=config.workers if train else 0)

    def collate(self, pairs: Sequence[Pair]) -> AdapterBatch:
        """Clips one after another, and prompts with answers if the decoder is trained through."""
        fresh = pairs[0].noisy is not None
        frames = [pair.noisy.shape[1] for pair in pairs if pair.noisy is not None]
        lengths = [self.shape.audio_tokens(count) for count in frames]
        lengths = lengths or [len(pair.hidden) for pair in pairs if pair.hidden is not None]
        sequences, labels = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
        if self.needs_text:
            answered = [self._answered(pair, length) for pair, length in zip(pairs, lengths, strict=True)]
            sequences, labels = [tokens for tokens, _ in answered], [label for _, label in answered]
        pad = nn.utils.rnn.pad_sequence
        batch = AdapterBatch(
            tokens=pad(sequences, batch_first=True, padding_value=self.shape.eos_token_ids[0]),
            labels=pad(labels, batch_first=True, padding_value=IGNORED),
            frames=frames,
            lengths=lengths,
        )
        if fresh:
            batch.clean = torch.cat([torch.from_numpy(pair.clean) for pair in pairs], dim=1)
            batch.noisy = torch.cat([torch.from_numpy(pair.noisy) for pair in pairs], dim=1)
        else:
            batch.hidden = torch.cat([pair.hidden for pair in pairs if pair.hidden is not None])
            batch.target = torch.cat([pair.target for pair in pairs if pair.target is not None])
        return batch

    def step(self, model: nn.Module, batch: AdapterBatch, step: int) -> StepOutput:
        """The losses that are on, added up."""
        losses: AdapterLosses = model(batch)
        logs = {"audio_tokens": float(sum(batch.lengths))}
        if self.config.loss != "ce":
            logs["feature"] = float(losses.feature.detach())
        if self.config.loss != "feature":
            logs["ce"] = float(losses.cross_entropy.detach())
        return StepOutput(losses.feature + losses.cross_entropy, logs)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The training loss on dev clips in a fixed noise, and as `base` what the unadapted network has there."""
        if not self.dev:
            return {}
        assert isinstance(model, TrainableAdapter)
        device = next(model.parameters()).device
        sums = {"loss": 0.0, "base": 0.0}
        count = 0
        for batch in self.build_loader("dev").epoch(0):
            batch = batch.to(device)
            tokens = sum(batch.lengths)
            sums["loss"] += tokens * float(sum(model(batch)))
            with base_only(model.asr):
                sums["base"] += tokens * float(sum(model(batch)))
            count += tokens
        return {name: total / count for name, total in sums.items()}

    def save_assets(self, folder: Path) -> None:
        """The adapter's configuration with its base's fingerprint, tokenizer and shape."""
        save_assets(folder, self.tokenizer, self.shape, languages=[])
        about = {"config": dataclasses.asdict(self.config.adapter), "base": self.fingerprint}
        (folder / "adapter.json").write_text(json.dumps(about, indent=2) + "\n")

    def _read(self, manifests: Sequence[Path], corpora: Sequence[str]) -> list[Utterance]:
        return [
            utterance
            for manifest in manifests
            for utterance in read_manifest(manifest)
            if (utterance.text or not self.needs_text) and (not corpora or utterance.corpus in corpora)
        ]

    def _answered(self, pair: Pair, length: int) -> tuple[Tensor, Tensor]:
        text = pair.text if self.config.text == "written" else spoken_text(pair.text, pair.language)
        prompt = build_prompt(self.tokenizer, length).ids
        return with_answer(prompt, encode_answer(self.tokenizer, text, language=pair.language))

    @torch.no_grad()
    def _lower(self, mels: list[FloatArray]) -> list[Tensor]:
        """What enters the first adapter: states between two layers, or the projected output."""
        if self.start is None:
            return self._output(mels)
        tower = self.asr.audio_tower
        with base_only(self.asr):
            tokens, lengths = tower.convolve([torch.from_numpy(mel).to(DTYPES[self.config.backbone]) for mel in mels])
            return list(tower.transform(tokens, lengths, stop=self.start).split(lengths))

    @torch.no_grad()
    def _output(self, mels: list[FloatArray]) -> list[Tensor]:
        with base_only(self.asr):
            return self.asr.audio_tower([torch.from_numpy(mel).to(DTYPES[self.config.backbone]) for mel in mels])


def first_layer(config: AdapterTrainConfig, layers: int) -> int | None:
    """The layer where the first adapter's part of the encoder begins; None: only the encoder's output is adapted.

    Everything before is frozen and sees no gradient, so it may be computed once.
    """
    lowest = [int(site.partition(".")[2]) for site in config.adapter.sites if site.startswith("encoder.")
              and site != "encoder.output"]  # fmt: skip
    if lowest:
        return min(lowest) + (config.adapter.mode != "lora")
    # A low-rank update of the projection belongs to it; decoder adapters read the finished output.
    return layers if config.adapter.mode == "lora" else None


class _Chosen(Clips):
    """Some of the clips, by number."""

    def __init__(self, clips: Clips, kept: Sequence[int]) -> None:
        self._clips, self._kept = clips, kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> FloatArray:
        return self._clips[self._kept[index]]

    def duration_s(self, index: int) -> float:
        """Length of clip `index` in seconds."""
        return self._clips.duration_s(self._kept[index])
