"""What a corpus reader finds: a file and what the corpus says about it; nothing has been opened yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linnet.errors import ManifestError


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One utterance of a corpus; `split` names the manifest it belongs to, "" if the corpus has no splits."""

    audio_path: Path
    text: str | None
    id: str
    split: str = ""
    speaker: str | None = None
    language: str | None = None
    problem: str = ""
    """Why the recording cannot be used, if that is known already; "" otherwise."""
    video_path: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read_text(path: Path) -> str:
    """A transcript file as text; ManifestError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); "
            "convert it, for example with `iconv -f GB18030 -t UTF-8`."
        ) from error


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Lines of the form `ID TEXT` (LibriSpeech, AISHELL, Kaldi); blank lines are skipped, the text may be empty."""
    pairs = []
    for line in read_text(path).split("\n"):  # not splitlines: U+2028 may stand in a text
        if line.strip():
            name, _, text = line.strip().partition("\t" if "\t" in line else " ")
            pairs.append((name, " ".join(text.split())))
    return pairs
