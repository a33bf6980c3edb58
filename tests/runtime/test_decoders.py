"""Both decoders keep the same promises: the official logits and tokens, and sequences that leave each other alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from linnet.errors import BundleCorruptError, BundleNotFoundError, ConfigError
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.export.qwen3_asr_decoder import write_decoder
from linnet.export.safetensors import Tensors, open_checkpoint
from linnet.runtime.decoder import Decoder
from linnet.runtime.llama import LlamaDecoder
from linnet.runtime.onnx_decoder import OnnxDecoder
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
Load = Callable[..., Decoder]
TOLERANCE = 2e-4  # float32 sums in another order; measured 4e-7
HALF_TOLERANCE = 5e-3  # weights, keys and values in 16 bits: 11 bits of mantissa, 5e-4 relative; measured 8e-4
SLOTS, LENGTH = 4, 2000


@pytest.fixture(scope="session")
def checkpoint(golden: Path) -> Path:
    return golden / "qwen3_asr"


@pytest.fixture(scope="session")
def config(checkpoint: Path) -> Qwen3ASRConfig:
    return read_config(checkpoint)


@pytest.fixture(scope="session")
def tensors(checkpoint: Path) -> Iterator[Tensors]:
    with open_checkpoint(checkpoint) as opened:
        yield opened


@pytest.fixture(scope="session")
def cases(checkpoint: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((checkpoint / "cases.json").read_text())["cases"]
    vectors = np.load(checkpoint / "cases.npz")
    for case in cases:
        # the official logits were computed behind full attention in the encoder
        case["audio"], case["logits"] = vectors[f"{case['name']}.encoder_full"], vectors[f"{case['name']}.logits"]
    return cases


@pytest.fixture(scope="session", params=["onnx", "gguf"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def path(kind: str, tensors: Tensors, config: Qwen3ASRConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint's decoder in full precision."""
    folder = tmp_path_factory.mktemp(kind)
    if kind == "onnx":
        write_decoder(tensors, config, folder / "decoder.onnx", precision="fp32")
        return folder / "decoder.onnx"
    return write_tiny_gguf(tensors, config, folder, "f32")


@pytest.fixture(scope="session")
def load(kind: str, path: Path) -> Load:
    loader: Load = OnnxDecoder if kind == "onnx" else LlamaDecoder
    return lambda **options: loader(path, **({"threads": 1, "max_slots": SLOTS, "max_length": LENGTH} | options))


@pytest.fixture
def decoder(load: Load) -> Iterator[Decoder]:
    decoder = load()
    yield decoder
    decoder.close()


def write_tiny_gguf(tensors: Tensors, config: Qwen3ASRConfig, folder: Path, precision: str) -> Path:
    pytest.importorskip("llama_cpp")
    from linnet.export.gguf import write_gguf

    vocabulary = {f"t{number}": number for number in range(config.vocab_size)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": ["t 0"]}  # llama.cpp refuses a BPE without merges
    tokenizer, out = folder / "tokenizer.json", folder / "decoder.gguf"
    tokenizer.write_text(json.dumps({"added_tokens": [], "model": model}))
    write_gguf(tensors, config, out, precision=precision, tokenizer=tokenizer, name="tiny")
    return out


def prompt_of(decoder: Decoder, case: dict[str, Any], config: Qwen3ASRConfig) -> FloatArray:
    embeddings = decoder.embed(case["prompt"])
    embeddings[np.array(case["prompt"]) == config.audio_token_id] = case["audio"]
    return embeddings


def random_prompts(decoder: Decoder, lengths: Sequence[int]) -> list[FloatArray]:
    rng = np.random.default_rng(0)
    return [decoder.embed(rng.integers(0, decoder.vocab_size, length).tolist()) for length in lengths]


def alone(load: Load, prompt: FloatArray, tokens: Sequence[int]) -> FloatArray:
    """Logits [1 + tokens, V] of a sequence that is the decoder's only one."""
    decoder = load(max_slots=1)
    opened = decoder.prefill([prompt])
    logits = [opened.logits[0], *(decoder.step(opened.slots, [token])[0] for token in tokens)]
    decoder.close()
    return np.stack(logits)


def teacher_forced(decoder: Decoder, case: dict[str, Any], config: Qwen3ASRConfig) -> FloatArray:
    opened = decoder.prefill([prompt_of(decoder, case, config)])
    logits = [opened.logits[0], *(decoder.step(opened.slots, [token])[0] for token in case["target"])]
    decoder.free(opened.slots[0])
    return np.stack(logits)


def test_teacher_forced_logits_are_the_official_ones(
    decoder: Decoder, cases: list[dict[str, Any]], config: Qwen3ASRConfig
) -> None:
    for case in cases:
        np.testing.assert_allclose(teacher_forced(decoder, case, config), case["logits"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("max_slots", [1, 8])  # without and with flash attention
def test_f16_gguf_stays_near_the_official_logits(
    cases: list[dict[str, Any]], config: Qwen3ASRConfig, tensors: Tensors, tmp_path: Path, max_slots: int
) -> None:
    decoder = LlamaDecoder(write_tiny_gguf(tensors, config, tmp_path, "f16"), threads=1, max_slots=max_slots)
    for case in cases:
        np.testing.assert_allclose(teacher_forced(decoder, case, config), case["logits"], rtol=0, atol=HALF_TOLERANCE)
    decoder.close()


def test_greedy_tokens_are_the_official_ones(
    decoder: Decoder, cases: list[dict[str, Any]], config: Qwen3ASRConfig
) -> None:
    for first in range(0, len(cases), SLOTS):  # several cuts of different lengths at once
        group = cases[first : first + SLOTS]
        opened = decoder.prefill([prompt_of(decoder, case, config) for case in group])
        tokens = [opened.logits.argmax(axis=1)]
        while len(tokens) < len(group[0]["greedy"]):
            tokens.append(decoder.step(opened.slots, tokens[-1].tolist()).argmax(axis=1))
        for slot in opened.slots:
            decoder.free(slot)
        assert np.stack(tokens, axis=1).tolist() == [case["greedy"] for case in group]


def test_embeddings_are_the_checkpoints_rows(decoder: Decoder, tensors: Tensors) -> None:
    table = tensors.get("model.embed_tokens.weight")
    last = len(table) - 1
    np.testing.assert_array_equal(decoder.embed([0, last, 5, 5]), table[[0, last, 5, 5]])
    assert decoder.embed([]).shape == (0, decoder.hidden_size)


def test_sequences_in_a_batch_get_the_logits_they_get_alone(decoder: Decoder, load: Load) -> None:
    prompts = random_prompts(decoder, [1, 300, 17, 2])
    tokens = [3, 1, 4, 1, 5]
    opened = decoder.prefill(prompts)
    logits = [opened.logits, *(decoder.step(opened.slots, [token] * 4) for token in tokens)]
    for index, prompt in enumerate(prompts):
        got = np.stack([step[index] for step in logits])
        np.testing.assert_allclose(got, alone(load, prompt, tokens), rtol=0, atol=TOLERANCE)


def test_steps_equal_the_prefill_of_the_longer_prompt(decoder: Decoder) -> None:
    (prompt,) = random_prompts(decoder, [40])
    tokens = [7, 8, 9]
    opened = decoder.prefill([prompt])
    for token in tokens:
        stepped = decoder.step(opened.slots, [token])
    whole = decoder.prefill([np.concatenate([prompt, decoder.embed(tokens)])])
    np.testing.assert_allclose(stepped, whole.logits, rtol=0, atol=TOLERANCE)


def test_any_subset_of_slots_can_step_in_any_order(decoder: Decoder, load: Load) -> None:
    prompts = random_prompts(decoder, [5, 60, 9, 30])
    a, b, c, d = decoder.prefill(prompts).slots
    decoder.step([d, a], [1, 2])
    decoder.step([c], [3])
    decoder.step([b, d, a], [4, 5, 6])
    logits = decoder.step([d, c, b, a], [7, 7, 7, 7])
    for got, index, tokens in zip(logits, [3, 2, 1, 0], [[1, 5, 7], [3, 7], [4, 7], [2, 6, 7]], strict=True):
        expected = alone(load, prompts[index], tokens)[-1]
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def test_freed_slots_make_room_and_leave_no_trace(decoder: Decoder, load: Load) -> None:
    prompts = random_prompts(decoder, [50, 8, 40, 21, 4])
    a, b, c, d = decoder.prefill(prompts[:4]).slots
    decoder.free(a)
    decoder.free(c)
    decoder.step([d, b], [1, 2])  # across the gap that c left
    (e,) = decoder.prefill([prompts[4]]).slots
    assert e not in (a, b, c, d)
    logits = decoder.step([e, b, d], [5, 6, 7])
    expected = [alone(load, prompts[4], [5]), alone(load, prompts[1], [2, 6]), alone(load, prompts[3], [1, 7])]
    np.testing.assert_allclose(logits, [step[-1] for step in expected], rtol=0, atol=TOLERANCE)


def test_forks_go_their_own_ways(decoder: Decoder, load: Load) -> None:
    prompts = random_prompts(decoder, [30, 300])  # the second fork comes behind 256 positions, where the cache grew
    a, b = decoder.prefill(prompts).slots
    decoder.step([b, a], [8, 1])
    twin = decoder.fork(a)
    np.testing.assert_allclose(
        decoder.step([twin, a, b], [2, 3, 9]),
        [alone(load, prompts[0], [1, 2])[-1], alone(load, prompts[0], [1, 3])[-1], alone(load, prompts[1], [8, 9])[-1]],
        rtol=0,
        atol=TOLERANCE,
    )
    decoder.free(a)  # the fork does not live on what it came from
    later, other = decoder.fork(b), decoder.fork(twin)
    np.testing.assert_allclose(
        decoder.step([later, twin, other], [4, 5, 6]),
        [
            alone(load, prompts[1], [8, 9, 4])[-1],
            alone(load, prompts[0], [1, 2, 5])[-1],
            alone(load, prompts[0], [1, 2, 6])[-1],
        ],
        rtol=0,
        atol=TOLERANCE,
    )


def test_growing_the_cache_keeps_what_it_holds(decoder: Decoder, load: Load) -> None:
    short, long = random_prompts(decoder, [20, 1300])  # longer than one piece of prefill and one step of growth
    (a,) = decoder.prefill([short]).slots
    decoder.step([a], [1])
    (b,) = decoder.prefill([long]).slots
    logits = decoder.step([a, b], [2, 3])
    expected = [alone(load, short, [1, 2])[-1], alone(load, long, [3])[-1]]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


def test_long_sequence_grows_step_by_step(decoder: Decoder) -> None:
    (prompt,) = random_prompts(decoder, [500])
    opened = decoder.prefill([prompt[:490]])
    tokens = np.random.default_rng(1).integers(0, decoder.vocab_size, 60).tolist()  # across 512 positions
    for token in tokens:
        stepped = decoder.step(opened.slots, [token])
    whole = decoder.prefill([np.concatenate([prompt[:490], decoder.embed(tokens)])])
    np.testing.assert_allclose(stepped, whole.logits, rtol=0, atol=TOLERANCE)


def test_idle_decoder_starts_again_after_a_long_prompt(decoder: Decoder, load: Load) -> None:
    long, short = random_prompts(decoder, [1300, 12])
    decoder.free(decoder.prefill([long]).slots[0])
    logits = decoder.prefill([short]).logits
    np.testing.assert_allclose(logits, alone(load, short, []), rtol=0, atol=TOLERANCE)


def test_nothing_to_do_is_allowed(decoder: Decoder) -> None:
    assert decoder.step([], []).shape == (0, decoder.vocab_size)
    opened = decoder.prefill([])
    assert opened.slots == [] and opened.logits.shape == (0, decoder.vocab_size)


def test_wrong_calls_are_refused_and_change_nothing(decoder: Decoder, load: Load) -> None:
    (prompt,) = random_prompts(decoder, [6])
    (a,) = decoder.prefill([prompt]).slots
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("slots are in use", lambda: decoder.prefill([prompt] * SLOTS)),
        ("prompt has shape", lambda: decoder.prefill([prompt, prompt[:0]])),
        ("prompt has shape", lambda: decoder.prefill([prompt[:, :-1]])),
        ("prompt has shape", lambda: decoder.prefill([np.zeros((LENGTH + 1, decoder.hidden_size), np.float32)])),
        ("not live", lambda: decoder.step([a + 1], [0])),
        ("not live", lambda: decoder.free(a + 1)),
        ("not live", lambda: decoder.fork(a + 1)),
        ("one token per slot", lambda: decoder.step([a], [0, 1])),
        ("one token per slot", lambda: decoder.step([a, a], [0, 1])),
        ("outside the vocabulary", lambda: decoder.step([a], [decoder.vocab_size])),
        ("outside the vocabulary", lambda: decoder.embed([-1])),
    ]
    for message, call in wrong:
        with pytest.raises(ConfigError, match=message):
            call()
    np.testing.assert_allclose(decoder.step([a], [1])[0], alone(load, prompt, [1])[-1], rtol=0, atol=TOLERANCE)


def test_a_full_slot_is_refused(load: Load) -> None:
    decoder = load(max_length=8)
    (prompt,) = random_prompts(decoder, [7])
    (full,) = decoder.prefill([prompt]).slots
    (other,) = decoder.prefill([prompt[:2]]).slots
    decoder.step([full], [0])
    with pytest.raises(ConfigError, match="holds 8 positions"):
        decoder.step([other, full], [0, 0])
    assert np.isfinite(decoder.step([other], [0])).all()  # a full neighbour is no obstacle
    decoder.close()


def test_closed_decoder_refuses_everything(load: Load) -> None:
    decoder = load()
    (prompt,) = random_prompts(decoder, [3])
    (slot,) = decoder.prefill([prompt]).slots
    decoder.close()
    decoder.close()  # twice is harmless
    for call in (
        lambda: decoder.embed([1]),
        lambda: decoder.prefill([prompt]),
        lambda: decoder.step([slot], [1]),
        lambda: decoder.free(slot),
    ):
        with pytest.raises(ConfigError, match="closed"):
            call()


def test_missing_and_foreign_files_are_named(load: Load, path: Path, tmp_path: Path) -> None:
    loader = OnnxDecoder if path.suffix == ".onnx" else LlamaDecoder
    with pytest.raises(BundleNotFoundError, match=path.name):
        loader(tmp_path / path.name)
    (tmp_path / path.name).write_bytes(b"not a model")
    (tmp_path / f"{path.name}.data").write_bytes(b"")
    with pytest.raises(BundleCorruptError, match=path.name):
        loader(tmp_path / path.name)


def test_a_gguf_of_another_architecture_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BundleCorruptError, match=r"architecture 'llama'; accepted: 'qwen3'"):
        LlamaDecoder(tmp_path / "llama.gguf")
    whole = (tmp_path / "llama.gguf").read_bytes()
    for damaged in (b"", b"GGUF", whole[:40], b"\0" * 100):
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        with pytest.raises(BundleCorruptError, match="is not a GGUF file that can be read"):
            LlamaDecoder(tmp_path / "damaged.gguf")
