"""CTC decoding inside a regular grammar of slots: the best of all sentences that take one word from each slot.

Exact, unlike a beam: a Viterbi search (the best alignment, not the sum of all) over the grammar's states times "on this
label" and "in the blank after it". Small corpora such as GRID (Cooke et al. 2006) have such grammars.

Shapes: T frames, V labels including the blank, N states of the grammar.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from linnet.errors import AudioContentError, ConfigError

Labels = tuple[int, ...]


def best_sentence(
    log_probs: npt.ArrayLike, slots: Sequence[Sequence[Labels]], *, separator: int, blank_id: int = 0
) -> Labels:
    """Labels of the best sentence: one word of each slot, with `separator` between slots.

    `log_probs` are natural logarithms [T, V]. Raises ConfigError for an empty slot or word, AudioContentError if the
    frames cannot hold any sentence.
    """
    frames = np.asarray(log_probs, dtype=np.float64)
    labels, before, last = _states(slots, separator)
    count = len(labels)
    none = count  # an index whose scores are always −inf
    emitted = frames[:, labels]  # [T, N]
    blank = frames[:, blank_id]
    # A label may follow an equal one only across a blank.
    direct = np.where((before < none) & (np.append(labels, -1)[before] != labels[:, None]), before, none)
    starts = (before == -1).any(axis=1)
    before = np.where(before == -1, none, before)
    direct = np.where(direct == -1, none, direct)

    on = np.full(count + 1, -np.inf)  # best score ending on the label of each state …
    off = np.full(count + 1, -np.inf)  # … and in the blank after it
    idle = 0.0  # blanks before the first label
    from_on = np.zeros((len(frames), count), dtype=np.int64)
    from_off = np.zeros((len(frames), count), dtype=bool)
    for t in range(len(frames)):
        # Where a label's score comes from: itself, the blank after a state before it, that state, or the start.
        options = np.concatenate(
            (on[:count, None], off[before], on[direct], np.where(starts, idle, -np.inf)[:, None]), axis=1
        )
        pick = options.argmax(axis=1)
        new_on = options[np.arange(count), pick] + emitted[t]
        new_off = np.maximum(off[:count], on[:count]) + blank[t]
        from_on[t], from_off[t] = pick, off[:count] >= on[:count]
        on[:count], off[:count] = new_on, new_off
        idle += blank[t]
    final = np.asarray(last)
    scores = np.maximum(on[final], off[final])
    if not len(frames) or scores.max() == -np.inf:
        raise AudioContentError(
            f"No sentence of the grammar fits into {len(frames)} frames; give a longer recording, or decode freely."
        )
    state = int(final[scores.argmax()])
    blanked = bool(off[state] >= on[state])
    return _trace(state, blanked, labels, before, direct, from_on, from_off)


def _trace(
    state: int,
    blanked: bool,
    labels: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
    direct: npt.NDArray[np.int64],
    from_on: npt.NDArray[np.int64],
    from_off: npt.NDArray[np.bool_],
) -> Labels:
    width = before.shape[1]
    said: list[int] = []
    for t in range(len(from_on) - 1, -1, -1):
        if blanked:
            blanked = bool(from_off[t, state])
            continue
        pick = int(from_on[t, state])
        if pick == 0:  # stayed on the label
            continue
        said.append(int(labels[state]))
        if pick == 2 * width + 1:  # the sentence starts here
            break
        blanked = pick <= width
        state = int(before[state, pick - 1] if blanked else direct[state, pick - 1 - width])
    return tuple(reversed(said))


def _states(
    slots: Sequence[Sequence[Labels]], separator: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[int]]:
    """Label of each state [N], the states before it [N, most] (−1: the start; N: filler), and the final states."""
    labels: list[int] = []
    before: list[list[int]] = []
    last: list[int] = [-1]
    for number, slot in enumerate(slots):
        if not slot or any(not word for word in slot):
            raise ConfigError(f"Slot {number} of the grammar is empty or has an empty word; give one word at least.")
        if number:
            labels.append(separator)
            before.append(last)
            last = [len(labels) - 1]
        ends = []
        for word in slot:
            previous = last
            for label in word:
                labels.append(label)
                before.append(previous)
                previous = [len(labels) - 1]
            ends += previous
        last = ends
    if not labels:
        raise ConfigError("The grammar has no slots; give one at least.")
    most = max(len(row) for row in before)
    padded = np.full((len(labels), most), len(labels), dtype=np.int64)
    for row, states in zip(padded, before, strict=True):
        row[: len(states)] = states
    return np.array(labels), padded, last
