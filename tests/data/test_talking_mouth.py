"""The synthetic corpus: the same bytes from the same call, mouths that follow the sound, splits that share nobody."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from linnet.audio import read_audio
from linnet.data.corpora.espeak_events import speak
from linnet.data.corpora.grid import GRAMMAR
from linnet.data.corpora.mouth_shapes import VISEMES, draw_face, draw_mouth, shape_track, viseme
from linnet.data.corpora.talking_mouth import VARIANTS, speakers, synthesize
from linnet.errors import ConfigError
from linnet.lips import read_mouth
from linnet.manifest import read_manifest

pytest.importorskip("av")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mouths")
    synthesize(folder, speaker_count=10, clips=1, seed=5, workers=1)
    return folder


@needs_espeak
def test_the_same_call_writes_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    synthesize(tmp_path, speaker_count=10, clips=1, seed=5, workers=2)
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert len(files) == 13
    assert all((corpus / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


@needs_espeak
def test_splits_share_no_speaker_and_every_clip_has_sound_pictures_and_a_sentence(corpus: Path) -> None:
    splits = {split: read_manifest(corpus / f"{split}.jsonl") for split in ("train", "dev", "test")}
    names = [{utterance.speaker for utterance in utterances} for utterances in splits.values()]
    assert [len(name) for name in names] == [8, 1, 1] and len(set.union(*names)) == 10
    for utterance in splits["dev"] + splits["test"]:
        assert utterance.text is not None and utterance.video_path is not None
        assert all(word in row for word, row in zip(utterance.text.split(), GRAMMAR, strict=True))
        samples = read_audio(utterance.audio_path)
        mouth = read_mouth(utterance.video_path, size_px=32)
        assert abs(len(samples) / 16_000 - len(mouth.frames) / 25) < 0.041
        assert mouth.looks == 0 and np.abs(np.diff(mouth.frames.astype(float), axis=0)).mean(axis=(1, 2)).max() > 1


@needs_espeak
def test_phonemes_come_with_the_times_at_which_they_sound() -> None:
    spoken = speak("pa", voice="en-us+m1", pitch=50, words_per_minute=120)
    names, starts = [name for name, _ in spoken.phonemes], [start for _, start in spoken.phonemes]
    assert names[0] == "p" and starts == sorted(starts)
    wave = np.frombuffer(spoken.pcm, "<i2").astype(float)
    vowel = round(starts[1] * spoken.rate_hz)
    assert np.abs(wave[vowel : vowel + 2000]).mean() > 3 * np.abs(wave[: max(1, vowel // 2)]).mean()
    again = speak("pa", voice="en-us+m1", pitch=50, words_per_minute=120)
    assert again == spoken
    with pytest.raises(RuntimeError, match="nobody"):
        speak("pa", voice="nobody", pitch=50, words_per_minute=120)


def test_sounds_that_look_alike_share_a_shape() -> None:
    assert viseme("p") == viseme("b") == viseme("m") == "p"
    assert viseme("t#") == viseme("d") == viseme("n") and viseme("tS") == viseme("dZ") == "ch"
    assert viseme("_:") == "rest" and viseme("") == "rest" and viseme("¿") == "uh"
    assert all(viseme(vowel) not in ("rest", "p") for vowel in ("aI", "i:", "u:", "@", "3:", "O:", "eI", "A:"))


def test_the_mouth_closes_on_p_and_opens_on_ah() -> None:
    times_s = np.arange(0, 0.6, 0.02, dtype=np.float32)
    track = shape_track([("A:", 0.1), ("p", 0.3), ("A:", 0.4)], 0.6, times_s)
    opening = track[:, 1]
    assert opening[np.searchsorted(times_s, 0.2)] > 0.8 and opening[np.searchsorted(times_s, 0.35)] < 0.05
    assert opening[0] == pytest.approx(VISEMES["rest"][1])
    face = draw_face(random.Random(1))
    pictures = draw_mouth(face, track, size_px=64, rng=np.random.default_rng(0))
    inside = (pictures < 255 * (face.inside + 0.1)).sum(axis=(1, 2))
    assert inside[np.searchsorted(times_s, 0.2)] > 5 * max(1, inside[np.searchsorted(times_s, 0.35)])


def test_speakers_are_all_different_and_bad_counts_are_named() -> None:
    known = speakers(len(VARIANTS), seed=0)
    assert len({speaker.voice.split("+")[1] for speaker in known}) == len(known)
    assert known[:12] == speakers(12, seed=0)
    for count in (9, len(VARIANTS) + 1):
        with pytest.raises(ConfigError, match="accepted: 10"):
            speakers(count, seed=0)
