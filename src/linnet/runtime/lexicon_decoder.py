"""CTC beam search over the words of an n-gram language model: flashlight-text with KenLM inside (`linnet[lm]`).

Maximises log P(labels | audio) + weight · log10 P_lm(words) + word_bonus · words over sequences of words that the ARPA
file lists and the vocabulary can spell (Collobert et al. 2016; Heafield 2011). Settings lie beside the model, in
`lm.json`: {"weight", "word_bonus", "beam_size"}.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.ctc import CtcResult
from linnet.errors import BundleCorruptError, MissingExtraError
from linnet.runtime.wav2vec2_vocabulary import Vocabulary
from linnet.text import words

DEFAULTS = {"weight": 1.0, "word_bonus": 0.5, "beam_size": 100}
_THRESHOLD = 50.0  # hypotheses this far behind the best are dropped
_NEVER = -1e4


class LexiconDecoder:
    """One ARPA model and the spellings of its words."""

    def __init__(self, arpa: Path, vocabulary: Vocabulary, *, blank_id: int) -> None:
        """Raises MissingExtraError without `linnet[lm]`, BundleCorruptError if no word of the model can be spelled."""
        try:
            from flashlight.lib.text import decoder, dictionary
            from flashlight.lib.text.decoder.kenlm import KenLM
        except ImportError as problem:
            raise MissingExtraError("Decoding with a language model", "lm", "flashlight-text") from problem
        settings = DEFAULTS | _settings(arpa.with_name("lm.json"))
        self._labels, self._blank = len(vocabulary.labels), blank_id
        self._separator = vocabulary.labels.index(vocabulary.word_separator)
        spelled = _spellings(arpa, vocabulary, self._separator)
        if not spelled:
            raise BundleCorruptError(
                f"{arpa} has no word that the model's {self._labels} labels can spell. Make the language model from "
                "text in the model's language."
            )
        self._words = dictionary.Dictionary(list(spelled))
        try:
            with _quiet():
                self._lm = KenLM(str(arpa), self._words)
        except RuntimeError as problem:
            raise BundleCorruptError(f"KenLM cannot read {arpa}: {problem}. Run `linnet lm` again.") from problem
        self._trie = decoder.Trie(self._labels, self._separator)
        start = self._lm.start(False)
        for index, spelling in enumerate(spelled.values()):
            _, score = self._lm.score(start, index)
            self._trie.insert(spelling, index, score)
        self._trie.smear(decoder.SmearingMode.MAX)
        options = decoder.LexiconDecoderOptions(
            beam_size=int(settings["beam_size"]),
            beam_size_token=self._labels,
            beam_threshold=_THRESHOLD,
            lm_weight=float(settings["weight"]),
            word_score=float(settings["word_bonus"]),
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=decoder.CriterionType.CTC,
        )
        self._decoder: Any = decoder.LexiconDecoder(
            options, self._trie, self._lm, self._separator, blank_id, -1, [], False
        )

    def __call__(self, log_probs: npt.NDArray[np.float32], *, frame_s: float) -> CtcResult:
        """Labels, separators among them, of the best sequence of words for log_probs [T, V]."""
        frames = len(log_probs)
        # A word counts once its separator has been heard; one more frame gives the last word its own.
        padded = np.full((frames + 1, self._labels), _NEVER, np.float32)
        padded[:frames] = np.maximum(log_probs, _NEVER)
        padded[frames, self._separator] = 0.0
        found = self._decoder.decode(padded.ctypes.data, frames + 1, self._labels)
        if not found:
            return CtcResult((), (), (), (), 0.0)
        path = list(found[0].tokens)[1 : frames + 1]  # flashlight puts a silence at either end
        tokens, starts, ends, confidences = [], [], [], []
        position = 0
        for token, run in groupby(path):
            length = sum(1 for _ in run)
            if token not in (self._blank, -1):
                tokens.append(int(token))
                starts.append(position * frame_s)
                ends.append((position + length) * frame_s)
                confidences.append(float(np.exp(log_probs[position : position + length, token]).mean()))
            position += length
        return CtcResult(tuple(tokens), tuple(starts), tuple(ends), tuple(confidences), float(found[0].score))


@contextmanager
def _quiet() -> Iterator[None]:
    """KenLM draws a progress bar on stderr while it reads; nobody asked for it."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _spellings(arpa: Path, vocabulary: Vocabulary, separator: int) -> dict[str, list[int]]:
    """Word → labels of every unigram that can be spelled; a separator ends it where words are written with spaces."""
    spelled: dict[str, list[int]] = {}
    inside = False
    with open(arpa, encoding="utf-8") as file:
        for line in file:
            if line.startswith("\\"):
                inside = line.startswith("\\1-grams:")
                continue
            fields = line.rstrip("\n").split("\t")
            if not inside or len(fields) < 2 or fields[1].startswith("<"):
                continue
            numbers, unknown = vocabulary.encode(fields[1])
            if numbers and not unknown:
                unspaced = len(words(fields[1] * 2)) > len(words(fields[1]))
                spelled[fields[1]] = numbers if unspaced else [*numbers, separator]
    return spelled


def _settings(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(read[name]) for name in DEFAULTS if name in read}
    except (ValueError, TypeError) as problem:
        raise BundleCorruptError(f"{path} is not a table of numbers ({problem}). Run `linnet lm` again.") from problem
