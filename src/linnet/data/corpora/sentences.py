"""Everyday English sentences in the manner of short read prompts: text coverage for synthetic speech.

Four sources are mixed: a weighted grammar (grammar_en.txt) over a hand-written vocabulary (words_en.txt), an
interpolated word trigram sampler over given transcripts whose words may be swapped for others of their class, words in
random order, which no language model can guess, and spoken digit strings. Everything is a function of the seed, and a
longer list starts with the shorter one.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import accumulate
from pathlib import Path

from linnet.errors import ConfigError

MIN_WORDS, MAX_WORDS = 2, 12
DIGIT_SHARE = 0.05
RANDOM_SHARE = 0.35  # a decoder that can guess the next word does not learn to listen
SAMPLER_SHARE = 0.3  # of all sentences, where transcripts were given
RANDOM_WORDS = 7  # at most, in a random order
SWAP_CHANCE = 0.25  # for each sampled word that belongs to exactly one class of the vocabulary
MAX_DEPTH = 7  # below it the grammar picks the alternative with the fewest symbols
TRIES_PER_SENTENCE = 50

_VOWEL_SOUND = re.compile(r"(?!uni|use|usu|one|eur)[aeiou]|hour|honest|heir")
_HERE = Path(__file__).parent


def sentences(count: int, *, seed: int, texts: Iterable[str] = ()) -> list[str]:
    """Returns `count` lower-case sentences of 2–12 words (digit strings: 1–5), almost all of them different.

    `texts` are transcripts for the trigram sampler: pass those of a training split only.
    Raises ConfigError for a negative count.
    """
    if count < 0:
        raise ConfigError(f"cannot write {count} sentences; accepted: 0 or more; pass a count that is not negative")
    rng = random.Random(seed)
    sampler = Trigrams(texts)
    words = sorted(vocabulary() | sampler.words)
    seen: set[str] = set()
    out: list[str] = []
    while len(out) < count:
        # a kind is drawn once per sentence and then kept, so that rejected drafts do not shift the shares
        kind = rng.random()
        draft: Callable[[random.Random], str]
        if kind < DIGIT_SHARE:
            draft = _digits
        elif kind < DIGIT_SHARE + RANDOM_SHARE:
            draft = partial(_random_order, words)
        elif sampler.usable and kind < DIGIT_SHARE + RANDOM_SHARE + SAMPLER_SHARE:
            draft = sampler.sample
        else:
            draft = _from_grammar
        for _ in range(TRIES_PER_SENTENCE):
            text = draft(rng)
            fits = draft is _digits or MIN_WORDS <= len(text.split()) <= MAX_WORDS
            if fits and (text not in seen or draft is _digits):
                seen.add(text)
                out.append(text)
                break
    return out


def mandarin_words(texts: Iterable[str]) -> list[str]:
    """The distinct Mandarin words among `texts`, in their order; each is already a good prompt of its own."""
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def common_mandarin_words() -> list[str]:
    """About 1,400 everyday Mandarin words, those of an elementary course (words_zh.txt)."""
    return mandarin_words((_HERE / "words_zh.txt").read_text(encoding="utf-8").split())


def vocabulary() -> frozenset[str]:
    """Every word form that the grammar can say."""
    spoken = {word for forms in _word_forms().values() for form in forms for word in form.split()}
    for alternatives in _grammar().values():
        for alternative in alternatives.items:
            spoken.update(token for token in alternative if token.islower())
    return frozenset(spoken)


def phrases(text: str) -> list[list[str]]:
    """Lower-case word lists between the stops of a transcript, each at most MAX_WORDS long."""
    found: list[list[str]] = []
    for clause in re.split(r"[.,;:!?\"()\[\]—]+", text.lower().replace("’", "'")):
        words = [word.strip("'") for word in re.findall(r"[a-z']+", clause)]
        words = [word for word in words if word]
        found += [words[start : start + MAX_WORDS] for start in range(0, len(words), MAX_WORDS)]
    return found


class Trigrams:
    """An interpolated word trigram model that samples sentences and swaps words within their class."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._after: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for text in texts:
            for words in phrases(text):
                if len(words) >= MIN_WORDS:
                    self._count(words)

    @property
    def words(self) -> set[str]:
        """All words of the transcripts."""
        return {word for (word, *_) in self._after} - {"<s>"}

    @property
    def usable(self) -> bool:
        """False when no transcript with at least MIN_WORDS words was given."""
        return bool(self._after)

    def sample(self, rng: random.Random) -> str:
        """One sentence; it may be too short or too long, which the caller rejects."""
        words = ["<s>", "<s>"]
        while len(words) <= MAX_WORDS + 3:
            context = tuple(words[-2:])
            # a bigram step now and then leaves the transcripts' own sentences; unigrams would only break grammar
            followers = self._after[context if rng.random() < 0.6 and context in self._after else context[1:]]
            word = rng.choice(followers)
            if word == "</s>":
                break
            words.append(word)
        return _fix_articles(_swap(word, rng) for word in words[2:])

    def _count(self, words: list[str]) -> None:
        padded = ["<s>", "<s>", *words, "</s>"]
        for before, last, word in zip(padded, padded[1:], padded[2:], strict=False):
            self._after[before, last].append(word)
            self._after[last,].append(word)


class _Weighted:
    """Alternatives of one symbol, drawn in proportion to their weights."""

    def __init__(self, items: list[tuple[str, ...]], weights: list[int]) -> None:
        self.items = items
        self._limits = list(accumulate(weights))
        self._plain = min(items, key=lambda tokens: sum(token.upper() == token for token in tokens))

    def draw(self, rng: random.Random, *, plain: bool) -> tuple[str, ...]:
        if plain:
            return self._plain
        return self.items[bisect(self._limits, rng.randrange(self._limits[-1]))]


def _digits(rng: random.Random) -> str:
    return " ".join(rng.choice(_word_forms()["DIGIT"]) for _ in range(rng.randint(1, 5)))


def _random_order(words: Sequence[str], rng: random.Random) -> str:
    return " ".join(rng.choice(words) for _ in range(rng.randint(MIN_WORDS, RANDOM_WORDS)))


def _from_grammar(rng: random.Random) -> str:
    return _fix_articles(_expand("S", rng, depth=0))


def _expand(token: str, rng: random.Random, *, depth: int) -> list[str]:
    symbol, apostrophe, suffix = token.partition("'")
    if symbol in _word_forms():
        words = rng.choice(_word_forms()[symbol]).split()
    elif symbol in _grammar():
        tokens = _grammar()[symbol].draw(rng, plain=depth >= MAX_DEPTH)
        words = [word for part in tokens for word in _expand(part, rng, depth=depth + 1)]
    elif token.islower():
        return [token]
    else:
        raise ConfigError(f"grammar_en.txt uses {symbol!r}, which neither it nor words_en.txt defines; define it")
    if apostrophe:
        words[-1] += apostrophe + suffix
    return words


def _fix_articles(words: Iterable[str]) -> str:
    fixed = list(words)
    for index, following in enumerate(fixed[1:]):
        if fixed[index] in ("a", "an"):
            fixed[index] = "an" if _VOWEL_SOUND.match(following) else "a"
    return " ".join(fixed)


def _swap(word: str, rng: random.Random) -> str:
    choices = _class_mates().get(word)
    return rng.choice(choices) if choices and rng.random() < SWAP_CHANCE else word


@cache
def _class_mates() -> dict[str, tuple[str, ...]]:
    """word → all words of its form and class, for words that belong to exactly one."""
    classes: dict[str, list[str]] = defaultdict(list)
    for symbol, forms in _word_forms().items():
        for form in set(forms):
            classes[form].append(symbol)
    return {word: _word_forms()[symbols[0]] for word, symbols in classes.items() if len(symbols) == 1}


def _sections(name: str) -> dict[str, list[str]]:
    """Header → lines of a text file with [headers] and # comments."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (_HERE / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    return found


@cache
def _grammar() -> dict[str, _Weighted]:
    grammar: dict[str, _Weighted] = {}
    for symbol, lines in _sections("grammar_en.txt").items():
        rows = [line.split() for line in lines]
        weights = [int(row[0]) if row[0].isdigit() else 1 for row in rows]
        items = [tuple(row[1:] if row[0].isdigit() else row) for row in rows]
        grammar[symbol] = _Weighted(items, weights)
    return grammar


@cache
def _word_forms() -> dict[str, tuple[str, ...]]:
    """Symbol → word forms, e.g. ANIMAL, ANIMALS, VGO, VGO_S, VGO_D, VGO_N, VGO_G."""
    forms: dict[str, tuple[str, ...]] = {}
    for header, lines in _sections("words_en.txt").items():
        name, kind = header.upper().split()
        entries = [entry for line in lines for entry in line.split()]
        if kind == "VERB":
            inflected: Sequence[tuple[str, ...]] = [_verb_forms(entry) for entry in entries]
            symbols = [name, f"{name}_S", f"{name}_D", f"{name}_N", f"{name}_G"]
        elif kind == "NOUN":
            inflected = [_noun_forms(entry) for entry in entries]
            symbols = [name, f"{name}S"]
        else:
            inflected = [(entry,) for entry in entries]
            symbols = [name]
        for symbol, column in zip(symbols, zip(*inflected, strict=True), strict=True):
            forms[symbol] = column
    return forms


def _noun_forms(entry: str) -> tuple[str, str]:
    singular, _, plural = entry.partition("/")
    return singular, plural or _with_s(singular)


def _verb_forms(entry: str) -> tuple[str, str, str, str, str]:
    """(base, he …s, past, participle, …ing) from "carry", "stop+" or "go/went/gone"."""
    first, *irregular = entry.split("/")
    base = first.rstrip("+")
    stem = base + base[-1] if first.endswith("+") else base
    if stem.endswith("ie"):
        ing = stem[:-2] + "ying"
    elif stem.endswith("e") and not stem.endswith("ee"):
        ing = stem[:-1] + "ing"
    else:
        ing = stem + "ing"
    if irregular:
        past, participle = irregular
    else:
        consonant_y = stem.endswith("y") and stem[-2] not in "aeiou"
        past = participle = stem[:-1] + "ied" if consonant_y else stem + ("d" if stem.endswith("e") else "ed")
    third = base + "es" if base in ("go", "do") else _with_s(base)
    return base, third, past, participle, ing


def _with_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
