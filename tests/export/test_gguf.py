"""GGUF files: what is stored is what the checkpoint holds, and llama.cpp computes the official logits from it."""

from __future__ import annotations

import ctypes
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from linnet.errors import CheckpointError, ExportError, MissingExtraError
from linnet.export.gguf import quantization_errors, write_gguf
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.export.safetensors import open_checkpoint
from linnet.export.tokenizer import write_tokenizer

gguf = pytest.importorskip("gguf")
FloatArray = npt.NDArray[np.float32]


def convert(checkpoint: Path, out: Path, precision: str) -> tuple[str, ...]:
    tokenizer = out.with_suffix(".json")
    write_tokenizer(checkpoint, tokenizer)
    with open_checkpoint(checkpoint) as tensors:
        return write_gguf(tensors, read_config(checkpoint), out, precision=precision, tokenizer=tokenizer, name="tiny")


# Relative rounding of the formats on Gaussian weights: half has 11 bits, q8_0 and q4_0 blocks of 32 with a half scale.
@pytest.mark.parametrize(("precision", "bound"), [("f32", 0.0), ("f16", 5e-4), ("q8_0", 0.01), ("q4_0", 0.12)])
def test_stored_tensors_are_those_of_the_checkpoint(
    with_tokenizer: Path, tmp_path: Path, precision: str, bound: float
) -> None:
    assert convert(with_tokenizer, tmp_path / "decoder.gguf", precision) == ()
    reader = gguf.GGUFReader(tmp_path / "decoder.gguf")
    stored = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["output_norm.weight"] == "F32" and "output.weight" not in kinds
    assert kinds["blk.1.ffn_down.weight"] == precision.upper()
    assert kinds["token_embd.weight"] == ("Q8_0" if precision == "q4_0" else precision.upper())
    pairs = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
        "blk.0.attn_k_norm": "model.layers.0.self_attn.k_norm",
        "blk.1.attn_output": "model.layers.1.self_attn.o_proj",
        "blk.1.ffn_norm": "model.layers.1.post_attention_layernorm",
        "blk.1.ffn_down": "model.layers.1.mlp.down_proj",
    }
    tensors = open_checkpoint(with_tokenizer)
    assert len(stored) == sum(name.startswith("model.") for name in tensors.names())
    for theirs, ours in pairs.items():
        expected = tensors.get(f"{ours}.weight")
        difference = np.linalg.norm(stored[f"{theirs}.weight"] - expected)
        assert difference <= bound * np.linalg.norm(expected), theirs


@pytest.mark.parametrize(("precision", "bounds"), [
    ("f16", None), ("q8_0", (0.004, 0.01)), ("q6_k", (0.005, 0.03)), ("q5_k_m", (0.01, 0.06)), ("q4_k_m", (0.02, 0.1)),
    ("q4_0", (0.05, 0.12)),
])  # fmt: skip
def test_errors_are_read_back_from_the_file(
    with_tokenizer: Path, tmp_path: Path, precision: str, bounds: tuple[float, float] | None
) -> None:
    if precision.endswith(("_k", "_k_m")):
        pytest.importorskip("llama_cpp")
    convert(with_tokenizer, tmp_path / "decoder.gguf", precision)
    with open_checkpoint(with_tokenizer) as tensors:
        errors = quantization_errors(tmp_path / "decoder.gguf", tensors, read_config(with_tokenizer))
        if bounds is None:
            assert errors == ()
            return
        assert bounds[0] < max(error.relative_rms for error in errors) < bounds[1]
        reader = gguf.GGUFReader(tmp_path / "decoder.gguf")  # the package's own reader as oracle
        stored = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
        expected = tensors.get("model.layers.1.mlp.down_proj.weight")
    difference = np.linalg.norm(stored["blk.1.ffn_down.weight"] - expected) / np.linalg.norm(expected)
    (found,) = (error for error in errors if error.name == "model.layers.1.mlp.down_proj.weight")
    assert found.relative_rms == pytest.approx(difference, rel=1e-4)


def test_metadata_describe_the_network_and_vocabulary(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "decoder.gguf", "f16")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "decoder.gguf").fields.items()}
    assert fields["general.architecture"] == "qwen3" and fields["general.name"] == "tiny"
    assert fields["qwen3.block_count"] == 2 and fields["qwen3.embedding_length"] == 72
    assert fields["qwen3.attention.head_count"] == 4 and fields["qwen3.attention.head_count_kv"] == 2
    assert fields["qwen3.attention.key_length"] == 32 and fields["qwen3.rope.freq_base"] == 1e6
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == "qwen2"
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == len(set(tokens)) == 544
    assert tokens[504] == "<|im_end|>" and kinds[504] == gguf.TokenType.CONTROL
    assert tokens[506] == "<asr_text>" and kinds[506] == gguf.TokenType.USER_DEFINED
    assert kinds[0] == gguf.TokenType.NORMAL and kinds[507] == gguf.TokenType.UNUSED
    assert fields["tokenizer.ggml.eos_token_id"] == 504 and fields["tokenizer.ggml.bos_token_id"] == 505
    assert len(fields["tokenizer.ggml.merges"]) == 244


def test_rows_that_do_not_fill_blocks_stay_f16_and_are_named(checkpoint: Path, tmp_path: Path) -> None:
    kept = convert(checkpoint, tmp_path / "decoder.gguf", "q8_0")
    # hidden size 72 is no multiple of 32; 128 attention and 96 feed-forward features are
    assert "model.embed_tokens.weight" in kept and "model.layers.0.self_attn.q_proj.weight" in kept
    assert "model.layers.0.self_attn.o_proj.weight" not in kept and "model.layers.0.mlp.down_proj.weight" not in kept
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "decoder.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16" and kinds["blk.0.ffn_down.weight"] == "Q8_0"


def test_vocabulary_larger_than_the_embedding_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "tokenizer_config.json").read_text("utf-8"))
    entry = config["added_tokens_decoder"]["500"]
    extra = {str(507 + index): entry | {"content": f"<extra{index}>"} for index in range(40)}
    config["added_tokens_decoder"] |= extra
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ExportError, match="ids up to 546, the embedding only 544 rows"):
        convert(checkpoint, tmp_path / "decoder.gguf", "f16")


def test_unknown_precision_and_missing_package(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ExportError, match=r"'q4_k_xl' is not offered; accepted: f32, f16, q8_0"):
        convert(checkpoint, tmp_path / "decoder.gguf", "q4_k_xl")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'linnet\[gguf\]'"):
        convert(checkpoint, tmp_path / "decoder.gguf", "f16")
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    with pytest.raises(MissingExtraError, match="llama-cpp-python"):
        convert(checkpoint, tmp_path / "decoder.gguf", "q4_k_m")
    assert not list(tmp_path.glob("decoder.gguf*"))


class Llama:
    """llama.cpp fed with embeddings, everything in float32."""

    def __init__(self, path: Path) -> None:
        self.api = pytest.importorskip("llama_cpp")
        logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
        self.api.llama_backend_init()
        self.model = self.api.llama_model_load_from_file(bytes(path), self.api.llama_model_default_params())
        assert self.model, "llama.cpp refused the file"
        params = self.api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = self.api.GGML_TYPE_F32
        params.flash_attn_type = self.api.LLAMA_FLASH_ATTN_TYPE_DISABLED  # its kernel rounds to half
        self.context = self.api.llama_init_from_model(self.model, params)

    def logits(self, embeddings: FloatArray, last: int) -> FloatArray:
        """Logits after each of the `last` final positions."""
        count, size = embeddings.shape
        batch = self.api.llama_batch_init(count, size, 1)
        batch.n_tokens = count
        ctypes.memmove(batch.embd, np.ascontiguousarray(embeddings).ctypes.data, embeddings.nbytes)
        for index in range(count):
            batch.pos[index], batch.n_seq_id[index], batch.seq_id[index][0] = index, 1, 0
            batch.logits[index] = index >= count - last
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        assert self.api.llama_decode(self.context, batch) == 0
        vocabulary = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))
        rows = [
            np.ctypeslib.as_array(self.api.llama_get_logits_ith(self.context, index), (vocabulary,)).copy()
            for index in range(count - last, count)
        ]
        self.api.llama_batch_free(batch)
        return np.stack(rows)

    def close(self) -> None:
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)


@pytest.fixture
def llama(with_tokenizer: Path, tmp_path: Path) -> Iterator[Any]:
    opened = []

    def load(precision: str) -> Llama:
        convert(with_tokenizer, tmp_path / f"{precision}.gguf", precision)
        opened.append(Llama(tmp_path / f"{precision}.gguf"))
        return opened[-1]

    yield load
    for model in opened:
        model.close()


def golden_prompts(golden: Path) -> Iterator[tuple[FloatArray, FloatArray]]:
    """(embeddings of prompt and target, official logits at the last positions) per case."""
    cases = json.loads((golden / "qwen3_asr" / "cases.json").read_text("utf-8"))["cases"]
    vectors = np.load(golden / "qwen3_asr" / "cases.npz")
    config, tensors = read_config(golden / "qwen3_asr"), open_checkpoint(golden / "qwen3_asr")
    table = tensors.get("model.embed_tokens.weight")
    for case in cases:
        tokens = np.array(case["prompt"] + case["target"])
        embeddings = table[tokens].copy()
        embeddings[tokens == config.audio_token_id] = vectors[f"{case['name']}.encoder_full"]
        yield embeddings, vectors[f"{case['name']}.logits"]


def test_llama_cpp_computes_the_official_logits(golden: Path, llama: Any) -> None:
    model = llama("f32")
    for embeddings, expected in golden_prompts(golden):
        logits = model.logits(embeddings, len(expected))
        np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=0)  # the project's bound; float32 throughout
        np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize(("precision", "bound"), [("f16", 0.005), ("q8_0", 0.05), ("q4_0", 0.4), ("q6_k", 0.2)])
def test_quantised_logits_stay_near(golden: Path, llama: Any, precision: str, bound: float) -> None:
    # Bounds are relative to the logits' norm; random weights, so only the order of the formats means anything.
    model = llama(precision)
    embeddings, expected = next(golden_prompts(golden))
    logits = model.logits(embeddings, len(expected))
    assert np.linalg.norm(logits - expected) < bound * np.linalg.norm(expected)


def test_llama_cpp_and_tokenizers_split_alike(checkpoint: Path, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    tokenizers = pytest.importorskip("tokenizers")
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    convert(checkpoint, tmp_path / "decoder.gguf", "f16")
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "decoder.json"))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(bytes(tmp_path / "decoder.gguf"), params)
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    for text in ("the internet  is\n\n 2 the others'", "naïve 漢字 😀", "<|im_start|>a<|audio_pad|><asr_text> thing"):
        data, ids = text.encode(), (ctypes.c_int32 * 200)()
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, 200, True, True)
        assert list(ids[:count]) == reference.encode(text, add_special_tokens=False).ids
    llama_cpp.llama_model_free(model)


def test_foreign_tokenizer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"model": {"type": "Unigram"}}')
    with open_checkpoint(checkpoint) as tensors, pytest.raises(CheckpointError, match="Unigram"):
        write_gguf(
            tensors,
            read_config(checkpoint),
            tmp_path / "decoder.gguf",
            precision="f16",
            tokenizer=tmp_path / "t.json",
            name="x",
        )
