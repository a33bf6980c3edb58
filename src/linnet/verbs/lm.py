"""`linnet lm`: text → n-gram language model, and into a bundle."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from linnet.verbs.terminal import say


def lm(
    text: Path,
    out: Path,
    /,
    order: int = 3,
    language: str | None = None,
    bundle: Path | None = None,
    weight: float = 1.0,
    word_bonus: float = 0.5,
    beam_size: int = 100,
) -> int:
    """Estimate a Kneser-Ney n-gram model from text and write it as an ARPA file.

    With --bundle it becomes part of that bundle of family wav2vec2, which then searches for the words of the text
    (needs linnet[lm]). Use text of the kind that will be spoken, and none of the test set.

    Args:
        text: Text file with one sentence per line, or a JSONL manifest.
        out: ARPA file to write.
        order: Words per n-gram.
        language: ISO code; it matters for how words are told apart.
        bundle: Bundle to put the model into.
        weight: How much the language model counts against the sound.
        word_bonus: Added for every word; more gives longer texts.
        beam_size: Hypotheses kept while searching.
    """
    from linnet.bundle import read_bundle, write_bundle
    from linnet.errors import ConfigError
    from linnet.ngram import estimate

    opened = None if bundle is None else read_bundle(bundle)
    if opened is not None and opened.family != "wav2vec2":
        raise ConfigError(
            f"Bundle {bundle} is of family {opened.family!r}; a language model can go into one of wav2vec2 only."
        )
    model = estimate(_sentences(text, language), order=order)
    out.parent.mkdir(parents=True, exist_ok=True)
    model.write_arpa(out)
    say(", ".join(f"{len(grams)} {n}-grams" for n, grams in enumerate(model.probabilities, start=1)))
    sys.stdout.write(f"{out}\n")
    if opened is not None:
        partial = opened.path / "lm.arpa.partial"
        shutil.copyfile(out, partial)
        os.replace(partial, opened.path / "lm.arpa")
        settings = {"weight": weight, "word_bonus": word_bonus, "beam_size": beam_size}
        (opened.path / "lm.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        write_bundle(
            opened.path,
            name=opened.name,
            family=opened.family,
            model=opened.model,
            features=opened.features,
            precision=opened.precision,
            languages=opened.languages,
            provenance=opened.provenance | {"language_model": {"text": text.name, "order": order}},
            parity=opened.parity,
        )
        sys.stdout.write(f"{opened.path}\n")
    return 0


def _sentences(text: Path, language: str | None) -> list[list[str]]:
    from linnet.errors import ConfigError
    from linnet.manifest import read_manifest
    from linnet.text import words

    if text.suffix == ".jsonl":
        return [
            words(utterance.text, language or utterance.language) for utterance in read_manifest(text) if utterance.text
        ]
    try:
        lines = text.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{text} cannot be read as UTF-8 text: {problem}.") from problem
    return [words(line, language) for line in lines]
