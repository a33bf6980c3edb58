"""How words sound, by espeak-ng: a table word → phonemes, for losses that should hear sounds rather than spelling.

A few hours of speech are too few to learn English spelling from. Phonemes are what the sound says, and espeak-ng
(`apt-get install espeak-ng`) knows them for every word. They are written in its ASCII mnemonics without stress, length
and variants, one byte or two per sound; a Mandarin syllable ends with its tone, 1 to 5.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from linnet.errors import ConfigError, ManifestError
from linnet.manifest import read_manifest
from linnet.text import normalize

VOICES = {"en": "en-us", "zh": "cmn-latn-pinyin"}
_LANGUAGE = re.compile(r"\(\w+\)")  # espeak-ng changes its voice inside a word
_NUMBER = re.compile(r"\d+")  # a variant of a sound in English, the pitch contour of a syllable in Mandarin
_MARKS = re.compile(r"[',_|#:\s-]")  # stress, syllables, length
_TONES = {"55": "1", "35": "2", "214": "3", "21": "3", "51": "4"}  # contour → tone; any other is neutral, 5


def pronounce(words: Iterable[str], *, language: str) -> dict[str, str]:
    """Phonemes of each word; words that espeak-ng is silent about are left out.

    Raises ConfigError if espeak-ng is missing or has no voice for `language` (en, zh).
    """
    if shutil.which("espeak-ng") is None:
        raise ConfigError("Phonemes need espeak-ng, not found on PATH; run `apt-get install espeak-ng`.")
    if language not in VOICES:
        raise ConfigError(f"There are no phonemes for language {language!r}; accepted: {', '.join(VOICES)}.")
    table = {}
    for word in sorted(set(words)):
        command = ["espeak-ng", "-q", "-x", "-v", VOICES[language], "--", word]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if said.returncode != 0:
            raise ConfigError(f"espeak-ng could not pronounce {word!r}: {said.stderr.strip()[:200]}")
        sounds = _NUMBER.sub(
            lambda n: _TONES.get(n[0], "5") if language == "zh" else "", _LANGUAGE.sub("", said.stdout)
        )
        if phonemes := _MARKS.sub("", sounds):
            table[word] = phonemes
    return table


def write_lexicon(manifests: Iterable[Path], out: Path) -> Path:
    """Write all English and Mandarin words of the manifests' texts with their phonemes, tab-separated, to `out`."""
    words: dict[str, set[str]] = {language: set() for language in VOICES}
    for manifest in manifests:
        for utterance in read_manifest(manifest):
            if utterance.text and utterance.language in words:
                words[utterance.language].update(normalize(utterance.text, utterance.language).split())
    tables = [pronounce(found, language=language) for language, found in words.items() if found]
    lines = [f"{word}\t{phonemes}\n" for table in tables for word, phonemes in table.items()]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(lines), encoding="utf-8")
    return out


def read_lexicon(path: Path) -> dict[str, str]:
    """The table that `write_lexicon` wrote. Raises ManifestError, with file:line where a line is to blame."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ManifestError(
            f"There is no lexicon at {path}; make one with `python -m linnet.data.corpora.lexicon`."
        ) from None
    table = {}
    for number, line in enumerate(lines, start=1):
        word, tab, phonemes = line.partition("\t")
        if not (word and tab and phonemes):
            raise ManifestError(f"{path}:{number}: expected 'word<tab>phonemes', got {line[:60]!r}.")
        table[word] = phonemes
    return table


def main() -> None:
    """`python -m linnet.data.corpora.lexicon OUT MANIFEST…`"""
    parser = argparse.ArgumentParser(description="Write the phonemes of all words in manifests, by espeak-ng.")
    parser.add_argument("out", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    options = parser.parse_args()
    write_lexicon(options.manifests, options.out)


if __name__ == "__main__":
    main()
