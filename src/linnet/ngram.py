"""N-gram language models: interpolated modified Kneser-Ney (Chen & Goodman 1999) from text, written as ARPA.

The estimator follows section 4.1 of the technical report TR-10-98 and what KenLM's `lmplz` does with `<s>`, `<unk>` and
small counts. Everything is counted in memory: meant for the texts that go with a recogniser, up to some millions of
words.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from linnet.errors import ConfigError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
Gram = tuple[str, ...]
_FALLBACK = (0.5, 1.0, 1.5)  # where counts of counts are too few to estimate discounts


@dataclass(frozen=True)
class Ngram:
    """log10 probabilities of n-grams by order, and log10 backoff weights of those that are a context of longer ones."""

    probabilities: tuple[dict[Gram, float], ...]
    backoffs: dict[Gram, float]

    @property
    def order(self) -> int:
        """Words per n-gram at most."""
        return len(self.probabilities)

    def log10(self, word: str, context: Sequence[str] = ()) -> float:
        """log10 P(word | context), backing off; a word that is not known counts as <unk>."""
        if (word,) not in self.probabilities[0]:
            word = UNKNOWN
        history = tuple(context)[-(self.order - 1) :] if self.order > 1 else ()
        penalty = 0.0
        while True:
            gram = (*history, word)
            if gram in self.probabilities[len(history)]:
                return penalty + self.probabilities[len(history)][gram]
            penalty += self.backoffs.get(history, 0.0)
            history = history[1:]

    def write_arpa(self, path: Path) -> None:
        """Write the model as an ARPA file, which KenLM, SRILM and flashlight read."""
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write("\\data\\\n")
            for order, grams in enumerate(self.probabilities, start=1):
                file.write(f"ngram {order}={len(grams)}\n")
            for order, grams in enumerate(self.probabilities, start=1):
                file.write(f"\n\\{order}-grams:\n")
                for gram in sorted(grams):
                    backoff = f"\t{self.backoffs.get(gram, 0.0):.7f}" if order < self.order else ""
                    file.write(f"{grams[gram]:.7f}\t{' '.join(gram)}{backoff}\n")
            file.write("\n\\end\\\n")


def estimate(sentences: Iterable[Sequence[str]], *, order: int = 3) -> Ngram:
    """Interpolated modified Kneser-Ney model of sentences of words. Raises ConfigError without any word."""
    if not 1 <= order <= 6:
        raise ConfigError(f"An n-gram model of order {order} is not offered; accepted: 1…6, usually 3.")
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    empty = True
    for sentence in sentences:
        if not sentence:
            continue
        empty = False
        words = [BEGIN, *(word for word in sentence if word not in (BEGIN, END)), END]
        for n in range(1, order + 1):
            counts[n - 1].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    if empty:
        raise ConfigError("There are no words to estimate a language model from; give a text with one sentence a line.")
    adjusted = [_continuations(counts, n) for n in range(1, order)] + [counts[-1]]
    if order > 1:
        adjusted[0].pop((BEGIN,), None)
    else:
        adjusted[0] = Counter({gram: count for gram, count in counts[0].items() if gram != (BEGIN,)})
    vocabulary = len(adjusted[0]) + 1  # and <unk>
    probabilities: list[dict[Gram, float]] = []
    backoffs: dict[Gram, float] = {}
    for grams in adjusted:
        discounts = _discounts(grams)
        totals: dict[Gram, int] = defaultdict(int)
        kinds: dict[Gram, list[int]] = defaultdict(lambda: [0, 0, 0])
        for gram, count in grams.items():
            totals[gram[:-1]] += count
            kinds[gram[:-1]][min(count, 3) - 1] += 1
        spread = {context: sum(d * k for d, k in zip(discounts, kinds[context], strict=True)) / totals[context]
                  for context in totals}  # fmt: skip
        lower = probabilities[-1] if probabilities else None
        level: dict[Gram, float] = {}
        for gram, count in grams.items():
            own = max(0.0, count - discounts[min(count, 3) - 1]) / totals[gram[:-1]]
            below = 1 / vocabulary if lower is None else lower[gram[1:]]
            level[gram] = own + spread[gram[:-1]] * below
        if lower is None:
            level[UNKNOWN,] = spread[()] / vocabulary
        probabilities.append(level)
        backoffs |= {context: math.log10(share) for context, share in spread.items() if context and share > 0}
    tables = [{gram: math.log10(p) for gram, p in level.items()} for level in probabilities]
    if order > 1:
        tables[0][BEGIN,] = -99.0  # never predicted; it is listed for its backoff weight
    return Ngram(tuple(tables), backoffs)


def _continuations(counts: list[Counter[Gram]], n: int) -> Counter[Gram]:
    """How many different words precede each n-gram; nothing precedes `<s>`, so there the count itself stands."""
    found = Counter(gram[1:] for gram in counts[n])
    for gram, count in counts[n - 1].items():
        if gram[0] == BEGIN:
            found[gram] = count
    return found


def _discounts(grams: Counter[Gram]) -> tuple[float, float, float]:
    """Discounts of counts 1, 2 and 3 or more, from the counts of counts (Chen & Goodman, equation 17)."""
    n1, n2, n3, n4 = (sum(count == wanted for count in grams.values()) for wanted in (1, 2, 3, 4))
    if 0 in (n1, n2, n3):
        return _FALLBACK
    share = n1 / (n1 + 2 * n2)
    found = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
    ordered = all(0 < discount <= limit for discount, limit in zip(found, (1, 2, 3), strict=True))
    return found if ordered else _FALLBACK
