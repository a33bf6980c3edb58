"""A checkpoint's tokenizer as one `tokenizer.json`: copied, or built from vocab.json and merges.txt as Qwen2 does.

Source: transformers, `Qwen2Tokenizer`: NFC, the regular expression below, byte-level BPE; added tokens from
tokenizer_config.json with the ids that stand there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.errors import CheckpointError
from linnet.export.qwen3_asr_checkpoint import DOWNLOAD_AGAIN, read_json

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Vocabulary:
    """What a `tokenizer.json` of byte-level BPE holds."""

    tokens: dict[int, str]
    """id → text; bytes are written in GPT-2's printable alphabet, added tokens as they are."""
    merges: list[str]
    """"left right", best first."""
    added: dict[int, bool]
    """id of an added token → whether it is special (never part of a transcript)."""

    def id_of(self, text: str) -> int | None:
        """Id of a token, None if there is none of this text."""
        return next((number for number, token in self.tokens.items() if token == text), None)


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`; raises CheckpointError unless it is byte-level BPE."""
    data = read_json(path)
    try:
        model = data["model"]
        if model["type"] != "BPE":
            raise CheckpointError(f"{path} is a {model['type']} tokenizer; accepted: byte-level BPE, as Qwen3-ASR has.")
        tokens = {number: text for text, number in model["vocab"].items()}
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        added = {entry["id"]: bool(entry["special"]) for entry in data["added_tokens"]}
        tokens.update((entry["id"], entry["content"]) for entry in data["added_tokens"])
    except (KeyError, TypeError, AttributeError) as problem:
        raise CheckpointError(f"{path} is not a complete tokenizer.json ({problem!r}). {DOWNLOAD_AGAIN}") from problem
    return Vocabulary(tokens, merges, added)


def write_tokenizer(checkpoint: Path, out: Path) -> None:
    """Write the tokenizer of the folder `checkpoint` to the file `out`.

    Raises CheckpointError if the folder has no tokenizer, or one that does not load or gives other ids than it says.
    """
    from tokenizers import Tokenizer

    ready = checkpoint / "tokenizer.json"
    if not ready.is_file():
        out.write_text(_build(checkpoint), encoding="utf-8")
        return
    try:
        Tokenizer.from_file(str(ready))
    except Exception as problem:  # tokenizers raises bare Exception for whatever its Rust side refuses
        raise CheckpointError(
            f"{ready} is not a tokenizer that can be loaded ({problem}). {DOWNLOAD_AGAIN}"
        ) from problem
    shutil.copyfile(ready, out)


def _build(checkpoint: Path) -> str:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = read_json(checkpoint / "vocab.json")
    tokenizer = Tokenizer(models.BPE(vocabulary, _merges(checkpoint / "merges.txt", vocabulary)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    added = _added_tokens(checkpoint)
    fields = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    tokenizer.add_tokens(
        [AddedToken(**{field: entry[field] for field in fields if field in entry}) for _, entry in added]
    )
    for number, entry in added:
        if (given := tokenizer.token_to_id(entry["content"])) != number:
            raise CheckpointError(
                f"The added token {entry['content']!r} of {checkpoint / 'tokenizer_config.json'} has id {number}, but "
                f"after {len(vocabulary)} entries of vocab.json it would get {given}. {DOWNLOAD_AGAIN}"
            )
    return str(tokenizer.to_str())


def _merges(path: Path, vocabulary: dict[str, Any]) -> list[tuple[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has vocab.json but no {path.name}. {DOWNLOAD_AGAIN}")
    merges = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line or line.startswith("#version"):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if left + right not in vocabulary or left not in vocabulary or right not in vocabulary:
            raise CheckpointError(f"{path}:{number} merges {line!r}, which vocab.json does not hold. {DOWNLOAD_AGAIN}")
        merges.append((left, right))
    return merges


def _added_tokens(checkpoint: Path) -> list[tuple[int, dict[str, Any]]]:
    path = checkpoint / "tokenizer_config.json"
    try:
        added = read_json(path)["added_tokens_decoder"]
        return sorted(((int(number), dict(entry)) for number, entry in added.items()), key=lambda item: item[0])
    except (KeyError, ValueError, TypeError, AttributeError) as problem:
        raise CheckpointError(
            f"{path} has no usable added_tokens_decoder, and so no ids for the special tokens. {DOWNLOAD_AGAIN}"
        ) from problem
