"""LibriSpeech (openslr.org/12) and corpora in its layout: <subset>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt.

One split per subset (train-clean-100, dev-other, …). The source may be a subset, the folder of subsets, or its parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from linnet.data.corpora.recording import Recording, read_pairs

LAYOUT = "<subset>/<speaker>/<chapter>/*.trans.txt beside *.flac"
_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3")  # flac as published; the others are common re-encodings


def matches(source: Path) -> bool:
    """Whether there are chapter transcripts at the depth of this layout."""
    return any(any(source.glob(f"{above}*/*/*.trans.txt")) for above in ("", "*/", "*/*/"))


def recordings(source: Path) -> Iterator[Recording]:
    """All utterances in the order of subset, speaker, chapter and transcript."""
    for transcript in sorted(source.rglob("*.trans.txt")):
        chapter = transcript.parent
        suffix = _suffix(chapter)
        for name, text in read_pairs(transcript):
            yield Recording(
                audio_path=chapter / (name + suffix),
                text=text,
                id=name,
                split=chapter.parent.parent.name,
                speaker=chapter.parent.name,
                language="en",
            )


def _suffix(chapter: Path) -> str:
    present = {path.suffix.lower() for path in chapter.iterdir()}
    return next((suffix for suffix in _SUFFIXES if suffix in present), _SUFFIXES[0])
