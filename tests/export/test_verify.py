"""Verification: the measures against algebra and torch-free recomputation, the limits, and what is stored."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fake_recognizer import FakeRecognizer, make_bundle
from linnet import cli
from linnet.bundle import Bundle, read_bundle, write_parity
from linnet.errors import BundleCorruptError, CheckpointError, ConfigError, ExportError
from linnet.export.parity import compare_frames, compare_logits
from linnet.export.qwen3_asr import convert
from linnet.export.verify import LIMITS, check_conversion, fingerprint, judge, probe_clips, verify
from linnet.export.verify_text import compare_text


@pytest.fixture
def exact(checkpoint: Path, tmp_path: Path) -> Bundle:
    return convert(checkpoint, tmp_path / "exact", encoder="fp32", decoders={"onnx": "fp32"})


@pytest.fixture
def small(checkpoint: Path, tmp_path: Path) -> Bundle:
    return convert(checkpoint, tmp_path / "small", encoder="int8", decoders={"onnx": "int8"})


def test_frames_are_compared_one_by_one() -> None:
    reference = np.random.default_rng(0).standard_normal((2, 50, 16)).astype(np.float32)
    found = compare_frames(list(reference), list(reference))
    assert (found.max_abs, found.relative_rms, found.frames) == (0, 0, 100)
    assert found.min_frame_cosine == pytest.approx(1)
    broken = reference.copy()
    broken[1, 7] = -broken[1, 7]  # one frame in a hundred upside down
    found = compare_frames(list(reference), list(broken))
    assert found.min_frame_cosine == pytest.approx(-1)
    assert found.max_abs == pytest.approx(2 * np.abs(reference[1, 7]).max())
    assert found.relative_rms == pytest.approx(2 * np.linalg.norm(reference[1, 7]) / np.linalg.norm(reference))
    silent = np.zeros((1, 4), np.float32)
    assert compare_frames([silent], [silent]).min_frame_cosine == 1
    assert compare_frames([silent], [silent + 1]).min_frame_cosine == 0


def test_logits_are_compared_as_distributions() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    logits = [np.log([p, p]).astype(np.float32)]
    shifted = [(np.log([p, p]) + 5).astype(np.float32)]  # the same distribution
    found = compare_logits(logits, shifted)
    assert found.kl == pytest.approx(0, abs=1e-6) and found.max_abs == pytest.approx(5, rel=1e-6)
    assert (found.token_exact, found.tokens) == (1, 2)
    found = compare_logits(logits, [np.log([p, q]).astype(np.float32)])
    assert found.kl == pytest.approx(0.5 * np.sum(p * np.log(p / q)), rel=1e-5)
    assert found.token_exact == 0.5


def test_a_conversion_without_rounding_loses_nothing(checkpoint: Path, exact: Bundle) -> None:
    found = verify(exact.path, against=checkpoint)
    assert found.failures == ()
    for part in ("encoder", "encoder (full attention)"):
        assert found.figures[part]["max_abs"] == 0
    for part in ("decoder.onnx", "encoder + decoder.onnx"):
        # the reference's weights stay in their file, so its sums have another order
        assert found.figures[part]["token_exact"] == 1 and found.figures[part]["kl"] < 1e-8


def test_figures_are_stored_with_the_bundle(checkpoint: Path, small: Bundle, exact: Bundle) -> None:
    found = verify(small.path, against=checkpoint)
    stored = read_bundle(small.path).parity
    assert stored == found.figures and stored["weights"] == small.parity["weights"]
    assert stored["encoder"]["max_abs"] > 0 and stored["decoder.onnx"]["kl"] > 0
    assert stored["against"]["precision"] == {"encoder": "fp32", "decoder.onnx": "fp32"}
    assert stored["files"] == fingerprint(small)
    # a bundle as reference says the same as the checkpoint that it was made from
    assert verify(small.path, against=exact.path).figures["decoder.onnx"] == stored["decoder.onnx"]
    assert verify(small.path).figures["encoder"] == stored["encoder"]
    left = {path.name for path in small.path.parent.iterdir()}
    assert left == {"checkpoint", "small", "exact"}  # the temporary conversion is gone


def test_gguf_decoders_are_compared_too(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    bundle = convert(checkpoint, tmp_path / "gguf", encoder="fp32", decoders={"onnx": "fp32", "gguf": "f16"})
    found = verify(bundle, against=checkpoint)
    assert found.failures == ()
    assert 0 < found.figures["decoder.gguf"]["max_abs"] < 0.05 and found.figures["decoder.gguf"]["token_exact"] >= 0.99


def test_another_models_weights_are_noticed(checkpoint: Path, small: Bundle, tmp_path: Path) -> None:
    """The worst that can go wrong: everything is whole, and it is the wrong model."""
    from tiny_checkpoint import random_arrays, write_safetensors

    arrays = {f"thinker.{name}": array for name, array in random_arrays(seed=1).items()}
    write_safetensors(checkpoint / "model.safetensors", arrays)
    found = verify(small.path, against=checkpoint)
    assert any(failure.startswith("encoder at int8: cosine of the worst frame") for failure in found.failures)
    assert any("nats from the reference" in failure for failure in found.failures)
    assert all("Try --" in failure for failure in found.failures)
    with pytest.raises(ExportError, match=r"too far from its checkpoint: encoder .*decoder\.onnx at int8"):
        check_conversion(small, checkpoint)


def test_a_bundle_altered_after_its_verification(checkpoint: Path, small: Bundle) -> None:
    verify(small.path, against=checkpoint)
    description = small.path / "bundle.json"
    data = json.loads(description.read_text())
    tokenizer = small.path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(BundleCorruptError, match=r"tokenizer\.json was altered"):
        verify(small.path)
    import hashlib

    for file in data["files"]:  # somebody who knows the format mends the checksums as well
        path = small.path / file["name"]
        file |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    description.write_text(json.dumps(data))
    (failure,) = verify(small.path).failures
    assert "altered after its verification" in failure


def test_files_of_any_size_are_hashed(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnet.bundle.HASH_ON_OPEN_BYTES", 0)  # as if each file were larger than what opening hashes
    path = small.path / "decoder.onnx.data"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    read_bundle(small.path)
    with pytest.raises(BundleCorruptError, match=r"decoder\.onnx\.data was altered"):
        verify(small.path)


def test_bundles_of_other_families_have_their_files_checked(tmp_path: Path) -> None:
    bundle = write_parity(make_bundle(tmp_path / "fake"), {"weights": 3, "files": "theirs", "audio": {"max_abs": 0.5}})
    found = verify(bundle.path)
    assert found.failures == () and "weights: 3\n" in found.table() and "max_abs" in found.table()
    (bundle.path / "weights").write_bytes(b"more")
    with pytest.raises(BundleCorruptError, match="weights was altered"):
        verify(bundle.path)


@pytest.mark.parametrize(("part", "figures"), [
    ("encoder", {"min_frame_cosine": 0.9}),
    ("decoder.onnx", {"kl": 9.0, "token_exact": 1.0}),
    ("decoder.onnx", {"kl": float("nan"), "token_exact": 1.0}),
])  # fmt: skip
def test_each_limit_names_the_part_and_the_way_out(part: str, figures: dict[str, float]) -> None:
    for (limited, precision), limit in LIMITS.items():
        if limited == part:
            (failure,) = judge({part: precision}, {part: figures})
            assert failure.startswith(f"{part} at {precision}: ") and limit.instead in failure


def test_without_rounding_the_tokens_have_to_be_the_same() -> None:
    figures = {"decoder.onnx": {"kl": 0.0, "token_exact": 0.9}}
    (failure,) = judge({"decoder.onnx": "fp32"}, figures)
    assert "90.0% of the tokens are the same, at least 99% is asked" in failure
    assert list(judge({"decoder.onnx": "int8"}, figures)) == []


def test_the_table_has_a_limit_for_every_precision_on_offer() -> None:
    from linnet.export import gguf, qwen3_asr_decoder, qwen3_asr_encoder

    offered = {("encoder", one) for one in qwen3_asr_encoder.PRECISIONS}
    offered |= {("decoder.onnx", one) for one in qwen3_asr_decoder.PRECISIONS}
    offered |= {("decoder.gguf", one) for one in gguf.PRECISIONS}
    assert set(LIMITS) == offered


def test_error_rates_count_only_if_the_difference_is_real() -> None:
    row = {"language": "en", "wer_difference": 0.05, "wer_low": 0.01, "wer_high": 0.09}
    precision = {"encoder": "int8", "decoder.onnx": "int8"}
    (failure,) = judge(precision, {"audio": [row]})
    assert "+5.00% word errors" in failure and "--decoder int8-careful" in failure
    assert list(judge(precision, {"audio": [row | {"wer_low": -0.01}]})) == []
    assert list(judge(precision, {"audio": [row | {"wer_difference": None}]})) == []


def test_texts_are_compared_per_language(tmp_path: Path) -> None:
    from linnet.audio import write_audio

    texts = {"a": ("en", "one two three four"), "b": ("en", "five six"), "c": ("zh", "你好"), "d": ("en", None)}
    lines = []
    for name, (language, text) in texts.items():
        write_audio(tmp_path / f"{name}.wav", np.full(1600, 0.1, np.float32), 16_000)
        entry = {"audio_filepath": f"{name}.wav", "duration": 0.1, "language": language, "id": name}
        lines.append(json.dumps(entry | ({} if text is None else {"text": text})))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    heard = {"a": "one two three", "b": "five six", "c": "你好", "d": "hello there"}
    reference = {"a": "one two three four", "b": "five six", "c": "你好", "d": "hello"}
    rows = compare_text(
        FakeRecognizer(tmp_path / "x", heard), FakeRecognizer(tmp_path / "y", reference), tmp_path / "manifest.jsonl"
    )
    by_language = {row.language: row for row in rows}
    assert list(by_language) == ["all", "en", "zh"]
    english = by_language["en"]
    assert (english.utterances, english.words) == (2, 6)
    assert english.wer == pytest.approx(1 / 6) and english.reference_wer == 0
    assert english.wer_difference == pytest.approx(1 / 6)
    assert english.disagreement == pytest.approx(2 / 7)  # "four" is missing, "there" is more than the reference said
    assert by_language["zh"].wer_difference == 0
    assert english.wer_low is not None and english.wer_high is not None and english.wer_low <= 1 / 6 <= english.wer_high


def test_probe_clips_are_short_middle_and_long() -> None:
    lengths = [len(clip) / 16_000 for clip in probe_clips(16_000)]
    assert lengths[0] == 0.5 and 1 < lengths[1] < 8 < lengths[2] == 20  # one window is 8 s
    assert all(np.abs(clip).max() > 0.01 for clip in probe_clips(16_000))


def test_what_cannot_be_compared(checkpoint: Path, small: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"need something to differ from: give --against"):
        verify(small.path, audio=tmp_path / "m.jsonl")
    with pytest.raises(ConfigError, match="neither a checkpoint folder"):
        verify(small.path, against=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"different networks"):
        verify(small.path, against="nano")
    with pytest.raises(ConfigError, match="of family 'bsq'"):
        verify(dataclasses.replace(small, family="bsq"), against=checkpoint)
    shutil.copytree(checkpoint, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        verify(small.path, against=tmp_path / "cut")


def test_the_verb(checkpoint: Path, small: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(small.path), "--against", str(checkpoint), "--threads", "1"])
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    for line in ("files are as they were written", "encoder: worst frame's cosine 0.9", "decoder.onnx: ", "weights of"):
        assert line in shown.out
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(small.path), "--json"])
    assert ended.value.code == 0 and json.loads(capsys.readouterr().out)["failures"] == []
