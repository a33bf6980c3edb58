"""The ONNX decoder's weights and precisions; agreement with the official model is in tests/runtime/test_decoders.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from linnet.errors import CheckpointError, ExportError
from linnet.export import qwen3_asr_decoder
from linnet.export.quantize import dequantize_blocks, dequantize_channels, quantize_blocks, quantize_channels
from linnet.export.qwen3_asr_decoder import write_decoder
from linnet.runtime.onnx_decoder import OnnxDecoder
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
TABLE = "model.embed_tokens.weight"
CONFIG = Qwen3ASRConfig(
    conv_channels=8,
    d_model=16,
    encoder_layers=1,
    encoder_heads=2,
    encoder_ffn_dim=32,
    output_dim=72,
    vocab_size=300,
    hidden_size=72,  # no multiple of a block
    decoder_layers=3,
    decoder_heads=6,
    decoder_kv_heads=2,
    head_dim=32,
    intermediate_size=104,
    audio_token_id=290,
    audio_start_token_id=291,
    audio_end_token_id=292,
    eos_token_ids=(293,),
)


class RandomTensors:
    """A checkpoint in memory: Gaussian matrices and norm gains with a few outlier channels, as trained models have."""

    def __init__(self, config: Qwen3ASRConfig) -> None:
        rng = np.random.default_rng(0)
        heads, kv_heads = config.decoder_heads * config.head_dim, config.decoder_kv_heads * config.head_dim
        hidden, inner = config.hidden_size, config.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {TABLE: (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
        for layer in range(config.decoder_layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (hidden,),
                f"{prefix}.post_attention_layernorm.weight": (hidden,),
                f"{prefix}.self_attn.q_norm.weight": (config.head_dim,),
                f"{prefix}.self_attn.k_norm.weight": (config.head_dim,),
                f"{prefix}.self_attn.q_proj.weight": (heads, hidden),
                f"{prefix}.self_attn.k_proj.weight": (kv_heads, hidden),
                f"{prefix}.self_attn.v_proj.weight": (kv_heads, hidden),
                f"{prefix}.self_attn.o_proj.weight": (hidden, heads),
                f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
                f"{prefix}.mlp.up_proj.weight": (inner, hidden),
                f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            }
        self.arrays: dict[str, FloatArray] = {}
        for name, shape in shapes.items():
            values = (
                rng.standard_normal(shape) * shape[-1] ** -0.5
                if len(shape) == 2
                else np.exp(rng.normal(0, 0.25, shape))
            )
            if len(shape) == 1:
                values[:2] *= 4
            self.arrays[name] = values.astype(np.float32)

    def get(self, name: str) -> FloatArray:
        if name not in self.arrays:
            raise CheckpointError(f"no tensor {name}")
        return self.arrays[name]

    def get_rows(self, name: str) -> Iterator[FloatArray]:
        yield from np.array_split(self.get(name), 3)


def logits(path: Path, prompt: FloatArray) -> FloatArray:
    """Logits after the prompt, and after each of three more tokens."""
    decoder = OnnxDecoder(path, threads=1)
    opened = decoder.prefill([prompt])
    rows = [opened.logits[0], *(decoder.step(opened.slots, [token])[0] for token in (5, 250, 17))]
    decoder.close()
    return np.stack(rows)


def relative_rms(got: FloatArray, expected: FloatArray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def tensors() -> RandomTensors:
    return RandomTensors(CONFIG)


@pytest.fixture(scope="module")
def prompt(tensors: RandomTensors) -> FloatArray:
    return tensors.get(TABLE)[np.random.default_rng(1).integers(0, CONFIG.vocab_size, 30)]


def rounded(tensors: RandomTensors, precision: str) -> RandomTensors:
    """The checkpoint with its weights replaced by what the quantised ones stand for."""
    result = RandomTensors(CONFIG)
    for name, weight in tensors.arrays.items():
        if name == TABLE:
            quantized = quantize_blocks(weight, bits=8, block=qwen3_asr_decoder.TABLE_BLOCK)
            result.arrays[name] = dequantize_blocks(quantized)[:, : weight.shape[1]]
        elif weight.ndim == 2 and precision == "int8":
            result.arrays[name] = dequantize_channels(quantize_channels(weight))
        elif weight.ndim == 2:
            bits, symmetric = 4 if precision.startswith("int4") else 8, precision != "int4-asym"
            block = qwen3_asr_decoder.WEIGHT_BLOCK[bits]
            quantized = quantize_blocks(weight, bits=bits, block=block, symmetric=symmetric)
            result.arrays[name] = dequantize_blocks(quantized)[:, : weight.shape[1]]
    return result


@pytest.mark.parametrize(
    ("precision", "limit"), [("int8", 0.15), ("int8-careful", 0.08), ("int4", 0.08), ("int4-asym", 0.08)]
)
def test_quantised_graph_computes_with_the_quantised_weights(
    tensors: RandomTensors, prompt: FloatArray, tmp_path: Path, precision: str, limit: float
) -> None:
    write_decoder(tensors, CONFIG, tmp_path / "quantised.onnx", precision=precision)
    write_decoder(rounded(tensors, precision), CONFIG, tmp_path / "exact.onnx", precision="fp32")
    # What is left is the 8-bit rounding of activations, step/√12. Per token, the outlier channels of the norms make the
    # step 8σ/127: 1.5 % in each of 12 products in a row; per block of 32 about half of that. Measured .085 and .04.
    error = relative_rms(logits(tmp_path / "quantised.onnx", prompt), logits(tmp_path / "exact.onnx", prompt))
    assert 0.0001 < error < limit


@pytest.mark.parametrize(
    ("precision", "limit"), [("int8", 0.15), ("int8-careful", 0.1), ("int4", 0.6), ("int4-asym", 0.9)]
)
def test_quantised_logits_stay_near_fp32(
    tensors: RandomTensors, prompt: FloatArray, tmp_path: Path, precision: str, limit: float
) -> None:
    write_decoder(tensors, CONFIG, tmp_path / "quantised.onnx", precision=precision)
    write_decoder(tensors, CONFIG, tmp_path / "exact.onnx", precision="fp32")
    # 8 bits: hardly more than the activations' rounding above. 4 bits: 8 % noise in each matrix of Gaussian weights,
    # 30 % after 12 of them in a row, more through sharp attention.
    # Measured .09, .06, .43 and .66 (centred weights gain nothing from a zero point).
    error = relative_rms(logits(tmp_path / "quantised.onnx", prompt), logits(tmp_path / "exact.onnx", prompt))
    assert 0.001 < error < limit


def test_embedding_rows_are_the_heads_own(tensors: RandomTensors, tmp_path: Path) -> None:
    table = tensors.get(TABLE)
    expected = {"fp32": table, "int8": rounded(tensors, "int8").get(TABLE), "int4": rounded(tensors, "int4").get(TABLE)}
    for precision, rows in expected.items():
        write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision=precision)
        decoder = OnnxDecoder(tmp_path / "decoder.onnx", threads=1)
        np.testing.assert_array_equal(decoder.embed(range(CONFIG.vocab_size)), rows)
        decoder.close()


@pytest.mark.parametrize(
    ("precision", "bytes_per_weight"),
    [("fp32", 4.0), ("int8", 1.0), ("int8-careful", 1 + 4 / 32), ("int4", 0.5 + 4 / 64), ("int4-asym", 0.5 + 5 / 64)],
)
def test_every_weight_is_stored_once(
    tensors: RandomTensors, tmp_path: Path, precision: str, bytes_per_weight: float
) -> None:
    write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision=precision)
    table = CONFIG.vocab_size * CONFIG.hidden_size
    others = sum(array.size for array in tensors.arrays.values() if array.ndim == 2) - table
    blocks = 128 / 72  # K is padded to whole blocks: 72 → 96 or 128, 104 → 128
    expected = others * bytes_per_weight * blocks + table * (4 if precision == "fp32" else (1 + 4 / 32) * blocks)
    pages = 4096 * 2 * (4 * CONFIG.decoder_layers + 1)
    assert (tmp_path / "decoder.onnx.data").stat().st_size <= expected + pages


def test_int8_result_does_not_depend_on_batch_neighbours(tensors: RandomTensors, tmp_path: Path) -> None:
    write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision="int8")
    decoder = OnnxDecoder(tmp_path / "decoder.onnx", threads=1)
    prompt = decoder.embed([1, 2, 3])
    quiet, loud = decoder.prefill([prompt, np.concatenate([prompt, prompt * 1000])]).slots
    together = decoder.step([quiet, loud], [4, 5])[0]
    alone = decoder.step(decoder.prefill([prompt]).slots, [4])[0]
    decoder.close()
    # float sums may differ in their last bits; a scale shared with the loud neighbour would be off by far more
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", qwen3_asr_decoder.PRECISIONS)
def test_zero_embeddings_give_finite_logits(tensors: RandomTensors, tmp_path: Path, precision: str) -> None:
    write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision=precision)
    prompt = tensors.get(TABLE)[:5].copy()
    prompt[2:] = 0  # an all-zero token has no scale of its own
    assert np.isfinite(logits(tmp_path / "decoder.onnx", prompt)).all()


def test_one_layer_and_one_head_per_group(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, decoder_layers=1, decoder_heads=2)
    write_decoder(RandomTensors(config), config, tmp_path / "decoder.onnx", precision="fp32")
    prompt = RandomTensors(config).get(TABLE)[:4]
    decoder = OnnxDecoder(tmp_path / "decoder.onnx", threads=1)
    whole = decoder.prefill([prompt]).logits[0]
    stepped = decoder.step(decoder.prefill([prompt[:3]]).slots, [3])[0]
    decoder.close()
    np.testing.assert_allclose(stepped, whole, rtol=0, atol=1e-5)


def test_unknown_precision_is_refused(tensors: RandomTensors, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'int2'.*fp32, int8, int8-careful, int4"):
        write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision="int2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", qwen3_asr_decoder.PRECISIONS)
def test_every_matrix_is_reported_with_its_error(tensors: RandomTensors, tmp_path: Path, precision: str) -> None:
    errors = write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision=precision)
    if precision == "fp32":
        assert errors == ()
        return
    assert len(errors) == 4 * CONFIG.decoder_layers + 1  # q, k and v are one matrix, gate and up another
    exact = rounded(tensors, precision)
    by_name = {error.name: error for error in errors}
    for name in ("model.layers.1.mlp.down_proj", TABLE):
        key = name if name == TABLE else f"{name}.weight"
        difference = exact.arrays[key] - tensors.arrays[key]
        relative = np.linalg.norm(difference) / np.linalg.norm(tensors.arrays[key])
        assert by_name[name].relative_rms == pytest.approx(relative, rel=1e-4)


def test_missing_tensor_leaves_nothing_behind(tmp_path: Path) -> None:
    tensors = RandomTensors(CONFIG)
    del tensors.arrays["model.layers.2.mlp.down_proj.weight"]
    with pytest.raises(CheckpointError, match="down_proj"):
        write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 32), ("int8", 32), ("int4", 16), ("int4-asym", 16)])
def test_keys_and_values_take_16_bits_beside_4_bit_weights(
    tensors: RandomTensors, tmp_path: Path, precision: str, bits: int
) -> None:
    write_decoder(tensors, CONFIG, tmp_path / "decoder.onnx", precision=precision)
    graph = onnx.load(tmp_path / "decoder.onnx", load_external_data=False).graph
    kinds = {
        value.type.tensor_type.elem_type
        for value in [*graph.input, *graph.output]
        if value.name.startswith(("past", "present"))
    }
    assert kinds == {onnx.TensorProto.FLOAT16 if bits == 16 else onnx.TensorProto.FLOAT}
