"""Results are plain values that survive JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from linnet.results import Segment, Transcription, Word

WORD = Word("hello", 0.1, 0.5, 0.9)
SEGMENT = Segment("hello", 0.0, 1.0, "en", 0.8, (WORD,), ("loop",))
TRANSCRIPTION = Transcription("hello", "en", 1.5, (SEGMENT,), "nano", 0.2)


def test_to_dict_survives_json_and_keeps_every_field() -> None:
    record = TRANSCRIPTION.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record == {
        "text": "hello",
        "language": "en",
        "duration_s": 1.5,
        "segments": [
            {
                "text": "hello",
                "start_s": 0.0,
                "end_s": 1.0,
                "language": "en",
                "confidence": 0.8,
                "words": [{"text": "hello", "start_s": 0.1, "end_s": 0.5, "confidence": 0.9}],
                "flags": ["loop"],
            }
        ],
        "model": "nano",
        "processing_s": 0.2,
    }


def test_no_speech_is_a_valid_result() -> None:
    record = Transcription("", None, 3.0, (), "nano").to_dict()
    assert (record["text"], record["segments"], record["language"], record["processing_s"]) == ("", [], None, None)


def test_results_are_frozen_and_comparable() -> None:
    assert dataclasses.replace(TRANSCRIPTION) == TRANSCRIPTION
    with pytest.raises(dataclasses.FrozenInstanceError):
        TRANSCRIPTION.text = "no"  # type: ignore[misc]
