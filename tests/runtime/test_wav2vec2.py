"""The wav2vec 2.0 recogniser: chunks tile, local networks hear the same in chunks as whole, words have times."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linnet.audio import read_audio
from linnet.bundle import Bundle
from linnet.cli import main
from linnet.ctc import CtcResult
from linnet.errors import BundleCorruptError, BundleError, ConfigError, LanguageError
from linnet.export.wav2vec2 import convert
from linnet.models.wav2vec2.checkpoint import save_checkpoint
from linnet.models.wav2vec2.model import Wav2Vec2ForCTC, initialise
from linnet.runtime.loader import load_model
from linnet.runtime.wav2vec2 import Wav2Vec2Recognizer, chunk_plan
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.runtime.wav2vec2_vocabulary import Vocabulary, vocabulary_of

VOCABULARY = vocabulary_of([("zero one two", "en")])
SMALL = Wav2Vec2Config(
    conv_dim=(12,) * 7,
    norm="layer",
    conv_bias=True,
    pre_norm=True,
    hidden_size=24,
    layers=2,
    heads=2,
    ffn_dim=32,
    position_kernel=16,
    position_groups=4,
    vocab_size=len(VOCABULARY.labels),
)


@given(frames=st.integers(1, 500), chunk=st.integers(3, 90), margin=st.integers(0, 20))
def test_chunks_tile_the_clip_with_context_on_both_sides(frames: int, chunk: int, margin: int) -> None:
    if chunk <= 2 * margin:
        with pytest.raises(ConfigError, match="keeps nothing"):
            chunk_plan(frames, chunk=chunk, margin=margin)
        return
    plan = chunk_plan(frames, chunk=chunk, margin=margin)
    assert plan[0][1] == 0 and plan[-1][2] == frames
    assert all(a[2] == b[1] for a, b in itertools.pairwise(plan))
    for first, start, end in plan:
        assert 0 <= first <= start < end <= min(first + chunk, frames)
        assert start == 0 or start - first >= margin
        assert end == frames or first + chunk - end >= margin


def bundle_of(folder: Path, *, local: bool) -> Bundle:
    """Random weights; a `local` network has attention switched off."""
    torch.manual_seed(3)
    model = Wav2Vec2ForCTC(SMALL)
    initialise(model, std=0.2)
    if local:
        with torch.no_grad():
            for layer in model.wav2vec2.encoder.layers:
                layer.attention.out_proj.weight.zero_()
    save_checkpoint(folder / "checkpoint", model.state_dict(), SMALL, VOCABULARY)
    return convert(folder / "checkpoint", folder / "bundle", precision="fp32", languages=["en"])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("local"), local=True)


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("attentive"), local=False)


def test_in_chunks_a_local_network_hears_exactly_what_it_hears_whole(local: Bundle, clip: Path) -> None:
    samples = read_audio(clip)[: 3 * 16_000 + 123]
    whole = Wav2Vec2Recognizer(local, threads=1, chunk_s=60.0).log_probs(samples)
    for chunk_s, margin_s in ((1.0, 0.2), (0.7, 0.3), (2.96, 0.2)):  # the position kernel reaches 8 frames, 0.16 s
        chunked = Wav2Vec2Recognizer(local, threads=1, chunk_s=chunk_s, margin_s=margin_s).log_probs(samples)
        assert chunked.shape == whole.shape == (SMALL.frames(len(samples)), SMALL.vocab_size)
        np.testing.assert_allclose(chunked, whole, atol=1e-4)  # the same sums in blocks of other sizes
    # Without context the edges do differ, so the margin is what makes them agree.
    bare = Wav2Vec2Recognizer(local, threads=1, chunk_s=1.0, margin_s=0.0).log_probs(samples)
    assert np.abs(bare - whole).max() > 1e-2


def test_short_and_silent_clips_have_no_words_and_no_nan(attentive: Bundle) -> None:
    recognizer = load_model(attentive.path, threads=1)
    assert isinstance(recognizer, Wav2Vec2Recognizer)
    noise = np.random.default_rng(0).standard_normal(399).astype(np.float32)
    assert recognizer.log_probs(noise).shape == (0, SMALL.vocab_size)
    assert recognizer.log_probs(np.zeros(16_000, np.float32)).shape == (0, SMALL.vocab_size)
    assert np.isfinite(recognizer.log_probs(np.pad(noise, (0, 1)))).all()
    found = recognizer.transcribe(np.zeros(16_000, np.float32))
    assert found.text == "" and found.segments == () and found.language is None
    recognizer.close()


@pytest.mark.parametrize("decoding", ["greedy", "beam"])
def test_words_lie_inside_the_speech(attentive: Bundle, clip: Path, decoding: str) -> None:
    recognizer = Wav2Vec2Recognizer(attentive, threads=1, decoding=decoding)  # type: ignore[arg-type]
    seen: list[tuple[float, float]] = []
    found = recognizer.transcribe(clip, progress=lambda done, total: seen.append((done, total)))
    assert found.language == "en" and found.segments and seen[-1][0] == pytest.approx(found.duration_s)
    words = [word for segment in found.segments for word in segment.words]
    assert found.text.split() == [word.text for word in words]
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= found.duration_s + 0.02
    assert all(0 < (word.confidence or 0) <= 1 for word in words)


def test_what_the_model_cannot_do_is_an_error(attentive: Bundle, clip: Path, tmp_path: Path) -> None:
    recognizer = Wav2Vec2Recognizer(attentive, threads=1)
    with pytest.raises(LanguageError, match="made for en"):
        recognizer.transcribe(clip, language="fr")
    with pytest.raises(ConfigError, match="reads no context"):
        recognizer.transcribe(clip, context="Linnet")
    with pytest.raises(ConfigError, match="accepted: 'greedy', 'beam'"):
        Wav2Vec2Recognizer(attentive, decoding="viterbi")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no gguf decoder"):
        load_model(attentive.path, decoder="gguf")
    with pytest.raises(BundleCorruptError, match="not those of wav2vec"):
        Wav2Vec2Recognizer(replace(attentive, model={"layers": 3, "wings": 2}))
    with pytest.raises(BundleCorruptError, match="has 9 labels, the model 12"):
        Wav2Vec2Recognizer(replace(attentive, model=attentive.model | {"vocab_size": 12}))


def test_the_lm_verb_puts_a_model_into_the_bundle(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    bundle = bundle_of(tmp_path, local=True)
    (tmp_path / "text.txt").write_text("Zero one two.\nOne, zero!\ntwo two one\n")
    with pytest.raises(SystemExit) as ended:
        main(
            ["lm", str(tmp_path / "text.txt"), str(tmp_path / "lm.arpa"), "--order", "2", "--bundle", str(bundle.path)]
        )
    assert ended.value.code == 0
    out = capsys.readouterr()
    assert "6 1-grams" in out.err and out.out.splitlines() == [str(tmp_path / "lm.arpa"), str(bundle.path)]
    recognizer = load_model(bundle.path, threads=1)
    assert recognizer.bundle.provenance["language_model"] == {"text": "text.txt", "order": 2}
    assert set(recognizer.transcribe(clip).text.split()) <= {"zero", "one", "two"}
    recognizer.close()
    with pytest.raises(SystemExit) as ended:
        main(["lm", str(tmp_path / "nowhere.txt"), str(tmp_path / "lm.arpa")])
    assert ended.value.code == 1 and "cannot be read" in capsys.readouterr().err
    with pytest.raises(BundleError):
        load_model(tmp_path)


def test_labels_become_words(tmp_path: Path) -> None:
    capitals = Vocabulary(("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "'"))
    assert capitals.encode("Ab, a'b") == ([5, 6, 4, 5, 7, 6], set())  # another case is the same letter
    assert capitals.encode("abc") == ([5, 6], {"c"})
    result = CtcResult(
        (4, 5, 3, 6, 4, 4, 7, 4), (0, 1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 6, 7, 8), (1, 0.25, 1, 1, 1, 1, 0.5, 1), 0.0
    )
    words = capitals.words(result, offset_s=10)
    assert [(word.text, word.start_s, word.end_s, word.confidence) for word in words] == [
        ("AB", 11, 14, 0.5),
        ("'", 16, 17, 0.5),
    ]
    mixed = vocabulary_of([("你好", "zh"), ("ok", "en")])
    tokens = tuple(mixed.labels.index(char) for char in "你好ok")
    result = CtcResult(tokens, (0, 1, 2, 3), (1, 2, 3, 4), (1.0,) * 4, 0.0)
    assert [word.text for word in mixed.words(result)] == ["你", "好", "ok"]
    assert vocabulary_of([("aab", "en")], min_count=2).labels == ("<pad>", "|", "a")


def test_frames_and_receptive_field() -> None:
    base = Wav2Vec2Config()
    assert (base.stride, base.receptive_field, base.frame_s) == (320, 400, 0.02)
    assert [base.frames(n) for n in (0, 399, 400, 719, 720, 16_000)] == [0, 0, 1, 1, 2, 49]
    with pytest.raises(ConfigError, match="heads"):
        replace(base, heads=5)
