"""Lists of `audio|video|transcript` lines, as many audio-visual projects keep them: one split per list file.

Paths are relative to the list's folder. Any field but the transcript may be empty or name the same file twice: a video
with sound in it needs to be named once. Blank lines and lines that begin with # are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from linnet.containers import AUDIO_SUFFIXES
from linnet.data.corpora.recording import Recording, read_text
from linnet.errors import ManifestError
from linnet.video import VIDEO_SUFFIXES

LAYOUT = "text files of audio|video|transcript lines (.txt, .lst, .list, .psv)"
_SUFFIXES = (".txt", ".lst", ".list", ".psv")


def matches(source: Path) -> bool:
    """Whether a list lies in the folder itself."""
    return any(True for _ in _lists(source))


def recordings(source: Path) -> Iterator[Recording]:
    """All lines of all lists in order; ManifestError with file:line for a line of another form."""
    for path in _lists(source):
        for number, fields in _lines(path):
            if len(fields) != 3 or not (fields[0] or fields[1]):
                raise ManifestError(
                    f"{path}:{number}: expected audio|video|transcript with a file in the first or second field, got "
                    f"{'|'.join(fields)[:80]!r}."
                )
            audio, video, text = fields
            yield Recording(
                audio_path=path.parent / (audio or video),
                video_path=path.parent / video if video else None,
                text=text,
                id=Path(video or audio).stem,
                split=path.stem,
            )


def _lists(source: Path) -> Iterator[Path]:
    for path in sorted(source.iterdir()):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            try:
                first = next(_lines(path), None)
            except ManifestError:  # not text in UTF-8: whatever it is, no list
                continue
            names = first[1][:2] if first is not None and len(first[1]) == 3 else []
            if any(Path(name).suffix.lower() in AUDIO_SUFFIXES | VIDEO_SUFFIXES for name in names):
                yield path


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, [field.strip() for field in line.strip().split("|")]
