"""Write Qwen3-ASR's text decoder as a GGUF file that llama.cpp loads as architecture `qwen3`. Torch-free.

Plain positions are exact: the three position streams of the original (interleaved MRoPE) are equal for audio and text.
The head is tied: llama.cpp reads it from `token_embd.weight`. Containers and the simple formats come from the `gguf`
package; K-quants exist only in llama.cpp, which makes them from the F16 file.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from linnet.errors import ExportError, MissingExtraError
from linnet.export.quantize import FloatArray, TensorError, tensor_error_of_parts
from linnet.export.safetensors import Tensors
from linnet.export.tokenizer import Vocabulary, read_vocabulary
from linnet.runtime.gguf_table import GgufFile, GgufTable
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

SIMPLE = ("f32", "f16", "q8_0", "q4_0")
K_QUANTS = ("q3_k_m", "q4_k_m", "q5_k_m", "q6_k")
PRECISIONS = SIMPLE + K_QUANTS
CONTEXT_LENGTH = 65_536  # max_position_embeddings of the official checkpoints
EMBEDDING = "model.embed_tokens.weight"


def write_gguf(
    tensors: Tensors, config: Qwen3ASRConfig, out: Path, *, precision: str, tokenizer: Path, name: str
) -> tuple[str, ...]:
    """Write the decoder to `out` with the vocabulary of the file `tokenizer`, tensor by tensor.

    `precision` is one of PRECISIONS; norms stay float32, and in q4_0 the tied embedding and head is q8_0. A matrix
    whose rows are no multiple of the format's block stays f16: the names of those are returned (for K-quants llama.cpp
    chooses by itself). Raises ExportError for an unknown precision, MissingExtraError without `linnet[gguf]`.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"GGUF precision {precision!r} is not offered; accepted: {', '.join(PRECISIONS)}.")
    vocabulary = read_vocabulary(tokenizer)
    if precision in SIMPLE:
        return _write_simple(tensors, config, out, precision, vocabulary, name)
    wide = out.with_name(out.name + ".f16")
    try:
        _write_simple(tensors, config, wide, "f16", vocabulary, name)
        _quantize(wide, out, precision)
    finally:
        wide.unlink(missing_ok=True)
    return ()


def check_installed(precision: str) -> None:
    """Raise MissingExtraError if what writes this precision is not installed: gguf, and llama.cpp for K-quants."""
    if find_spec("gguf") is None:
        raise MissingExtraError("Writing GGUF", "gguf", "gguf")
    if precision in K_QUANTS and find_spec("llama_cpp") is None:
        raise MissingExtraError(f"Quantising to {precision}", "gguf", "llama-cpp-python")


def quantization_errors(path: Path, tensors: Tensors, config: Qwen3ASRConfig) -> tuple[TensorError, ...]:
    """How far each quantised matrix of a GGUF file is from the checkpoint's; what is stored in float is left out.

    The file is read back, so that this covers llama.cpp's K-quants as well, and the writing itself.
    """
    stored, errors = GgufFile(path), []
    for theirs, ours in _names(config):
        if len(tensors.shape(theirs)) == 2 and (table := stored.matrix(ours)).is_quantized:
            errors.append(tensor_error_of_parts(theirs, _compare(tensors, theirs, table)))
    return tuple(errors)


def _compare(tensors: Tensors, name: str, table: GgufTable) -> Iterator[tuple[FloatArray, FloatArray]]:
    first = 0
    for rows in tensors.get_rows(name, at_once=2048):
        yield rows, table.rows(range(first, first + len(rows)))
        first += len(rows)


def _write_simple(
    tensors: Tensors, config: Qwen3ASRConfig, out: Path, precision: str, vocabulary: Vocabulary, name: str
) -> tuple[str, ...]:
    try:
        from gguf import GGUFWriter, LlamaFileType
        from gguf.quants import quant_shape_to_byte_shape
    except ImportError as missing:
        raise MissingExtraError("Writing GGUF", "gguf", "gguf") from missing
    writer = GGUFWriter(out, "qwen3")
    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(LlamaFileType[file_types[precision]])
    _describe(writer, config, vocabulary, name)
    kept: list[str] = []
    try:
        plan = []
        for theirs, ours in _names(config):
            shape = tensors.shape(theirs)
            kind = _kind(theirs, shape, precision)
            if len(shape) == 2 and kind.name == "F16" != precision.upper():
                kept.append(theirs)
            plan.append((theirs, kind))
            stored = quant_shape_to_byte_shape(shape, kind) if kind.name.startswith("Q") else shape
            dtype = np.dtype({"F32": np.float32, "F16": np.float16}.get(kind.name, np.uint8))
            size_bytes = int(np.prod(stored)) * dtype.itemsize
            writer.add_tensor_info(ours, stored, dtype, size_bytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for theirs, kind in plan:
            writer.write_tensor_data(_convert(tensors, theirs, kind))
    finally:
        writer.close()
    return tuple(kept)


def _names(config: Qwen3ASRConfig) -> Iterator[tuple[str, str]]:
    """(checkpoint's name, GGUF's name) of every decoder tensor."""
    yield EMBEDDING, "token_embd.weight"
    yield "model.norm.weight", "output_norm.weight"
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(config.decoder_layers):
        for theirs, ours in parts.items():
            yield f"model.layers.{layer}.{theirs}.weight", f"blk.{layer}.{ours}.weight"


def _kind(name: str, shape: tuple[int, ...], precision: str) -> GGMLQuantizationType:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) == 1:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[precision.upper()]
    if kind == GGMLQuantizationType.Q4_0 and name == EMBEDDING:
        kind = GGMLQuantizationType.Q8_0
    return kind if shape[1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _convert(tensors: Tensors, name: str, kind: GGMLQuantizationType) -> npt.NDArray[Any]:
    from gguf.quants import quantize

    if name == EMBEDDING:  # a quarter of the model: never whole in float32
        return np.concatenate([quantize(rows, kind) for rows in tensors.get_rows(name)])
    return quantize(tensors.get(name), kind)


def _describe(writer: GGUFWriter, config: Qwen3ASRConfig, vocabulary: Vocabulary, name: str) -> None:
    from gguf import TokenType

    writer.add_name(name)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.decoder_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.decoder_heads)
    writer.add_head_count_kv(config.decoder_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if vocabulary.tokens and max(vocabulary.tokens) >= config.vocab_size:
        raise ExportError(
            f"The tokenizer has ids up to {max(vocabulary.tokens)}, the embedding only {config.vocab_size} rows. "
            "Use the tokenizer that belongs to these weights."
        )
    kinds = {None: TokenType.NORMAL, True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    numbers = range(config.vocab_size)
    # The embedding has more rows than there are tokens; llama.cpp wants a unique name for each.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([vocabulary.tokens.get(number, f"[PAD{number}]") for number in numbers])
    writer.add_token_types(
        [kinds[vocabulary.added.get(number)] if number in vocabulary.tokens else TokenType.UNUSED for number in numbers]
    )
    writer.add_token_merges(vocabulary.merges)
    ends = {"<|im_end|>": writer.add_eos_token_id, "<|endoftext|>": writer.add_bos_token_id}
    for text, add in ends.items():
        if (number := vocabulary.id_of(text)) is not None:
            add(number)
    writer.add_add_bos_token(False)


def _quantize(wide: Path, out: Path, precision: str) -> None:
    try:
        import llama_cpp
    except ImportError as missing:
        raise MissingExtraError(f"Quantising to {precision}", "gguf", "llama-cpp-python") from missing
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{precision.upper()}")
    params.nthread = os.cpu_count() or 1
    log = logging.getLogger("llama-cpp-python")  # llama.cpp reports a line per tensor through it
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        failed = llama_cpp.llama_model_quantize(os.fsencode(wide), os.fsencode(out), ctypes.byref(params))
    finally:
        log.setLevel(level)
    if failed:
        raise ExportError(
            f"llama.cpp could not quantise the decoder to {precision} (code {failed}). Free disk space, or choose "
            f"another precision: {', '.join(SIMPLE)}."
        )
