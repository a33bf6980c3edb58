"""The built tokenizer.json gives the ids that Qwen publishes, and broken tokenizers are named."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from linnet.errors import CheckpointError
from linnet.export.tokenizer import read_vocabulary, write_tokenizer


def test_qwen_tokenizer_gives_the_published_ids(shared: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(shared / "qwen3_asr" / "tokenizer" / name, tmp_path / name)
    source = shared / "qwen3_asr" / "Qwen3-ASR-0.6B" / "tokenizer_config.json"
    shutil.copyfile(source, tmp_path / "tokenizer_config.json")
    write_tokenizer(tmp_path, tmp_path / "out.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out.json"))

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    # Ids as in Qwen2's documentation and in the prompts of the official repository.
    assert ids("Hello world") == [9707, 1879]
    assert ids("你好") == [108386]
    assert ids("<|im_start|>system\n<|im_end|>\n") == [151644, 8948, 198, 151645, 198]
    assert ids("<|audio_start|><|audio_pad|><|audio_end|>") == [151669, 151676, 151670]
    assert ids("language English<asr_text>") == [11528, 6364, 151704]
    assert ids("e\u0301") == ids("\u00e9")  # NFC
    assert ids("2024") == [17, 15, 17, 19]  # digits stand alone
    text = "  Don't stop, naïve 小明! 😀\r\n\tx"
    assert tokenizer.decode(ids(text)) == text
    # Special tokens vanish from a transcript, <asr_text> (not special) stays for the parser.
    assert tokenizer.decode(ids("language English<asr_text>ok<|im_end|>")) == "language English<asr_text>ok"
    vocabulary = read_vocabulary(tmp_path / "out.json")
    assert len(vocabulary.tokens) == 151_705 and len(vocabulary.merges) == 151_387
    assert vocabulary.id_of("<|im_end|>") == 151_645 and vocabulary.id_of("nothing here") is None
    assert vocabulary.added[151_645] is True and vocabulary.added[151_704] is False


def test_tokenizer_json_is_copied_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    write_tokenizer(checkpoint, checkpoint / "tokenizer.json")
    write_tokenizer(checkpoint, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()


def test_every_byte_survives(checkpoint: Path, tmp_path: Path) -> None:
    write_tokenizer(checkpoint, tmp_path / "out.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out.json"))
    text = "".join(map(chr, range(32, 1024))) + "the internet 漢字"
    assert tokenizer.decode(tokenizer.encode(text).ids) == unicodedata.normalize("NFC", text)


def test_broken_tokenizers(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    config = checkpoint / "tokenizer_config.json"
    sound = config.read_text("utf-8")
    config.write_text(sound.replace('"500"', '"510"'), "utf-8")
    with pytest.raises(CheckpointError, match=r"'<\|audio_start\|>'.* has id 501, .* would get 500"):
        write_tokenizer(checkpoint, out)
    config.write_text("{}", "utf-8")
    with pytest.raises(CheckpointError, match="no usable added_tokens_decoder"):
        write_tokenizer(checkpoint, out)
    config.write_text(sound, "utf-8")
    with open(checkpoint / "merges.txt", "a", encoding="utf-8") as merges:
        merges.write("zz zz\n")
    with pytest.raises(CheckpointError, match=r"merges\.txt:246 merges 'zz zz'"):
        write_tokenizer(checkpoint, out)
    (checkpoint / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no merges\.txt"):
        write_tokenizer(checkpoint, out)
    (checkpoint / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"No vocab\.json"):
        write_tokenizer(checkpoint, out)
    (checkpoint / "tokenizer.json").write_text('{"model": {}}', "utf-8")
    with pytest.raises(CheckpointError, match="is not a tokenizer that can be loaded"):
        write_tokenizer(checkpoint, out)
    assert not out.exists()


def test_other_kinds_of_tokenizer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "WordPiece"}}))
    with pytest.raises(CheckpointError, match="WordPiece tokenizer; accepted: byte-level BPE"):
        read_vocabulary(path)
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="not a complete"):
        read_vocabulary(path)
