"""The Qwen3-ASR recogniser: cuts → log-mel → encoder → prompt → text, several cuts at a time, any length.

One direction of flow: `longform` plans cuts from the stream, `encoder` hears them, `prompt` frames what was heard,
`greedy` or `beam` searches, `prompt` parses the answer. Only the cuts in work are in memory.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from linnet.bundle import Bundle
from linnet.errors import BundleCorruptError, ConfigError, LanguageError, LinnetError
from linnet.results import Segment, Transcription
from linnet.runtime.assemble import assemble
from linnet.runtime.base import AudioSource, CutRequest, CutSource, Progress
from linnet.runtime.beam import BeamSearch
from linnet.runtime.context_guard import is_heard, is_suspect
from linnet.runtime.decoder import Decoder
from linnet.runtime.draft import Draft, Drafter
from linnet.runtime.encoder import Attention, Encoder, clip_features
from linnet.runtime.greedy import Hypothesis, Request, answer_cap, answer_room, decode
from linnet.runtime.longform import MAX_CUT_S, Cut, Detector, plan_cuts
from linnet.runtime.prompt import build_prompt, parse_answer
from linnet.runtime.providers import release_free_memory
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig
from linnet.runtime.recording import Recording
from linnet.runtime.vad import SAMPLE_RATE_HZ, SpeechDetector
from linnet.runtime.words import word_confidences
from linnet.text import language_code, language_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FloatArray = npt.NDArray[np.float32]

MAX_BATCH = 8
"""Sequences in one step, unless a single beam is wider; more gain little on a CPU."""
MAX_BEAM_SIZE = 32
"""Far more than has ever helped; three such beams still fit into llama.cpp's limit of 256 sequences."""
MIN_RETRY_S = 1.0
"""A cut shorter than twice this is not split for a second try."""
MAX_RETRIES = 2
"""How often a cut that went wrong is halved: 30 s → 15 s → 7.5 s."""
_FLAGS: dict[str, tuple[str, ...]] = {"end": (), "loop": ("repetition",), "cap": ("truncated",)}
CONTEXT_LEAK = "context_leak"
"""Flag of a segment whose first answer was copied from the context, so that it was heard again without it."""


def slots_for(beam_size: int) -> int:
    """Decoder slots for full batches of beams: two beams at least, and room for one more in between.

    Raises ConfigError for a beam that is not offered.
    """
    if not 1 <= beam_size <= MAX_BEAM_SIZE:
        raise ConfigError(f"The beam size is {beam_size}; accepted: 1 (greedy) to {MAX_BEAM_SIZE}.")
    return MAX_BATCH if beam_size == 1 else max(MAX_BATCH + beam_size, 3 * beam_size)


@dataclass(frozen=True, eq=False)
class _Prompt:
    """Embeddings [T, H] before and after the audio, and the code of the language that they force."""

    prefix: FloatArray
    suffix: FloatArray
    forced: str | None


@dataclass(eq=False)
class _Open:
    """A request that is not answered yet: how many parts of its cut are out, and what was heard in the others."""

    request: CutRequest
    parts: int = 1
    segments: list[Segment] = field(default_factory=list)


@dataclass(eq=False)
class _Job:
    """A cut or a part of one on its way through the model, and how often it has been halved."""

    cut: Cut
    open: _Open
    retries: int = 0
    forced: str | None = None
    without_context: bool = False
    suspect: Segment | None = None
    """What was answered with the context, if that is why the cut is heard again without it."""


@dataclass(eq=False)
class _OneRecording:
    """CutSource for the cuts of a single recording; its errors are raised."""

    cuts: Iterator[Cut]
    language: str | None
    context: str
    finished: Callable[[Cut], None]
    segments: list[Segment] = field(default_factory=list)

    def next(self) -> CutRequest | None:
        cut = next(self.cuts, None)
        return None if cut is None else CutRequest(cut, self.language, self.context)

    def done(self, request: CutRequest, result: list[Segment] | LinnetError) -> None:
        if isinstance(result, LinnetError):
            raise result
        self.finished(request.cut)
        self.segments += result

    def wants(self, request: CutRequest) -> bool:
        return True

    def between(self) -> None:
        pass


class Qwen3ASRRecognizer:
    """Recognizer for bundles of family `qwen3_asr`. Calls from several threads take turns."""

    times_words = False

    def __init__(
        self,
        bundle: Bundle,
        decoder: Decoder,
        *,
        threads: int | None = None,
        attention: Attention = "windowed",
        device: str = "cpu",
        beam_size: int = 1,
        max_batch: int = MAX_BATCH,
        max_cut_s: float = MAX_CUT_S,
        detector: Detector | None = None,
    ) -> None:
        """Open the bundle's encoder and tokenizer; `decoder` comes opened and is closed with the recogniser.

        `device` runs the encoder. `beam_size` answers are followed at a time, 1 is greedy search; `max_batch` sequences
        of cuts of at most `max_cut_s` seconds are decoded side by side. `detector` replaces the voice activity
        detector. Raises BundleError if bundle and decoder do not fit together, ConfigError if the decoder has too few
        slots for the beam.
        """
        self.bundle = bundle
        self._config = _read_config(bundle)
        self._languages = tuple(language_code(language) for language in bundle.languages)
        self._tokenizer = _open_tokenizer(bundle)
        if decoder.hidden_size != self._config.output_dim:
            raise BundleCorruptError(
                f"Bundle {bundle.path}: the decoder reads embeddings of {decoder.hidden_size} numbers, the encoder "
                f"writes {self._config.output_dim}. Export the bundle again from one checkpoint."
            )
        if beam_size > decoder.max_slots:
            raise ConfigError(
                f"A beam of {beam_size} needs as many slots; this decoder has {decoder.max_slots}. Open it with more."
            )
        bundle.file("encoder_conv.onnx")  # listed, and so checked when the bundle was opened
        encoder_folder = bundle.file("encoder.onnx").parent
        self._encoder = Encoder(encoder_folder, self._config, attention=attention, threads=threads, device=device)
        self._decoder, self._detector = decoder, detector
        self._drafter = Drafter(bundle.features, self._config, self._tokenizer, self._encoder, decoder, attention)
        self._beam_size, self._max_batch, self._max_cut_s = beam_size, max(beam_size, max_batch), max_cut_s
        self._lock = threading.RLock()  # calls may be nested: see `recognize_from`

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        language: str | None = None,
        context: str = "",
        progress: Progress | None = None,
    ) -> Transcription:
        """Recognise a recording; see `base.Recognizer.transcribe`. The same input gives the same result."""
        forced = self._forced_language(language)
        with self._lock:
            started = time.perf_counter()
            recording = Recording(audio, sample_rate_hz, progress)
            if self._detector is None:
                self._detector = SpeechDetector()
            if isinstance(self._detector, SpeechDetector):
                self._detector.reset()
            cuts = plan_cuts(recording.blocks(), self._detector, max_cut_s=self._max_cut_s)
            segments = self._segments(cuts, language, context, recording.finished)
            if progress is not None:
                progress(recording.duration_s, recording.duration_s)
            return assemble(
                segments,
                duration_s=recording.duration_s,
                model=self.bundle.name,
                processing_s=time.perf_counter() - started,
                language=forced,
            )

    def recognize(self, cuts: Iterable[Cut], *, language: str | None = None, context: str = "") -> list[Segment]:
        """Segments of cuts that were planned elsewhere: what `transcribe` says of the same cuts."""
        self._forced_language(language)
        with self._lock:
            return self._segments(cuts, language, context)

    def recognize_from(self, source: CutSource) -> None:
        """Recognise cuts of many recordings side by side, see `base.BatchRecognizer`."""
        with self._lock:
            # What the source does in between needs room of its own: a draft, or the final text of a live cut.
            room = self._decoder.max_slots - self._beam_size
            self._recognize(source, max_batch=max(self._beam_size, min(self._max_batch, room)))

    def draft(
        self, cut: Cut, previous: Draft | None = None, *, language: str | None = None, context: str = ""
    ) -> Draft:
        """What has been said in a cut that still grows; `previous` is the draft of its beginning."""
        forced = self._forced_language(language)
        with self._lock:
            prompt = build_prompt(self._tokenizer, 0, context=context, language=forced)
            draft = self._drafter(cut.samples, prompt, forced, previous)
        # Not the place to hear it twice: what may be copied is shown when the cut has ended, if it was heard.
        return replace(draft, text="") if is_suspect(draft.text, context) else draft

    def close(self) -> None:
        """Release encoder and decoder; further calls are errors."""
        with self._lock:
            self._encoder.close()
            self._decoder.close()

    def _forced_language(self, language: str | None) -> str | None:
        """Code of the language to force; LanguageError if the model was not made for it."""
        if language is None:
            return None
        try:
            code = language_code(language)
        except LanguageError:
            code = None
        if code is None or (self._languages and code not in self._languages):
            accepted = ", ".join(f"{language_name(known)} ({known})" for known in self._languages)
            raise LanguageError(
                f"Model {self.bundle.name!r} does not know the language {language!r}; accepted: {accepted}. "
                "Leave the language out to let the model detect it."
            )
        return code

    def _segments(
        self,
        cuts: Iterable[Cut],
        language: str | None,
        context: str,
        finished: Callable[[Cut], None] = lambda cut: None,
    ) -> list[Segment]:
        """Segments in order; `finished` hears of every cut that is done."""
        source = _OneRecording(iter(cuts), language, context, finished)
        self._recognize(source, max_batch=self._max_batch)
        return sorted(source.segments, key=lambda segment: segment.start_s)

    def _recognize(self, source: CutSource, *, max_batch: int) -> None:
        prompts: dict[tuple[str | None, str], _Prompt] = {}  # of the cuts in work
        halves: deque[_Job] = deque()

        def next_request() -> Request[_Job] | None:
            # Second tries first: they are in memory already, the recording can wait.
            while True:
                if halves:
                    job = halves.popleft()
                elif (request := source.next()) is not None:
                    job = _Job(request.cut, _Open(request))
                else:
                    return None
                if not source.wants(job.open.request):
                    continue
                try:
                    key = (job.open.request.language, "" if job.without_context else job.open.request.context)
                    if key not in prompts:
                        prompts.clear()
                        prompts[key] = self._prompt(*key)
                    return self._request(job, prompts[key])
                except LinnetError as error:
                    source.done(job.open.request, error)

        answers = decode(
            self._decoder,
            next_request,
            end_ids=self._config.eos_token_ids,
            max_batch=max_batch,
            between=source.between,
            wanted=lambda job: source.wants(job.open.request),
            begin=None if self._beam_size == 1 else BeamSearch.begin(self._beam_size),
            width=self._beam_size,
        )
        for job, answer in answers:
            long_enough = job.cut.duration_s >= 2 * MIN_RETRY_S
            if answer.stopped != "end" and job.retries < MAX_RETRIES and long_enough:
                plain = job.without_context
                halves.extend(_Job(part, job.open, job.retries + 1, None, plain) for part in job.cut.split())
                job.open.parts += 1
                continue
            segment = self._segment(job.cut, answer, job.forced)
            if job.without_context:
                segment = _believe(job.suspect, segment)
            elif segment is not None and is_suspect(segment.text, job.open.request.context):
                halves.append(_Job(job.cut, job.open, job.retries, None, True, segment))
                continue
            if segment is not None:
                job.open.segments.append(segment)
            job.open.parts -= 1
            if job.open.parts == 0:
                source.done(job.open.request, sorted(job.open.segments, key=lambda segment: segment.start_s))

    def _prompt(self, language: str | None, context: str) -> _Prompt:
        forced = self._forced_language(language)
        prompt = build_prompt(self._tokenizer, 0, context=context, language=forced)
        return _Prompt(self._decoder.embed(prompt.prefix), self._decoder.embed(prompt.suffix), forced)

    def _request(self, job: _Job, prompt: _Prompt) -> Request[_Job]:
        audio = self._encoder(clip_features(job.cut.samples, self.bundle.features))
        embeddings = np.concatenate([prompt.prefix, audio, prompt.suffix])
        room = answer_room(self._decoder, context=len(prompt.prefix), audio=len(audio), rest=len(prompt.suffix))
        job.forced = prompt.forced
        return Request(job, embeddings, min(answer_cap(job.cut.duration_s), room))

    def _segment(self, cut: Cut, answer: Hypothesis, forced: str | None) -> Segment | None:
        """What was said in a cut, or None if nothing was."""
        raw = self._tokenizer.decode(list(answer.tokens), skip_special_tokens=False)
        # A sequence that was stopped may end inside a character.
        parsed = parse_answer(raw.replace("\ufffd", ""), forced_language=forced)
        if not parsed.text:
            return None
        return Segment(
            text=parsed.text,
            start_s=cut.speech_start / SAMPLE_RATE_HZ,
            end_s=cut.speech_end / SAMPLE_RATE_HZ,
            language=language_code(parsed.language) if parsed.language else None,
            confidence=answer.confidence,
            words=tuple(word_confidences(self._tokenizer, answer.tokens, answer.log_probs, parsed.text)),
            flags=_FLAGS[answer.stopped],
        )


def _believe(suspect: Segment | None, plain: Segment | None) -> Segment | None:
    """One of the answers with and without the context: the first if it was heard, else the second with a flag."""
    if suspect is not None and is_heard(suspect.text, plain.text if plain else ""):
        return suspect
    return None if plain is None else replace(plain, flags=(*plain.flags, CONTEXT_LEAK))


def _read_config(bundle: Bundle) -> Qwen3ASRConfig:
    config = Qwen3ASRConfig.from_bundle(bundle.model)
    if bundle.sample_rate_hz != SAMPLE_RATE_HZ or bundle.features.n_mels != config.n_mels:
        raise BundleCorruptError(
            f"Bundle {bundle.path}: {bundle.features.n_mels} mel bands at {bundle.sample_rate_hz} Hz do not fit "
            f"the model's {config.n_mels} bands at {SAMPLE_RATE_HZ} Hz. Export it again."
        )
    return config


def _open_tokenizer(bundle: Bundle) -> Tokenizer:
    from tokenizers import Tokenizer

    path = bundle.file("tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as problem:  # the library raises plain Exception
        raise BundleCorruptError(f"{path} is not a tokenizer: {problem}. Export or pull the bundle again.") from problem
    release_free_memory()
    return tokenizer
