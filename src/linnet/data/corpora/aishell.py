"""AISHELL-1 (openslr.org/33): wav/<split>/<speaker>/*.wav and transcript/aishell_transcript_v0.8.txt.

The transcript has spaces between words, which Mandarin is not written with: they are dropped. A few hundred
recordings have no transcript; they are left out, as in the published recipes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from linnet.data.corpora.recording import Recording, read_pairs

LAYOUT = "wav/{train,dev,test}/<speaker>/*.wav and transcript/aishell_transcript*.txt"
_SPACE_BESIDE_HAN = re.compile(r"(?<=[\u3400-\u9fff])\s+|\s+(?=[\u3400-\u9fff])")


def matches(source: Path) -> bool:
    """Whether the transcript file is here or one folder below."""
    return _transcript(source) is not None


def recordings(source: Path) -> Iterator[Recording]:
    """All transcribed utterances in the order of split, speaker and file name."""
    transcript = _transcript(source)
    if transcript is None:
        return
    texts = dict(read_pairs(transcript))
    for wav in sorted((transcript.parent.parent / "wav").glob("*/*/*.wav")):
        if wav.stem in texts:
            yield Recording(
                audio_path=wav,
                text=_SPACE_BESIDE_HAN.sub("", texts[wav.stem]),
                id=wav.stem,
                split=wav.parent.parent.name,
                speaker=wav.parent.name,
                language="zh",
            )


def _transcript(source: Path) -> Path | None:
    pattern = "transcript/aishell_transcript*.txt"
    return next(iter(sorted(source.glob(pattern)) + sorted(source.glob(f"*/{pattern}"))), None)
