"""The audio-visual recogniser at run time: sound, pictures or both in, a Transcription out; ONNX Runtime, no torch.

    auto    what the file has: both, or the one that is usable; a missing face or track is a flag, not an error
    both    sound and pictures, or an error that says which is missing
    audio   sound alone
    video   pictures alone

Recordings are cut every 12 to 18 s, where the sound is quietest, or every 18 s without sound.

Shapes: N samples, T pictures of S × S pixels, L steps, V vocabulary.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from linnet.audio import check_samples, resample, stream_audio
from linnet.bundle import Bundle
from linnet.containers import SPOOL_BYTES
from linnet.ctc import CtcResult, forced_align, greedy, prefix_beam
from linnet.ctc_grammar import best_sentence
from linnet.errors import (
    AudioContentError,
    BundleCorruptError,
    ConfigError,
    LanguageError,
    VideoDecodeError,
    VideoError,
)
from linnet.features import log_mel
from linnet.lips import MouthVideo, read_mouth
from linnet.results import Segment, Transcription, Word
from linnet.runtime.avsr_config import CLOCK_HZ, read_model
from linnet.runtime.base import AudioSource, Progress
from linnet.runtime.longform import quietest_point
from linnet.runtime.providers import session_options
from linnet.text import language_code
from linnet.video import tracks

FloatArray = npt.NDArray[np.float32]
MODALITIES = ("auto", "audio", "video", "both")
Decoding = Literal["auto", "greedy", "beam", "grammar"]
"""auto: the bundle's grammar if it has one, else greedy. Prefix beam search is `linnet.ctc.prefix_beam`."""
CUT_S = 18.0
MIN_SAMPLES = 640  # one step of 40 ms; a shorter rest is no word
_DIFFERENT_S = 1.0  # sound and pictures that differ by more than this in length get a flag


@dataclass(frozen=True, eq=False)
class _Piece:
    """What one run of the network sees: samples [N] (or None), the pictures beside them, and where it begins."""

    samples: FloatArray | None
    pictures: npt.NDArray[np.uint8]
    start_s: float
    end_s: float


class AVSRRecognizer:
    """One opened bundle of the family `avsr`. `modality` and `decoding` may be set at any time."""

    times_words = True

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        modality: str = "auto",
        decoding: Decoding = "auto",
        beam_size: int = 8,
    ) -> None:
        """Open `avsr.onnx`; `threads` None means all physical cores. Raises BundleError, ConfigError."""
        if modality not in MODALITIES:
            raise ConfigError(f"Unknown modality {modality!r}; accepted: {', '.join(MODALITIES)}.")
        self.bundle, self.modality, self.decoding, self.beam_size = (bundle, modality, decoding, beam_size)
        self._config, self._vocabulary = read_model(bundle.model)
        self._crop = bundle.model.get("crop", "auto")
        self._grammar = [
            [tuple(self._vocabulary.encode(word)) for word in slot] for slot in bundle.model.get("grammar", [])
        ]
        self._watched: MouthVideo | None = None
        self._session: Any = _open(bundle.file("avsr.onnx"), threads)

    @property
    def streams(self) -> tuple[str, ...]:
        """What it was trained on: "audio", "video" or both."""
        return tuple(self.bundle.model.get("streams", ("audio", "video")))

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int = 16_000,
        language: str | None = None,
        context: str = "",
        progress: Progress | None = None,
    ) -> Transcription:
        """Recognise a recording; an array of samples has no pictures.

        Flags of a segment: "no_face", "no_video" (pictures could not be used), "no_sound", "lengths_differ". Raises
        AudioError, VideoError, LanguageError (anything but English), ConfigError (a context: this family has no use
        for it), MissingExtraError.
        """
        self._check_options(language, context)
        started = time.perf_counter()
        if isinstance(audio, np.ndarray):
            mouth = None if self.modality == "audio" else self._watched
            if self.modality in ("video", "both") and mouth is None:
                raise VideoDecodeError(
                    f"Samples have no pictures, and the modality is {self.modality!r}. Give a video file, or use "
                    "'audio' or 'auto'."
                )
            samples = resample(check_samples(audio), sample_rate_hz, self.bundle.sample_rate_hz)
            blocks = None if self.modality == "video" else iter([samples])
            return self._recognize(blocks, mouth, (), started, progress)
        with _seekable(audio) as source:
            hears, mouth, flags = self._look(source)
            rewind(source)
            blocks = stream_audio(source, sample_rate_hz=self.bundle.sample_rate_hz, block_s=CUT_S) if hears else None
            return self._recognize(blocks, mouth, flags, started, progress)

    def watch(self, video: Path | None, *, audio_duration_s: float | None = None) -> None:
        """Look at this file while samples are given, until the next call; None: at nothing. Raises VideoError."""
        self._watched = None
        if video is not None:
            self._watched = self.read_mouth(video, audio_duration_s=audio_duration_s)

    def read_mouth(self, path: str | Path | BinaryIO, *, audio_duration_s: float | None = None) -> MouthVideo:
        """The pictures of a video as this bundle wants them; raises VideoError or MissingExtraError."""
        return read_mouth(path, size_px=self._config.video_px, crop=self._crop, audio_duration_s=audio_duration_s)

    def log_probs(self, samples: FloatArray | None, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's answer [L, V] for samples [N] and pictures [T, S, S] (T = 0: none)."""
        mel = (
            np.zeros((self._config.n_mels, 0), np.float32)
            if samples is None
            else log_mel(samples, self.bundle.features)
        )
        frames, count, side = mel.shape[1], len(pictures), self._config.video_px
        inputs = {
            "mel": mel[None] if frames else np.zeros((1, self._config.n_mels, 1), np.float32),
            "mel_frames": np.array([frames]),
            "video": pictures[None] if count else np.zeros((1, 1, side, side), np.uint8),
            "video_frames": np.array([count]),
        }
        log_probs, lengths = self._session.run(None, inputs)
        answer: npt.NDArray[np.float32] = log_probs[0, : int(lengths[0])]
        return answer

    def close(self) -> None:
        """Release the graph's memory; further calls are errors."""
        self._session = None

    def _check_options(self, language: str | None, context: str) -> None:
        if language is not None and language_code(language) not in self.bundle.languages:
            raise LanguageError(
                f"Bundle {self.bundle.name!r} knows {', '.join(self.bundle.languages)}, got {language!r}."
            )
        if context:
            raise ConfigError("Audio-visual models take no context: they spell what they hear and see. Leave it out.")

    def _look(self, source: str | Path | BinaryIO) -> tuple[bool, MouthVideo | None, tuple[str, ...]]:
        """Whether the sound is to be heard, the mouth, and flags."""
        if self.modality == "audio":
            return True, None, ()
        if self.modality in ("video", "both"):
            return self.modality == "both", self.read_mouth(rewind(source)), ()
        has_sound, has_pictures = tracks(rewind(source))
        if not has_pictures or "video" not in self.streams:
            return True, None, ()
        if "audio" not in self.streams:
            return False, self.read_mouth(rewind(source)), ()
        try:
            mouth = self.read_mouth(rewind(source))
        except VideoError as error:
            if not has_sound:
                raise
            return True, None, ("no_face" if "face" in str(error) else "no_video",)
        return has_sound, mouth, () if has_sound else ("no_sound",)

    def _recognize(
        self,
        blocks: Iterator[FloatArray] | None,
        mouth: MouthVideo | None,
        flags: tuple[str, ...],
        started: float,
        progress: Progress | None,
    ) -> Transcription:
        side = self._config.video_px
        pictures = np.zeros((0, side, side), np.uint8) if mouth is None else mouth.frames
        video_s = len(pictures) / CLOCK_HZ
        pieces = _silent_pieces(pictures) if blocks is None else self._pieces(blocks, pictures)
        segments, end_s = [], 0.0
        for piece in pieces:
            end_s = piece.end_s
            segment = self._segment(piece, flags)
            if segment is not None:
                segments.append(segment)
            if progress is not None:
                progress(end_s, max(end_s, video_s))
        if blocks is not None and mouth is not None and abs(end_s - video_s) > _DIFFERENT_S:
            segments = [_with_flag(segment, "lengths_differ") for segment in segments]
        return Transcription(
            text=" ".join(segment.text for segment in segments),
            language=self.bundle.languages[0] if segments else None,
            duration_s=end_s,
            segments=tuple(segments),
            model=self.bundle.name,
            processing_s=time.perf_counter() - started,
        )

    def _pieces(self, blocks: Iterable[FloatArray], pictures: npt.NDArray[np.uint8]) -> Iterator[_Piece]:
        rate = self.bundle.sample_rate_hz
        limit, step = round(CUT_S * rate), round(rate / CLOCK_HZ)
        waiting = np.zeros(0, np.float32)
        start = 0  # samples, always on a step
        for block in blocks:
            waiting = np.concatenate([waiting, block])
            while len(waiting) > limit:
                cut = quietest_point(waiting, limit * 2 // 3, limit) // step * step
                yield _piece(waiting[:cut], pictures, start, rate)
                waiting, start = waiting[cut:], start + cut
        if len(waiting) < MIN_SAMPLES and start == 0:
            raise AudioContentError(
                f"The recording has {len(waiting)} samples; one step needs {MIN_SAMPLES} ({1 / CLOCK_HZ:g} s)."
            )
        if len(waiting) >= MIN_SAMPLES:
            yield _piece(waiting, pictures, start, rate)

    def _segment(self, piece: _Piece, flags: tuple[str, ...]) -> Segment | None:
        log_probs = self.log_probs(piece.samples, piece.pictures)
        found = self._decode(log_probs)
        words = _words(found, self._vocabulary.decode(found.tokens), piece.start_s, piece.end_s)
        if not words:
            return None
        sure = float(np.exp(np.mean([np.log(max(1e-6, word.confidence or 0.0)) for word in words])))
        text = " ".join(word.text for word in words)
        start_s = words[0].start_s if words[0].start_s is not None else piece.start_s
        end_s = words[-1].end_s if words[-1].end_s is not None else piece.end_s
        return Segment(text, start_s, end_s, self.bundle.languages[0], sure, words, flags)

    def _decode(self, log_probs: npt.NDArray[np.float32]) -> CtcResult:
        blank, frame_s = self._vocabulary.blank_id, 1 / CLOCK_HZ
        decoding = self.decoding if self.decoding != "auto" else "grammar" if self._grammar else "greedy"
        if decoding == "beam":
            return prefix_beam(log_probs, beam_size=self.beam_size, blank_id=blank, frame_s=frame_s)
        if decoding == "greedy":
            return greedy(log_probs, blank_id=blank, frame_s=frame_s)
        if decoding != "grammar" or not self._grammar:
            raise ConfigError(f"Bundle {self.bundle.name!r} cannot decode by {decoding!r}; accepted: greedy, beam.")
        space = self._vocabulary.encode("a b")[1]
        tokens = best_sentence(log_probs, self._grammar, separator=space, blank_id=blank)
        aligned = forced_align(log_probs, tokens, blank_id=blank)
        return CtcResult(
            tokens=tokens,
            start_s=tuple(span.start * frame_s for span in aligned.spans),
            end_s=tuple(span.end * frame_s for span in aligned.spans),
            confidence=tuple(span.confidence for span in aligned.spans),
            score=aligned.score,
        )


def _piece(samples: FloatArray, pictures: npt.NDArray[np.uint8], start: int, rate_hz: int) -> _Piece:
    start_s, end_s = start / rate_hz, (start + len(samples)) / rate_hz
    first, last = round(start_s * CLOCK_HZ), round(end_s * CLOCK_HZ)
    return _Piece(samples, pictures[first:last], start_s, end_s)


def _silent_pieces(pictures: npt.NDArray[np.uint8]) -> Iterator[_Piece]:
    size = round(CUT_S * CLOCK_HZ)
    for first in range(0, len(pictures), size):
        part = pictures[first : first + size]
        yield _Piece(None, part, first / CLOCK_HZ, (first + len(part)) / CLOCK_HZ)


def _words(found: CtcResult, text: str, offset_s: float, end_s: float) -> tuple[Word, ...]:
    """Words between spaces; times of their letters, confidence the geometric mean of theirs."""
    words, first = [], 0
    for last in [*(index for index, letter in enumerate(text) if letter == " "), len(text)]:
        if last > first:
            sure = float(np.exp(np.mean(np.log(np.maximum(1e-6, found.confidence[first:last])))))
            start_s, stop_s = (offset_s + found.start_s[first], offset_s + found.end_s[last - 1])
            words.append(Word(text[first:last], min(start_s, end_s), min(stop_s, end_s), sure))
        first = last + 1
    return tuple(words)


def _with_flag(segment: Segment, flag: str) -> Segment:
    return Segment(
        segment.text,
        segment.start_s,
        segment.end_s,
        segment.language,
        segment.confidence,
        segment.words,
        (*segment.flags, flag),
    )


def rewind(source: str | Path | BinaryIO) -> str | Path | BinaryIO:
    """The same source at its beginning."""
    if not isinstance(source, str | Path):
        source.seek(0)
    return source


@contextmanager
def _seekable(source: str | Path | BinaryIO) -> Iterator[str | Path | BinaryIO]:
    """Pipes as a temporary file: sound and pictures are read one after the other."""
    stream: BinaryIO | None = sys.stdin.buffer if source == "-" else None
    if not isinstance(source, str | Path):
        stream = source
    if stream is None or stream.seekable():
        yield source if stream is None else stream
        return
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        shutil.copyfileobj(stream, spool)
        spool.seek(0)
        yield spool  # type: ignore[misc] # it has all methods of BinaryIO


def _open(path: Path, threads: int | None) -> Any:
    import onnxruntime as ort

    options = session_options(threads)
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's own exceptions share no public base class
        raise BundleCorruptError(f"ONNX Runtime cannot load {path}: {problem}. Export or pull it again.") from problem
