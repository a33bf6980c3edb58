"""A Transcription as txt, srt, vtt, tsv, json or verbose_json.

All documents are UTF-8 text that ends with a newline (an empty srt is empty). No speech gives a valid document without
entries. Times are rounded to whole milliseconds before they are split into fields, so 59.9996 s is 00:01:00.000.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from linnet.errors import ConfigError
from linnet.results import Segment, Transcription
from linnet.subtitles import make_cues
from linnet.text import LANGUAGES

FORMATS = ("txt", "srt", "vtt", "tsv", "json", "verbose_json")


def render(transcription: Transcription, format: str) -> str:
    """The whole document; `format` is one of FORMATS, otherwise ConfigError."""
    if format not in _WRITERS:
        raise ConfigError(f"Unknown output format {format!r}; accepted: {', '.join(FORMATS)}.")
    return _WRITERS[format](transcription)


def _txt(transcription: Transcription) -> str:
    return _one_line(transcription.text) + "\n"  # one line per recording, even an empty one


def _srt(transcription: Transcription) -> str:
    return "".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.replace('-->', '->')}\n\n"
        for number, (start, end, text) in enumerate(_cues(transcription), start=1)
    )


def _vtt(transcription: Transcription) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escape(text)}\n\n" for start, end, text in _cues(transcription)
    )


def _tsv(transcription: Transcription) -> str:
    segments = [(segment.start_s, segment.end_s, _one_line(segment.text)) for segment in transcription.segments]
    rows = "".join(f"{start}\t{end}\t{text}\n" for start, end, text in _in_milliseconds(segments))
    return "start\tend\ttext\n" + rows  # milliseconds, as openai-whisper writes them


def _json(transcription: Transcription) -> str:
    return _dump(transcription.to_dict())


def _verbose_json(transcription: Transcription) -> str:
    """OpenAI's `verbose_json`. Left out because we do not have them: `tokens` and `no_speech_prob`."""
    language = transcription.language or ""
    document: dict[str, Any] = {
        "task": "transcribe",
        "language": LANGUAGES.get(language, language).lower(),
        "duration": round(transcription.duration_s, 3),
        "text": transcription.text,
        "segments": [_verbose_segment(number, segment) for number, segment in enumerate(transcription.segments)],
    }
    words = [
        {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
        for segment in transcription.segments
        for word in segment.words
        if word.start_s is not None and word.end_s is not None
    ]
    if words:
        document["words"] = words
    return _dump(document)


def _verbose_segment(number: int, segment: Segment) -> dict[str, Any]:
    raw = segment.text.encode()
    record: dict[str, Any] = {
        "id": number,
        "seek": round(segment.start_s * 100),  # 10 ms frames, as in openai-whisper
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "temperature": 0.0,  # decoding is greedy
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 3),
    }
    if segment.confidence:  # None: unknown; 0 has no logarithm
        record["avg_logprob"] = round(math.log(segment.confidence), 4)
    return record


def _cues(transcription: Transcription) -> list[tuple[int, int, str]]:
    """Start and end in milliseconds and text of every subtitle; the rules are those of `subtitles.py`."""
    return _in_milliseconds((cue.start_s, cue.end_s, "\n".join(cue.lines)) for cue in make_cues(transcription.segments))


def _in_milliseconds(spans: Iterable[tuple[float, float, str]]) -> list[tuple[int, int, str]]:
    """Spans in seconds that have text; the end is after the start."""
    found = []
    for start_s, end_s, text in spans:
        if text:
            start = max(0, round(start_s * 1000))
            found.append((start, max(start + 1, round(end_s * 1000)), text))
    return found


def _clock(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"


def _one_line(text: str) -> str:
    """Without tabs and line breaks, which would end a row, a cue or a line; a blank line would end the subtitle."""
    return " ".join(text.split())


def _escape(text: str) -> str:
    """WebVTT cue text (W3C, section 3.4): markup characters as references, which takes care of "-->" as well."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _dump(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


_WRITERS: dict[str, Callable[[Transcription], str]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
    "json": _json,
    "verbose_json": _verbose_json,
}
