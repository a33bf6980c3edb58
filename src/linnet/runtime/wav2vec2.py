"""The wav2vec 2.0 recogniser: cuts → samples → one graph → CTC → words with times, any length.

A cut longer than `chunk_s` is heard in overlapping chunks (`chunk_plan`): frames near a chunk's edge lack context and
are taken from its neighbour. For what is local (convolutions, positions) the result is exactly that of hearing the cut
whole; attention reaches as far as the chunk.

Shapes: N samples, T frames of 20 ms, V labels.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from linnet.bundle import Bundle
from linnet.ctc import CtcResult, greedy, prefix_beam
from linnet.errors import BundleCorruptError, ConfigError, LanguageError
from linnet.results import Segment, Transcription, Word
from linnet.runtime.base import AudioSource, Progress
from linnet.runtime.longform import MAX_CUT_S, Cut, Detector, plan_cuts
from linnet.runtime.providers import session_options
from linnet.runtime.recording import Recording
from linnet.runtime.vad import SAMPLE_RATE_HZ, SpeechDetector
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.runtime.wav2vec2_vocabulary import Vocabulary
from linnet.text import is_cjk, language_code

if TYPE_CHECKING:
    import onnxruntime as ort

    from linnet.runtime.lexicon_decoder import LexiconDecoder

FloatArray = npt.NDArray[np.float32]
Decoding = Literal["greedy", "beam"]
CHUNK_S, MARGIN_S = 20.0, 2.0
"""A chunk, and how much of it at either end only serves as context."""
SILENT = 1e-7  # standard deviation of samples in which nothing can be heard
_SMOOTH = 1e-7  # added to the variance, as in the graph


def chunk_plan(frames: int, *, chunk: int, margin: int) -> list[tuple[int, int, int]]:
    """(first frame heard, first kept, end of the kept) of each chunk; the kept parts tile 0…frames.

    `chunk` frames are heard at once, of which `margin` at each inner edge are not kept. Raises ConfigError if nothing
    would be left.
    """
    if chunk <= 2 * margin or margin < 0:
        raise ConfigError(f"A chunk of {chunk} frames with margins of {margin} keeps nothing; make the chunk longer.")
    if frames <= chunk:
        return [(0, 0, frames)]
    plan, kept = [], 0
    while kept < frames:
        first = min(max(0, kept - margin), frames - chunk)  # the last chunk is a full one, too
        end = frames if first + chunk >= frames else first + chunk - margin
        plan.append((first, kept, end))
        kept = end
    return plan


class Wav2Vec2Recognizer:
    """Recognizer for bundles of family `wav2vec2`. Calls from several threads take turns."""

    times_words = True

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        decoding: Decoding = "greedy",
        beam_size: int = 16,
        max_cut_s: float = MAX_CUT_S,
        chunk_s: float = CHUNK_S,
        margin_s: float = MARGIN_S,
        detector: Detector | None = None,
    ) -> None:
        """Open the bundle. A language model in it (`linnet lm`) decides the decoding; otherwise `decoding` does.

        Raises BundleError for a bundle that does not fit together, MissingExtraError if it has a language model and
        `linnet[lm]` is not installed.
        """
        if decoding not in ("greedy", "beam"):
            raise ConfigError(f"Unknown decoding {decoding!r}; accepted: 'greedy', 'beam'.")
        self.bundle, self._decoding, self._beam_size = bundle, decoding, beam_size
        self.config = _read_config(bundle)
        self.vocabulary = _read_vocabulary(bundle, self.config)
        self._session: Any = _open(bundle.file("model.onnx"), threads)
        self._scaled = {given.name for given in self._session.get_overridable_initializers()} == {"statistics"}
        self._lm: LexiconDecoder | None = None
        if bundle.has("lm.arpa"):
            from linnet.runtime.lexicon_decoder import LexiconDecoder

            self._lm = LexiconDecoder(bundle.file("lm.arpa"), self.vocabulary, blank_id=self.config.blank_id)
        self._chunk, self._margin = (round(length / self.config.frame_s) for length in (chunk_s, margin_s))
        chunk_plan(1, chunk=self._chunk, margin=self._margin)  # checks them
        self._max_cut_s, self._detector = max_cut_s, detector
        self._lock = threading.Lock()

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        language: str | None = None,
        context: str = "",
        progress: Progress | None = None,
    ) -> Transcription:
        """Recognise a recording; see `base.Recognizer.transcribe`. A CTC model takes no `context` (ConfigError)."""
        spoken = self._language(language)
        if context:
            raise ConfigError(
                f"Model {self.bundle.name!r} is wav2vec 2.0, which reads no context; leave it out, or add a language "
                "model with `linnet lm`."
            )
        with self._lock:
            started = time.perf_counter()
            recording = Recording(audio, sample_rate_hz, progress)
            segments = tuple(self._segments(recording, spoken))
            if progress is not None:
                progress(recording.duration_s, recording.duration_s)
            gap = "" if is_cjk(spoken) else " "
            return Transcription(
                text=gap.join(segment.text for segment in segments),
                language=spoken if segments else None,
                duration_s=recording.duration_s,
                segments=segments,
                model=self.bundle.name,
                processing_s=time.perf_counter() - started,
            )

    def log_probs(self, samples: FloatArray) -> FloatArray:
        """Log-probabilities [T, V] of samples [N] at 16 kHz; T is 0 for clips too short for one frame, and silent ones.

        Memory is bounded by the chunk.
        """
        config = self.config
        frames = config.frames(len(samples))
        if frames == 0 or float(samples.std()) < SILENT:
            return np.empty((0, config.vocab_size), np.float32)
        plan = chunk_plan(frames, chunk=self._chunk, margin=self._margin)
        given: dict[str, FloatArray] = {}
        if len(plan) > 1 and self._scaled:
            deviation = math.sqrt(float(samples.var(dtype=np.float64)) + _SMOOTH)
            given["statistics"] = np.array([samples.mean(dtype=np.float64), deviation], np.float32)
        parts = []
        for first, start, end in plan:
            heard = min(first + self._chunk, frames)
            # All samples of the last chunk, so that a clip that fits into one is heard to its end.
            stop = len(samples) if heard == frames else (heard - 1) * config.stride + config.receptive_field
            piece = np.ascontiguousarray(samples[first * config.stride : stop])[None]
            whole: FloatArray = self._session.run(None, {"samples": piece, **given})[0][0]
            parts.append(whole[start - first : end - first])
        return np.concatenate(parts)

    def decode(self, log_probs: FloatArray) -> CtcResult:
        """Labels with times and confidences of log_probs [T, V]."""
        blank, frame_s = self.config.blank_id, self.config.frame_s
        if self._lm is not None:
            return self._lm(log_probs, frame_s=frame_s)
        if self._decoding == "beam":
            return prefix_beam(log_probs, beam_size=self._beam_size, blank_id=blank, frame_s=frame_s)
        return greedy(log_probs, blank_id=blank, frame_s=frame_s)

    def close(self) -> None:
        """Release the model's memory; further calls are errors."""
        with self._lock:
            self._session = self._lm = None

    def _segments(self, recording: Recording, language: str | None) -> Iterator[Segment]:
        if self._detector is None:
            self._detector = SpeechDetector()
        if isinstance(self._detector, SpeechDetector):
            self._detector.reset()
        for cut in plan_cuts(recording.blocks(), self._detector, max_cut_s=self._max_cut_s):
            segment = self._segment(cut, language)
            recording.finished(cut)
            if segment is not None:
                yield segment

    def _segment(self, cut: Cut, language: str | None) -> Segment | None:
        """What was said in a cut, or None if nothing was."""
        log_probs = self.log_probs(cut.samples)
        if len(log_probs) == 0:
            return None
        words = self.vocabulary.words(self.decode(log_probs), offset_s=cut.start / SAMPLE_RATE_HZ)
        if not words:
            return None
        return Segment(
            text=_join(words, language),
            start_s=cut.speech_start / SAMPLE_RATE_HZ,
            end_s=cut.speech_end / SAMPLE_RATE_HZ,
            language=language,
            confidence=math.exp(sum(math.log(max(word.confidence or 0.0, 1e-10)) for word in words) / len(words)),
            words=tuple(words),
        )

    def _language(self, language: str | None) -> str | None:
        """Code of the language spoken: the one asked for, or the only one the model knows."""
        known = tuple(language_code(name) for name in self.bundle.languages)
        if language is None:
            return known[0] if len(known) == 1 else None
        code = language_code(language)
        if known and code not in known:
            raise LanguageError(
                f"Model {self.bundle.name!r} was made for {', '.join(known)}, not for {language!r}. Leave the language "
                "out, or choose another model."
            )
        return code


def _join(words: Sequence[Word], language: str | None) -> str:
    return ("" if is_cjk(language) else " ").join(word.text for word in words)


def _read_config(bundle: Bundle) -> Wav2Vec2Config:
    try:
        numbers: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in bundle.model.items()
        }
        return Wav2Vec2Config(**numbers)
    except (ConfigError, TypeError) as problem:
        raise BundleCorruptError(
            f"Bundle {bundle.path}: the model's numbers are not those of wav2vec 2.0 ({problem}). Export it again."
        ) from problem


def _read_vocabulary(bundle: Bundle, config: Wav2Vec2Config) -> Vocabulary:
    path = bundle.file("vocab.json")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        labels, special = _texts(described["labels"]), _texts(described["special"])
        found = Vocabulary(labels, str(described["word_separator"]), special, bool(described["normalise"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise BundleCorruptError(f"{path} is not a vocabulary ({problem!r}). Export the bundle again.") from problem
    if len(labels) != config.vocab_size:
        raise BundleCorruptError(
            f"Bundle {bundle.path}: vocab.json has {len(labels)} labels, the model {config.vocab_size}. "
            "Export it again."
        )
    return found


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _open(path: Path, threads: int | None) -> ort.InferenceSession:
    import onnxruntime as ort

    options = session_options(threads)
    options.log_severity_level = 3  # it warns of inputs with a default, which `statistics` is on purpose
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads take cores from others
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's own exceptions share no public base class
        raise BundleCorruptError(f"ONNX Runtime cannot load {path}: {problem}. Export or pull it again.") from problem
