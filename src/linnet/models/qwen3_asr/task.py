"""Training Qwen3-ASR: answer tokens with labels masked over the prompt, and an auxiliary CTC loss on the encoder.

The CTC head (Kim et al. 2017, arXiv:1609.06773) spells phonemes or letters in bytes, two steps per encoder token. It
exists in training only; it is not part of a checkpoint's official layout and is left out on export.

Shapes: B clips, F mel frames, L encoder tokens, T decoder positions, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from linnet.ctc import min_frames
from linnet.data.batching import BucketBatchSampler, Loader
from linnet.data.clips import load_clips
from linnet.data.corpora.lexicon import read_lexicon
from linnet.data.dataset import Example, SpeechDataset, joined_parts, single_parts
from linnet.errors import ConfigError, TrainingError
from linnet.features import WHISPER_128
from linnet.manifest import Utterance, read_manifest
from linnet.metrics import cer, wer
from linnet.models.qwen3_asr.checkpoint import load_pretrained, save_assets
from linnet.models.qwen3_asr.config import Qwen3ASRTrainConfig
from linnet.models.qwen3_asr.initialise import initialise, start_as_identity
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.models.qwen3_asr.tokenizer import train_tokenizer
from linnet.runtime.prompt import (
    AUDIO_END,
    AUDIO_PAD,
    AUDIO_START,
    END,
    build_prompt,
    encode_answer,
    parse_answer,
    token_id,
)
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig
from linnet.text import language_name, normalize
from linnet.train.task import Split, StepOutput

IGNORED = -100  # label of positions without loss: the prompt and the padding
CTC_CLASSES, CTC_BLANK = 257, 256  # the bytes of the text, and the blank
CTC_STEPS = 2  # per encoder token, so at 25 Hz: letters come faster than the 12.5 Hz of the tokens


@dataclass
class Batch:
    """mels: all clips side by side [n_mels, ΣF]; tokens, labels [B, T] right-padded; transcripts: bytes for
    CTC; words: the text's tokens without header and end."""

    mels: Tensor
    frames: list[int]
    tokens: Tensor
    labels: Tensor
    transcripts: list[Tensor]
    words: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            mels=self.mels.to(device),
            frames=self.frames,
            tokens=self.tokens.to(device),
            labels=self.labels.to(device),
            transcripts=[transcript.to(device) for transcript in self.transcripts],
            words=[words.to(device) for words in self.words],
        )

    def clips(self) -> list[Tensor]:
        """One [n_mels, F] per clip."""
        return list(self.mels.split(self.frames, dim=1))


class Losses(NamedTuple):
    """Cross-entropy over answer tokens, CTC per sound and per token, answer tokens got right, clips left out of CTC."""

    cross_entropy: Tensor
    ctc: Tensor
    token_ctc: Tensor
    right: int
    skipped: int


class TrainableQwen3ASR(nn.Module):
    """The recogniser and its CTC head; `forward` gives all losses, so that DDP sees one call."""

    def __init__(
        self, asr: Qwen3ASR, *, label_smoothing: float, token_ctc: bool = False, history_noise: float = 0.0
    ) -> None:
        super().__init__()
        self.asr = asr
        self.label_smoothing, self.token_ctc, self.history_noise = label_smoothing, token_ctc, history_noise
        self.ctc_head = nn.Linear(asr.config.d_model, CTC_STEPS * CTC_CLASSES)

    def forward(self, batch: Batch, *, ctc_alone: bool = False) -> Losses:
        """All losses of a batch; `ctc_alone` runs the encoder without projection and decoder."""
        hidden, lengths = self.asr.audio_tower.hidden(batch.clips())
        if ctc_alone:
            ctc, skipped = self._ctc(hidden, lengths, batch.transcripts)
            none = hidden.new_zeros(())
            if torch.distributed.is_initialized():  # which waits for the gradient of every parameter
                none = none + 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
            return Losses(none, ctc, none, 0, skipped)
        audio = self.asr.audio_tower.project(hidden)
        wanted = batch.labels != IGNORED
        states = self.asr.model(self.asr.embed(self._misread(batch.tokens, wanted), [audio]))
        logits, labels = self.asr.logits(states[wanted]), batch.labels[wanted]
        cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        ctc, skipped = self._ctc(hidden, lengths, batch.transcripts)
        token_ctc = hidden.new_zeros(())
        if self.token_ctc:
            # Through the tied table: the audio comes to look like the embeddings of the words, which the decoder can
            # copy. The audio place holder, which is never an answer, is the blank.
            log_probs = self.asr.logits(audio).float().log_softmax(-1)
            token_ctc, _ = ctc_loss(log_probs, lengths, batch.words, blank=self.asr.config.audio_token_id)
        return Losses(cross_entropy, ctc, token_ctc, int((logits.argmax(-1) == labels).sum()), skipped)

    def _misread(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """`tokens` [B, T] with a share of the answer's replaced by other answers' tokens, drawn from the batch."""
        if not (self.training and self.history_noise):
            return tokens
        # The first wanted position reads the end of the prompt, which stays.
        answer = wanted & torch.cat([torch.zeros_like(wanted[:, :1]), wanted[:, :-1]], dim=1)
        misread = answer & (torch.rand(tokens.shape, device=tokens.device) < self.history_noise)
        known = tokens[answer]
        drawn = known[torch.randint(len(known), (int(misread.sum()),), device=tokens.device)]
        return tokens.masked_scatter(misread, drawn)

    def _ctc(self, hidden: Tensor, lengths: list[int], transcripts: list[Tensor]) -> tuple[Tensor, int]:
        log_probs = self.ctc_head(hidden).float().view(-1, CTC_CLASSES).log_softmax(-1)
        return ctc_loss(log_probs, [CTC_STEPS * n for n in lengths], transcripts, blank=CTC_BLANK)


def ctc_loss(log_probs: Tensor, lengths: list[int], targets: list[Tensor], *, blank: int) -> tuple[Tensor, int]:
    """CTC per target symbol of clips whose log-probabilities [Σ lengths, classes] lie one after another.

    Clips too short for their target, or without one, are left out; their number is the second result.
    """
    rows = [
        (part, target)
        for part, target in zip(log_probs.split(lengths), targets, strict=True)
        if len(target) > 0 and min_frames(target.tolist()) <= len(part)
    ]
    if not rows:
        return log_probs.sum() * 0.0, len(targets)
    loss = F.ctc_loss(
        nn.utils.rnn.pad_sequence([part for part, _ in rows]),  # [longest, B, classes]
        torch.cat([target for _, target in rows]),
        torch.tensor([len(part) for part, _ in rows]),
        torch.tensor([len(target) for _, target in rows]),
        blank=blank,
        reduction="sum",
    )
    return loss / sum(len(target) for _, target in rows), len(targets) - len(rows)


class Qwen3ASRTask:
    """The `Task` of this family."""

    def __init__(self, config: Qwen3ASRTrainConfig) -> None:
        self.config = config
        if not config.train_manifests:
            raise ConfigError("No training data: give --train-manifests a JSONL manifest (see `linnet prepare`).")
        self.train = self._read(config.train_manifests, weighted=True)
        dev = self._read(config.dev_manifests, weighted=False)
        # Spread over the manifest, which lists speaker after speaker.
        self.dev = dev[:: max(1, len(dev) // config.dev_utterances)][: config.dev_utterances]
        self._weights: dict[str, Tensor] | None = None
        self.lexicon = read_lexicon(config.lexicon) if config.lexicon else {}
        pretrained = load_pretrained(config.init_from) if config.init_from else None
        if pretrained:
            self.tokenizer, self._weights = pretrained.tokenizer, pretrained.weights
            layers = pretrained.config.decoder_layers + config.added_decoder_layers
            self.shape = replace(pretrained.config, decoder_layers=layers)
        else:
            self.tokenizer = self._train_tokenizer()
            self.shape = shape_for(self.tokenizer, config.shape)

    def build_model(self) -> nn.Module:
        """A fresh or pretrained network; everything is trainable."""
        asr = Qwen3ASR(self.shape, attention=self.config.attention, drop_path=self.config.drop_path)
        asr.audio_tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster on CPU
        if self._weights is None:
            initialise(asr)
        else:
            first = self.shape.decoder_layers - self.config.added_decoder_layers
            start_as_identity(asr.model.layers[first:])
            added = tuple(f"model.layers.{index}." for index in range(first, self.shape.decoder_layers))
            fresh = {name: weight for name, weight in asr.state_dict().items() if name.startswith(added)}
            asr.load_state_dict(fresh | self._weights)
        asr.audio_tower.gradient_checkpointing = asr.model.gradient_checkpointing = self.config.gradient_checkpointing
        model = TrainableQwen3ASR(
            asr,
            label_smoothing=self.config.label_smoothing,
            token_ctc=self.config.token_ctc_weight > 0,
            history_noise=self.config.history_noise,
        )
        if self._weights is not None:
            # No checkpoint holds the CTC head. From zeros it learns what the encoder says before it changes it; random
            # weights undid within 100 updates some of what the encoder had learned.
            nn.init.zeros_(model.ctc_head.weight)
        return model

    def build_loader(self, split: Split) -> Loader:
        """Batches of about `batch_audio_s` seconds."""
        config = self.config
        utterances, clips = load_clips(self.train if split == "train" else self.dev, config.run_dir.parent / "cache")
        if split == "dev":
            sampler = BucketBatchSampler(
                [clips.duration_s(i) for i in range(len(clips))],
                max_batch_s=config.batch_audio_s,
                seed=config.seed,
                shuffle=False,
            )
            dataset = SpeechDataset(
                utterances, clips, single_parts(clips), features=WHISPER_128, augment=None, seed=config.seed
            )
            return Loader(dataset, sampler, collate=self.collate, workers=0)
        parts, draws = single_parts(clips), [self._draws(utterance) for utterance in utterances]
        for corpus, (count, most) in config.joined.items():
            joined = joined_parts(utterances, clips, corpus=corpus, count=count, most=most, seed=config.seed)
            parts, draws = parts + joined, draws + [1.0] * len(joined)
        kept = [i for i, part in enumerate(parts) if part.duration_s <= config.max_duration_s]
        parts, draws = [parts[i] for i in kept], [draws[i] for i in kept]
        sampler = BucketBatchSampler(
            [max(0.5, part.duration_s) + config.prompt_cost_s for part in parts],
            max_batch_s=config.batch_audio_s,
            seed=config.seed,
            draws=draws,
            rank=int(os.environ.get("RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
        )
        dataset = SpeechDataset(
            utterances,
            clips,
            parts,
            features=WHISPER_128,
            augment=config.augment,
            seed=config.seed,
            clean_epochs=config.clean_epochs,
            ramp_epochs=config.ramp_epochs,
            context_probability=config.context_probability,
        )
        return Loader(dataset, sampler, collate=self.collate, workers=config.workers)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Prompts with answers, labels on the answers only."""
        sequences, labels, transcripts, words = [], [], [], []
        for example in examples:
            text = spoken_text(example.text, example.language)
            audio_tokens = self.shape.audio_tokens(example.mel.shape[1])
            prompt = build_prompt(self.tokenizer, audio_tokens, context=example.context).ids
            sequence, label = with_answer(prompt, encode_answer(self.tokenizer, text, language=example.language))
            sequences.append(sequence)
            labels.append(label)
            transcripts.append(torch.tensor(list(self.sounds(text).encode())))
            words.append(torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids))
        return Batch(
            mels=torch.from_numpy(np.concatenate([example.mel for example in examples], axis=1)),
            frames=[example.mel.shape[1] for example in examples],
            tokens=nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=self.shape.eos_token_ids[0]),
            labels=nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            transcripts=transcripts,
            words=words,
        )

    def sounds(self, text: str) -> str:
        """What CTC spells: the phonemes of each word, or its letters if the lexicon does not have it."""
        return " ".join(text.split()) if not self.lexicon else "".join(self.lexicon.get(w, w) for w in text.split())

    def step(self, model: nn.Module, batch: Batch, step: int) -> StepOutput:
        """(1 − w) · cross-entropy + w · CTC."""
        losses: Losses = model(batch, ctc_alone=step < self.config.encoder_warmup_steps)
        weight = self.config.ctc_weight if step >= self.config.encoder_warmup_steps else 1.0
        loss = (1 - weight) * losses.cross_entropy + weight * losses.ctc
        loss = loss + self.config.token_ctc_weight * losses.token_ctc
        logs = {
            "ce": float(losses.cross_entropy.detach()),
            "ctc": float(losses.ctc.detach()),
            "token_ctc": float(losses.token_ctc.detach()),
            "token_accuracy": losses.right / max(1, int((batch.labels != IGNORED).sum())),
            "ctc_skipped": float(losses.skipped),
            "audio_s": sum(batch.frames) / 100,
        }
        return StepOutput(loss, logs)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """WER and CER of greedy decoding on the dev manifests, scored as `linnet evaluate` does."""
        if not self.dev:
            return {}
        asr = model.asr
        assert isinstance(asr, Qwen3ASR)
        utterances, clips = load_clips(self.dev, self.config.run_dir.parent / "cache")
        dataset = SpeechDataset(
            utterances, clips, single_parts(clips), features=WHISPER_128, augment=None, seed=self.config.seed
        )
        order = sorted(range(len(dataset)), key=clips.duration_s)
        hypotheses = [""] * len(dataset)
        for start in range(0, len(order), 25):
            rows = order[start : start + 25]
            for row, text in zip(rows, self.transcribe(asr, [dataset[(0, row)].mel for row in rows]), strict=True):
                hypotheses[row] = text
        references = [utterance.text or "" for utterance in utterances]
        language = utterances[0].language or "en"
        return {
            "wer": wer(references, hypotheses, language=language).rate,
            "cer": cer(references, hypotheses, language=language).rate,
        }

    def transcribe(self, asr: Qwen3ASR, mels: Sequence[np.ndarray]) -> list[str]:
        """Texts of log-mel clips by greedy decoding, at most 8 tokens per second and ten more."""
        prompts = [build_prompt(self.tokenizer, self.shape.audio_tokens(mel.shape[1])).ids for mel in mels]
        cap = int(max(mel.shape[1] for mel in mels) / 100 * 8) + 10
        device = next(asr.parameters()).device
        clips = [torch.from_numpy(mel).to(device) for mel in mels]
        answers = asr.generate(clips, prompts, max_new_tokens=cap)
        return [parse_answer(self.tokenizer.decode(answer, skip_special_tokens=False)).text for answer in answers]

    def save_assets(self, folder: Path) -> None:
        """tokenizer.json and the shape in the official configuration layout."""
        languages = sorted({language_name(utterance.language) for utterance in self.train if utterance.language})
        save_assets(folder, self.tokenizer, self.shape, languages=languages)

    def _read(self, manifests: Sequence[Path], *, weighted: bool) -> list[Utterance]:
        """Labelled utterances of the manifests; of the corpora that the configuration names, if it names any."""
        corpora = self.config.corpora if weighted else {}
        return [
            utterance
            for manifest in manifests
            for utterance in read_manifest(manifest)
            if utterance.text and (not corpora or utterance.corpus in corpora)
        ]

    def _draws(self, utterance: Utterance) -> float:
        return self.config.corpora.get(utterance.corpus or "", 1.0) if self.config.corpora else 1.0

    def _train_tokenizer(self) -> Tokenizer:
        texts = [spoken_text(utterance.text or "", utterance.language) for utterance in self.train]
        if not texts:
            raise TrainingError("The training manifests hold no labelled utterance of the configured corpora.")
        return train_tokenizer(sorted(set(texts)), vocab_size=self.config.shape.vocab_size)


def with_answer(prompt: list[int], answer: list[int]) -> tuple[Tensor, Tensor]:
    """What the decoder reads [T], and what it should say next at each position [T], IGNORED up to the answer."""
    # Position i predicts token i + 1, so labels are shifted one to the left here, once.
    return torch.tensor(prompt + answer), torch.tensor([IGNORED] * (len(prompt) - 1) + answer + [IGNORED])


def spoken_text(text: str, language: str | None) -> str:
    """Training target: scoring form of the words (lower case, no punctuation), with a leading space.

    The corpora write case and punctuation differently, so the words alone are learned. The leading space lets the
    first word share its tokens with the same word elsewhere.
    """
    return " " + normalize(text, language or "en")


def shape_for(tokenizer: Tokenizer, shape: Qwen3ASRConfig) -> Qwen3ASRConfig:
    """The shape with vocabulary size and special ids of `tokenizer`; vocabulary rounded up to 32 for quantised rows."""
    return replace(
        shape,
        vocab_size=-(-tokenizer.get_vocab_size() // 32) * 32,
        audio_token_id=token_id(tokenizer, AUDIO_PAD),
        audio_start_token_id=token_id(tokenizer, AUDIO_START),
        audio_end_token_id=token_id(tokenizer, AUDIO_END),
        eos_token_ids=(token_id(tokenizer, END),),
    )
