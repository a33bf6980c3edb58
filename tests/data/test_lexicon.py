"""Words and their phonemes: what espeak-ng says, and what a table must look like."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from linnet.data.corpora.lexicon import pronounce, read_lexicon, write_lexicon
from linnet.errors import ConfigError, ManifestError
from linnet.manifest import Utterance, write_manifest

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@needs_espeak
def test_homophones_sound_alike_and_marks_are_gone() -> None:
    table = pronounce(["sea", "see", "two", "too", "it's"], language="en")
    assert table["sea"] == table["see"] and table["two"] == table["too"] != table["sea"]
    assert table["it's"].isascii() and "'" not in table["it's"]


@needs_espeak
def test_mandarin_syllables_carry_their_tone() -> None:
    table = pronounce(["妈", "麻", "马", "骂"], language="zh")
    assert {word: sounds[-1] for word, sounds in table.items()} == {"妈": "1", "麻": "2", "马": "3", "骂": "4"}
    assert len({sounds[:-1] for sounds in table.values()}) == 1


@needs_espeak
def test_lexicon_holds_the_words_of_both_languages(tmp_path: Path) -> None:
    texts = [("Hello, World!", "en"), ("今天", "zh"), ("bonjour", "fr")]
    utterances = [Utterance(audio_path=tmp_path / "a.wav", duration_s=1, text=t, language=code) for t, code in texts]
    manifest = tmp_path / "m.jsonl"
    write_manifest(manifest, utterances)
    table = read_lexicon(write_lexicon([manifest], tmp_path / "lexicon.tsv"))
    assert set(table) == {"hello", "world", "今天"}


def test_languages_without_phonemes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"espeak-ng|accepted: en, zh"):
        pronounce(["bonjour"], language="fr")


@pytest.mark.parametrize("line", ["word", "word\t", "\tphonemes"])
def test_malformed_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "lexicon.tsv"
    path.write_text(f"sea\tsi\n{line}\n")
    with pytest.raises(ManifestError, match=r"lexicon\.tsv:2"):
        read_lexicon(path)


def test_missing_lexicon_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"linnet\.data\.corpora\.lexicon"):
        read_lexicon(tmp_path / "none.tsv")
