"""Whether an answer was heard, or copied from the context.

Context (names, terms) helps the model with what it hears. On noise, or on speech about something else, it may recite
the context instead. The guard looks for answers that mostly repeat a run of the context's words; such an answer is
believed if the model hears much the same without the context, and given up for that second answer if not.
"""

from __future__ import annotations

from difflib import SequenceMatcher

from linnet.text import words

MIN_SHARE = 0.5
"""Share of the answer's words that one run of the context's words covers, from which the answer is suspect."""
SAME_SHARE = 0.5
"""Likeness of two answers, in letters, from which they are the same words: names are spelt by ear without help."""
SHORT_UNITS = 6
"""Han characters with the same sound share nothing: so few of them are compared by their number."""


def is_suspect(answer: str, context: str) -> bool:
    """Whether a run of the context's words makes up half of the answer or more."""
    said, given = words(answer), words(context)
    if not said or not given:
        return False
    run = SequenceMatcher(None, said, given, autojunk=False).find_longest_match()
    return run.size >= MIN_SHARE * len(said)


def is_heard(answer: str, without_context: str) -> bool:
    """Whether what the model hears without the context supports its answer."""
    said, heard = words(answer), words(without_context)
    letters, others = "".join(said), "".join(heard)
    if SequenceMatcher(None, letters, others, autojunk=False).ratio() >= SAME_SHARE:
        return True
    unspaced = all(len(unit) == 1 for unit in said)
    return unspaced and len(said) <= SHORT_UNITS and abs(len(heard) - len(said)) <= 0.3 * len(said)
