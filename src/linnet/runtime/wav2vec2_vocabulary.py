"""Labels of a CTC head: text → numbers for training, decoded numbers → words with times for everybody.

A label is one character in general. The word separator ("|", as Hugging Face writes it) becomes a space; special labels
(blank, unknown, sentence marks) are never written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from linnet.ctc import CtcResult
from linnet.results import Word
from linnet.text import normalize, words

BLANK, SEPARATOR = "<pad>", "|"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


@dataclass(frozen=True)
class Vocabulary:
    """Labels by number; a gap in the numbering is ""."""

    labels: tuple[str, ...]
    word_separator: str = SEPARATOR
    special: tuple[str, ...] = SPECIAL
    normalise: bool = True
    """Whether clips are brought to zero mean and unit variance."""

    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain = {label: number for number, label in enumerate(self.labels) if label and label not in self.special}
        # Checkpoints of English are in capitals: a letter that is there in the other case only means that one.
        folded = {label.swapcase(): number for label, number in plain.items() if len(label.swapcase()) == len(label)}
        object.__setattr__(self, "_numbers", folded | plain)

    def encode(self, text: str, language: str | None = None) -> tuple[list[int], set[str]]:
        """Numbers of the normalised text, and the characters that have no label (they are left out of the numbers)."""
        numbers, unknown = [], set()
        for char in normalize(text, language):
            label = self.word_separator if char == " " else char
            if label in self._numbers:
                numbers.append(self._numbers[label])
            else:
                unknown.add(char)
        return numbers, unknown

    def words(self, decoded: CtcResult, *, offset_s: float = 0.0) -> list[Word]:
        """Words with times from the start of the recording; in scripts without spaces every character is one.

        A word's confidence is the geometric mean of those of its labels.
        """
        found: list[Word] = []
        open_word: list[int] = []

        def close() -> None:
            if open_word:
                product = 1.0
                for index in open_word:
                    product *= max(decoded.confidence[index], 1e-10)
                word = Word(
                    text="".join(self.labels[decoded.tokens[index]] for index in open_word),
                    start_s=offset_s + decoded.start_s[open_word[0]],
                    end_s=offset_s + decoded.end_s[open_word[-1]],
                    confidence=product ** (1 / len(open_word)),
                )
                found.append(word)
                open_word.clear()

        for index, token in enumerate(decoded.tokens):
            label = self.labels[token]
            if label in self.special or label == "":
                continue
            if label == self.word_separator:
                close()
                continue
            alone = len(words(label + label)) > 1
            if alone:
                close()
            open_word.append(index)
            if alone:
                close()
        close()
        return found


def vocabulary_of(texts: Iterable[tuple[str, str | None]], *, min_count: int = 1) -> Vocabulary:
    """Blank, separator, and the characters of (text, language) pairs that occur at least `min_count` times, sorted."""
    counts: Counter[str] = Counter()
    for text, language in texts:
        counts.update(normalize(text, language))
    characters = sorted(char for char, count in counts.items() if count >= min_count and char != " ")
    return Vocabulary((BLANK, SEPARATOR, *characters), special=(BLANK,))
