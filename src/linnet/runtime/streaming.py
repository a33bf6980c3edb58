"""Speech to text while it is spoken: push samples, get partial and final texts. Memory and work stay bounded for ever.

Cuts are planned as for a recording (`longform.py`), with shorter pauses. While a cut grows, drafts of it give partial
texts (`draft.py`); once it has ended, it is recognised as `transcribe` recognises a cut, and that text is final.

What bounds the work: a cut is at most 30 s long; it is drafted again when it has grown by a second, or by a tenth if
that is more, so the drafts of a cut take at most about ten times what its recognition takes, however it is pushed; and
one push makes at most one draft, so a client that falls behind gets fewer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from linnet.audio import check_samples
from linnet.errors import ConfigError
from linnet.runtime.base import Draft, Recognizer, StreamingRecognizer
from linnet.runtime.longform import MAX_CUT_S, Cut, CutPlanner, Detector, is_steady
from linnet.runtime.silero import FRAME
from linnet.runtime.vad import SAMPLE_RATE_HZ, SpeechDetector

FloatArray = npt.NDArray[np.float32]
PARTIAL_S, PARTIAL_SHARE = 1.0, 0.1
"""A cut is drafted again when it has grown by this many seconds, and by this share of its length."""
MAX_PAUSE_S = 0.5
"""A longer pause ends a cut (in a recording: 1 s). The final text comes about half a second after that."""
_STEP = 4 * FRAME  # samples are taken in this many at once: smaller pushes cost more than they tell


@dataclass(frozen=True)
class StreamEvent:
    """A text and its place in the stream, in seconds from its start.

    A partial replaces the partial before it; an empty one takes it back. A final is never changed: partials after it
    speak of what comes after it.
    """

    kind: Literal["partial", "final"]
    text: str
    start_s: float
    end_s: float
    confidence: float | None
    """Geometric mean of the token probabilities, 0…1."""
    language: str | None = None
    """ISO code, if the text is final and the model named the language."""
    flags: tuple[str, ...] = ()
    """As in `results.Segment`."""


class StreamingTranscriber:
    """One stream of speech. Several may share a recogniser: their calls take turns."""

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        language: str | None = None,
        context: str = "",
        partials: bool = True,
        max_pause_s: float = MAX_PAUSE_S,
        max_cut_s: float = MAX_CUT_S,
        detector: Detector | None = None,
    ) -> None:
        """A stream that begins now; `language` and `context` as in `Recognizer.transcribe`.

        Without `partials` there are finals only, for less work (docs/streaming.md has numbers). A pause of
        `max_pause_s` ends a cut, and so do `max_cut_s` seconds. `detector` replaces the voice activity detector.
        Raises ConfigError if the model cannot stream, LanguageError for a language it does not know.
        """
        if not isinstance(recognizer, StreamingRecognizer):
            raise ConfigError(
                f"Model {recognizer.bundle.name!r} (family {recognizer.bundle.family!r}) cannot stream; accepted: "
                "models of family 'qwen3_asr'. Use another model, or transcribe whole recordings."
            )
        self._recognizer = recognizer
        self._language, self._context, self._partials = language, context, partials
        self._recognizer.recognize([], language=language, context=context)  # raises for a language it does not know
        self._planner = CutPlanner(detector or SpeechDetector(), max_cut_s=max_cut_s, max_pause_s=max_pause_s)
        self._waiting: list[FloatArray] = []
        self._count = 0
        self._settled: list[Cut] = []
        self._draft: Draft | None = None
        self._drafted = (-1, 0)  # start of the cut that the draft is of, and how far the draft went
        self._shown: StreamEvent | None = None  # the partial that stands
        self._finished = False

    def push(self, samples: npt.ArrayLike) -> list[StreamEvent]:
        """Events caused by the next samples [N], mono floating point at 16 kHz; any N, also 0.

        Raises AudioContentError for samples that are none, ConfigError after `finish`.
        """
        self._check_open()
        if np.size(samples) == 0:
            return []
        self._waiting.append(check_samples(samples).copy())  # the caller may fill the same buffer again
        self._count += len(self._waiting[-1])
        if self._count < _STEP:
            return []
        events = self._final(self._planner.feed(self._take()))
        return [*events, *self._partial()] if self._partials else events

    def finish(self) -> list[StreamEvent]:
        """The last events; the stream has ended."""
        self._check_open()
        self._finished = True
        events = self._final(self._planner.feed(self._take()))
        events += self._final(self._planner.finish())
        return [*events, *self._take_back()]

    def _take(self) -> FloatArray:
        block = np.concatenate([*self._waiting, np.zeros(0, np.float32)])
        self._waiting, self._count = [], 0
        return block

    def _final(self, planned: Iterable[Cut]) -> list[StreamEvent]:
        # Planned before the recogniser is asked: looking for speech must not keep other streams waiting. And kept until
        # it has answered, so that Ctrl-C in the middle loses no words.
        self._settled += planned
        if not self._settled:
            return []
        segments = self._recognizer.recognize(self._settled, language=self._language, context=self._context)
        self._settled = []
        if segments:
            self._shown = None  # replaced by what is final
        return [
            StreamEvent("final", one.text, one.start_s, one.end_s, one.confidence, one.language, one.flags)
            for one in segments
        ]

    def _partial(self) -> list[StreamEvent]:
        cut = self._planner.open_cut()
        if cut is None:
            self._draft = None
            return self._take_back()
        if self._drafted[0] != cut.start:
            self._draft, self._drafted = None, (cut.start, cut.start)
        # A draft that went wrong took long, and the next one will: not before the cut has doubled.
        share = PARTIAL_SHARE if self._draft is None or self._draft.has_ended else 0.5
        due = max(PARTIAL_S * SAMPLE_RATE_HZ, share * len(cut.samples))
        if cut.end - self._drafted[1] < due or is_steady(cut):
            return []
        draft = self._recognizer.draft(cut, self._draft, language=self._language, context=self._context)
        self._draft, self._drafted = draft, (cut.start, cut.end)
        if not draft.text:
            return self._take_back()
        start_s, end_s = cut.speech_start / SAMPLE_RATE_HZ, cut.speech_end / SAMPLE_RATE_HZ
        same = self._shown is not None and self._shown.text == draft.text
        self._shown = StreamEvent("partial", draft.text, start_s, end_s, draft.confidence)
        return [] if same else [self._shown]

    def _take_back(self) -> list[StreamEvent]:
        """An empty partial, if one is shown that came to nothing."""
        shown, self._shown = self._shown, None
        return [] if shown is None else [StreamEvent("partial", "", shown.start_s, shown.end_s, None)]

    def _check_open(self) -> None:
        if self._finished:
            raise ConfigError("This stream has been finished. Make a new StreamingTranscriber for the next one.")
