"""A draft: what Qwen3-ASR makes of speech that has not ended yet, for streaming.

Two things keep the n-th draft of a growing cut cheap. The encoder's attention windows (8 s) do not see each other, so a
window that was complete in the last draft keeps its embeddings. And the text is decoded from where the
last draft became uncertain: all but its last tokens are given, as part of the prompt (the rollback of the official
streaming code, qwen-asr 0.0.6, `streaming_transcribe`). The final text of a cut owes nothing to its drafts.

Shapes: M mel bands, F mel frames, T audio tokens, H hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from linnet.features import FeatureSpec
from linnet.runtime.decoder import Decoder
from linnet.runtime.encoder import Attention, Encoder, clip_features
from linnet.runtime.greedy import Request, answer_cap, answer_room, decode
from linnet.runtime.prompt import PromptTokens, parse_answer
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FloatArray = npt.NDArray[np.float32]
ROLLBACK_TOKENS = 5
"""The end of a draft that the next one decodes again: the words that more sound may change."""
FREE_S = 2.0
"""A draft of less audio than this binds nobody: the language is guessed from the first sounds."""
SAME_MEL = 0.01
"""A window is kept if its log-mel has changed by less than this on average, 0.4 dB: a louder sound later in the cut
lifts the floor of all of it."""


@dataclass(frozen=True, eq=False)
class Window:
    """A complete attention window: log-mel [M, F] and its embeddings [T, H]."""

    mel: FloatArray
    audio: FloatArray


@dataclass(frozen=True, eq=False)
class Draft:
    """Text so far, with the mean token probability, and what the next draft of the same cut builds on."""

    text: str
    confidence: float
    duration_s: float
    has_ended: bool
    """Whether the answer came to an end by itself: no loop, and not longer than speech can be."""
    tokens: tuple[int, ...]
    """The answer so far, header included; empty if the next draft has to start anew."""
    log_probs: tuple[float, ...]
    windows: tuple[Window, ...]


class Drafter:
    """Makes drafts with a recogniser's own encoder and decoder."""

    def __init__(
        self,
        features: FeatureSpec,
        config: Qwen3ASRConfig,
        tokenizer: Tokenizer,
        encoder: Encoder,
        decoder: Decoder,
        attention: Attention,
    ) -> None:
        self._features, self._config, self._tokenizer = features, config, tokenizer
        self._encoder, self._decoder = encoder, decoder
        chunks = config.window_tokens // config.chunk_tokens(config.chunk_frames)
        self._window_frames = chunks * config.chunk_frames if attention == "windowed" else None

    def __call__(self, samples: FloatArray, prompt: PromptTokens, forced: str | None, previous: Draft | None) -> Draft:
        """Draft of a cut's samples [N] so far; `forced` is the language that the prompt ends with, if it does."""
        duration_s = len(samples) / self._features.sample_rate_hz
        audio, windows = self._hear(clip_features(samples, self._features), previous.windows if previous else ())
        kept = 0
        if previous is not None and previous.duration_s >= FREE_S:
            kept = self._settled(previous.tokens)
        given, given_log_probs = (previous.tokens[:kept], previous.log_probs[:kept]) if previous else ((), ())
        prefix, suffix = self._decoder.embed(prompt.prefix), self._decoder.embed([*prompt.suffix, *given])
        room = answer_room(self._decoder, context=len(prefix), audio=len(audio), rest=len(suffix))
        fresh_s = duration_s - previous.duration_s if previous is not None and kept else duration_s
        cap = min(answer_cap(fresh_s) + ROLLBACK_TOKENS, room)
        requests = iter([Request(None, np.concatenate([prefix, audio, suffix]), cap)])
        answers = decode(self._decoder, lambda: next(requests, None), end_ids=self._config.eos_token_ids, max_batch=1)
        ((_, answer),) = answers
        tokens = (*given, *answer.tokens)
        log_probs = (*given_log_probs, *answer.log_probs)
        raw = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return Draft(
            text=parse_answer(raw.replace("\ufffd", ""), forced_language=forced).text,
            confidence=math.exp(sum(log_probs) / len(log_probs)) if log_probs else 0.0,
            duration_s=duration_s,
            has_ended=answer.stopped == "end",
            tokens=tokens if answer.stopped == "end" else (),  # a loop must not be handed on
            log_probs=log_probs,
            windows=windows,
        )

    def _hear(self, mel: FloatArray, known: tuple[Window, ...]) -> tuple[FloatArray, tuple[Window, ...]]:
        """Embeddings [T, H] of log-mel [M, F], and its complete windows."""
        size = self._window_frames
        if size is None:
            return self._encoder(mel), ()
        complete = []
        for index in range(mel.shape[1] // size):
            part = mel[:, index * size : (index + 1) * size]
            window = known[index] if index < len(known) else None
            if window is None or np.abs(window.mel - part).mean() > SAME_MEL:
                window = Window(part, self._encoder(part))
            complete.append(window)
        tail = mel[:, len(complete) * size :]
        parts = [window.audio for window in complete] + ([self._encoder(tail)] if tail.shape[1] else [])
        return np.concatenate(parts), tuple(complete)

    def _settled(self, tokens: tuple[int, ...]) -> int:
        """Number of tokens that stay: all but the last few, and no part of a character."""
        kept = max(0, len(tokens) - ROLLBACK_TOKENS)
        while kept and self._tokenizer.decode(list(tokens[:kept]), skip_special_tokens=False).endswith("\ufffd"):
            kept -= 1
        return kept
