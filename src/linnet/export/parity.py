"""How far one bundle is from another of the same model: encoder frames, logits, greedy tokens. Torch-free.

The reference listens to a few clips and answers greedily. The other bundle gets the same inputs: its encoder the same
log-mel, its decoder the reference's own prompts and tokens (teacher forcing), so that one early difference is not
counted again at every later token. `text` is encoder and decoder together, still teacher-forced.

Shapes: T audio tokens, O width of the decoder's embeddings, P answered positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.bundle import Bundle
from linnet.runtime.decoder import Decoder
from linnet.runtime.encoder import Attention, Encoder, clip_features
from linnet.runtime.loader import DecoderChoice, open_decoder
from linnet.runtime.onnx_decoder import OnnxDecoder
from linnet.runtime.prompt import build_prompt
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
ATTENTIONS: tuple[Attention, ...] = ("windowed", "full")
ANSWER_TOKENS = 48
"""Most tokens that the reference answers per clip."""


@dataclass(frozen=True)
class FrameParity:
    """Encoder outputs of several clips, compared frame by frame."""

    max_abs: float
    relative_rms: float
    min_frame_cosine: float
    """Cosine of the worst frame: an average hides the one frame that breaks a word."""
    frames: int


@dataclass(frozen=True)
class LogitParity:
    """Next-token distributions at every answered position."""

    max_abs: float
    kl: float
    """Mean Kullback-Leibler divergence from the reference, in nats."""
    token_exact: float
    """Share of positions with the same most probable token."""
    tokens: int


@dataclass(frozen=True)
class Recording:
    """What the reference heard and answered in one clip."""

    log_mel: FloatArray
    audio: dict[Attention, FloatArray]
    """Encoder output [T, O] under both attentions."""
    prompt: FloatArray
    """Embeddings [T + text, O] that the decoder was given."""
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    tokens: tuple[int, ...]
    logits: FloatArray
    """[P, V]: after the prompt, and after each token but the last."""


def record(bundle: Bundle, clips: Sequence[FloatArray], *, threads: int | None = None) -> list[Recording]:
    """Have the reference bundle listen to `clips` (samples at the model's rate) and answer greedily."""
    from tokenizers import Tokenizer

    config = Qwen3ASRConfig.from_bundle(bundle.model)
    tokenizer = Tokenizer.from_file(str(bundle.file("tokenizer.json")))
    prompt = build_prompt(tokenizer, 0)
    mels = [clip_features(clip, bundle.features) for clip in clips]
    heard = {attention: hear(bundle, mels, attention, threads=threads) for attention in ATTENTIONS}
    recordings = []
    with _opened_reference(bundle, threads) as decoder:
        prefix, suffix = decoder.embed(prompt.prefix), decoder.embed(prompt.suffix)
        for index, mel in enumerate(mels):
            embeddings = np.concatenate([prefix, heard["windowed"][index], suffix])
            tokens, logits = _answer(decoder, embeddings, config.eos_token_ids)
            audio = {attention: heard[attention][index] for attention in ATTENTIONS}
            recordings.append(Recording(mel, audio, embeddings, prompt.prefix, prompt.suffix, tokens, logits))
    return recordings


def hear(
    bundle: Bundle, mels: Sequence[FloatArray], attention: Attention, *, threads: int | None = None
) -> list[FloatArray]:
    """Encoder outputs [T, O] of log-mels."""
    encoder = Encoder(bundle.path, Qwen3ASRConfig.from_bundle(bundle.model), attention=attention, threads=threads)
    try:
        return [encoder(mel) for mel in mels]
    finally:
        encoder.close()


def compare_encoder(
    bundle: Bundle, recordings: Sequence[Recording], attention: Attention, *, threads: int | None = None
) -> tuple[FrameParity, list[FloatArray]]:
    """The bundle's encoder against the reference's, and what it heard."""
    heard = hear(bundle, [one.log_mel for one in recordings], attention, threads=threads)
    return compare_frames([one.audio[attention] for one in recordings], heard), heard


def compare_decoder(
    bundle: Bundle,
    kind: DecoderChoice,
    recordings: Sequence[Recording],
    heard: Sequence[FloatArray],
    *,
    threads: int | None = None,
) -> tuple[LogitParity, LogitParity]:
    """A decoder of the bundle on the reference's prompts, and on its own encoder's output `heard`."""
    with _opened(bundle, kind, threads) as decoder:
        alone = [follow(decoder, one.prompt, one.tokens) for one in recordings]
        together = []
        for one, audio in zip(recordings, heard, strict=True):
            prompt = np.concatenate([decoder.embed(one.prefix), audio, decoder.embed(one.suffix)])
            together.append(follow(decoder, prompt, one.tokens))
    reference = [one.logits for one in recordings]
    return compare_logits(reference, alone), compare_logits(reference, together)


def follow(decoder: Decoder, prompt: FloatArray, tokens: Sequence[int]) -> FloatArray:
    """Logits [P, V] of a decoder that is given the reference's tokens instead of its own."""
    opened = decoder.prefill([prompt])
    rows = [opened.logits[0], *(decoder.step(opened.slots, [token])[0] for token in tokens[:-1])]
    decoder.free(opened.slots[0])
    return np.stack(rows)


def compare_frames(reference: Sequence[FloatArray], candidate: Sequence[FloatArray]) -> FrameParity:
    """Compare frames [T, O] of several clips."""
    a, b = (np.concatenate(list(frames)).astype(np.float64) for frames in (reference, candidate))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.einsum("to,to->t", a, b) / np.where(norms == 0, 1, norms)
    return FrameParity(
        max_abs=float(np.abs(a - b).max()),
        relative_rms=float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), 1e-30),
        min_frame_cosine=float(np.where(norms == 0, (a == b).all(axis=1), cosine).min()),
        frames=len(a),
    )


def compare_logits(reference: Sequence[FloatArray], candidate: Sequence[FloatArray]) -> LogitParity:
    """Compare logits [P, V] of several clips, row by row: whole arrays in double precision would take gigabytes."""
    kl = max_abs = same = tokens = 0.0
    for a, b in zip(reference, candidate, strict=True):
        for expected, got in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
            p, q = _log_softmax(expected), _log_softmax(got)
            kl += float(np.sum(np.exp(p) * (p - q)))
            max_abs = max(max_abs, float(np.abs(expected - got).max()))
            same += float(expected.argmax() == got.argmax())
            tokens += 1
    return LogitParity(max_abs=max_abs, kl=max(0.0, kl / tokens), token_exact=same / tokens, tokens=int(tokens))


def _answer(decoder: Decoder, prompt: FloatArray, ends: Sequence[int]) -> tuple[tuple[int, ...], FloatArray]:
    """Greedy tokens, the end token included, and the logits that gave each."""
    opened = decoder.prefill([prompt])
    rows, tokens = [opened.logits[0]], [int(opened.logits[0].argmax())]
    while tokens[-1] not in ends and len(tokens) < ANSWER_TOKENS:
        rows.append(decoder.step(opened.slots, [tokens[-1]])[0])
        tokens.append(int(rows[-1].argmax()))
    decoder.free(opened.slots[0])
    return tuple(tokens), np.stack(rows)


@contextmanager
def _opened(bundle: Bundle, kind: DecoderChoice, threads: int | None) -> Iterator[Decoder]:
    decoder = open_decoder(bundle, kind, threads=threads)
    try:
        yield decoder
    finally:
        decoder.close()


@contextmanager
def _opened_reference(bundle: Bundle, threads: int | None) -> Iterator[Decoder]:
    """The reference's decoder; at fp32 it may be larger than memory, so its weights stay in the mapped file."""
    if not bundle.has("decoder.onnx"):
        with _opened(bundle, "auto", threads) as decoder:
            yield decoder
        return
    reference = OnnxDecoder(bundle.file("decoder.onnx"), threads=threads, prepack=False)
    try:
        yield reference
    finally:
        reference.close()


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max()
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
