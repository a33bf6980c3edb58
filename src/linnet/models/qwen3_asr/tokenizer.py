"""A small byte-level BPE tokenizer with Qwen's special tokens, for models trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from linnet.export.tokenizer import SPLIT
from linnet.runtime.prompt import SPECIAL_TOKENS, TEXT_MARKER
from linnet.text import LANGUAGES


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, languages: Iterable[str] = ("en", "zh")) -> Tokenizer:
    """Learn merges from `texts`; the prompt's own words become single tokens, so that prompts stay short.

    vocab_size counts everything: 256 bytes, merges and special tokens. Fewer come out if the texts are few.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = " ".join(f"language {LANGUAGES[code]}" for code in languages)
    prompt = [f"system\nuser\nassistant\n{names} language None"]
    corpus = [f" {text}" for text in texts]  # words start with a space everywhere, also after the text marker
    tokenizer.train_from_iterator(corpus + prompt * max(1000, len(corpus)), trainer)
    # The text marker, last of them, is part of the answer and must decode; the rest are control tokens.
    control = [token for token in SPECIAL_TOKENS if token != TEXT_MARKER]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    tokenizer.add_tokens([AddedToken(TEXT_MARKER, special=False, normalized=False)])
    return tokenizer
