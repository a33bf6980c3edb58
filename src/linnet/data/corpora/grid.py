"""GRID and Lombard GRID (Cooke et al. 2006, JASA 120; Alghamdi et al. 2018): sentences from file codes.

A file is named after its sentence: bbaf2n is "bin blue at f two now". Four words come from four choices each, a letter
from 25 (no w), a digit from ten, so the language is a regular grammar of 64,000 sentences. Lombard GRID marks slips as
`<prompted>_WRONG_<spoken>`; what was spoken counts. Alignments (`<code>.align`) are not needed.

Layout: video (.mpg, .mp4, …), with sound inside or in an audio file of the same name, in any subfolders. A clip that
cannot be decoded to its end, as some of the published ones, is named and left out by `linnet prepare`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from linnet.data.corpora.recording import Recording
from linnet.errors import ConfigError, LinnetError
from linnet.video import VIDEO_SUFFIXES, read_timing

LAYOUT = "videos named after GRID codes such as bbaf2n.mpg, with sound inside or beside them"
# What the recogniser may answer if it is told to: one word of each row, in this order.
GRAMMAR: tuple[tuple[str, ...], ...] = (
    ("bin", "lay", "place", "set"),
    ("blue", "green", "red", "white"),
    ("at", "by", "in", "with"),
    tuple("abcdefghijklmnopqrstuvxyz"),
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("again", "now", "please", "soon"),
)
_DIGITS = {"z": "zero", **{str(number): word for number, word in enumerate(GRAMMAR[4]) if number}}
_CODE = re.compile(r"(?:^|_)([blps][bgrw][abiw][a-vx-z][1-9z][anps])(?=_|$)")
_SPEAKER = re.compile(r"(?:^|_)(s\d+|id\d+)(?=_|$)")
_SOUND_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")


def sentence(name: str) -> str:
    """The sentence of a file name with or without ending, prefix and suffix; the last code in it counts.

    Raises ConfigError if there is no code.
    """
    codes = _CODE.findall(Path(name).stem.lower())
    if not codes:
        raise ConfigError(
            f"{name!r} has no GRID code; expected six characters such as bbaf2n (command, colour, preposition, letter, "
            "digit, adverb), alone or between underscores."
        )
    first = [{word[0]: word for word in row} for row in GRAMMAR]
    command, colour, preposition, letter, digit, adverb = codes[-1]
    words = (first[0][command], first[1][colour], first[2][preposition], letter, _DIGITS[digit], first[5][adverb])
    return " ".join(words)


def random_sentence(rng: random.Random) -> str:
    """One of the 64,000 sentences, each equally likely."""
    return " ".join(rng.choice(row) for row in GRAMMAR)


def matches(source: Path) -> bool:
    """Whether there is a video named by a GRID code."""
    return any(_CODE.search(path.stem.lower()) for path in _videos(source))


def recordings(source: Path) -> Iterator[Recording]:
    """All clips in the order of their paths; those without a code in their names are left out."""
    for path in _videos(source):
        if not _CODE.search(path.stem.lower()):
            continue
        known = _SPEAKER.search(path.stem.lower())
        yield Recording(
            audio_path=next((p for s in _SOUND_SUFFIXES if (p := path.with_suffix(s)).exists()), path),
            video_path=path,
            text=sentence(path.name),
            id=path.stem,
            speaker=known[1] if known else path.parent.name if path.parent != source else None,
            language="en",
            problem=_problem(path),
        )


def _videos(source: Path) -> Iterator[Path]:
    yield from sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)


def _problem(path: Path) -> str:
    try:
        read_timing(path)
    except LinnetError as error:
        return str(error)
    return ""
