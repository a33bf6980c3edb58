"""Training examples: what a key says is what comes out, always the same; joined clips are one speaker's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet.data.augment import NO_AUGMENT, AugmentConfig
from linnet.data.clips import Clips
from linnet.data.dataset import Part, SpeechDataset, joined_parts, single_parts
from linnet.features import WHISPER_128, log_mel
from linnet.manifest import Utterance

SPEAKERS = ["ann", "ann", "bob", "ann", "bob", "bob"]
SECONDS = [0.6, 0.7, 0.8, 0.3, 1.0, 0.9]


@pytest.fixture
def clips() -> Clips:
    rng = np.random.default_rng(0)
    parts = [np.round(3000 * rng.standard_normal(int(seconds * 16_000))).astype(np.int16) for seconds in SECONDS]
    return Clips(np.concatenate(parts), np.cumsum([0, *map(len, parts)]))


@pytest.fixture
def utterances() -> list[Utterance]:
    return [
        Utterance(
            audio_path=Path(f"{index}.wav"),
            duration_s=seconds,
            text=f"word{index}",
            speaker=speaker,
            language="en",
            corpus="digits",
        )
        for index, (speaker, seconds) in enumerate(zip(SPEAKERS, SECONDS, strict=True))
    ]


def dataset(
    utterances: list[Utterance],
    clips: Clips,
    parts: list[Part],
    *,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    gap_s: tuple[float, float] = (0.02, 0.25),
) -> SpeechDataset:
    return SpeechDataset(utterances, clips, parts, features=WHISPER_128, augment=augment, seed=seed, gap_s=gap_s)


def test_single_clips_are_their_log_mel_and_text(utterances: list[Utterance], clips: Clips) -> None:
    data = dataset(utterances, clips, single_parts(clips))
    assert len(data) == 6
    for index in (0, 1, 2, 4, 5):
        example = data[(3, index)]
        assert np.array_equal(example.mel, log_mel(clips[index]))
        assert (example.text, example.language) == (f"word{index}", "en")


def test_short_clips_are_padded_to_half_a_second(utterances: list[Utterance], clips: Clips) -> None:
    example = dataset(utterances, clips, single_parts(clips))[(0, 3)]
    assert example.mel.shape == (128, 50)
    padded = np.concatenate([clips[3], np.zeros(8000 - 4800, np.float32)])
    assert np.array_equal(example.mel, log_mel(padded))


def test_neutral_augmentation_changes_nothing(utterances: list[Utterance], clips: Clips) -> None:
    plain, neutral = (dataset(utterances, clips, single_parts(clips), augment=a) for a in (None, NO_AUGMENT))
    assert np.array_equal(plain[(0, 1)].mel, neutral[(0, 1)].mel)


def test_an_example_follows_from_seed_epoch_and_index(utterances: list[Utterance], clips: Clips) -> None:
    augment = replace(AugmentConfig(), noise_probability=1.0, reverb_probability=0.5)
    parts = [*single_parts(clips), Part((0, 1), 1.4)]
    data = dataset(utterances, clips, parts, augment=augment)
    again = dataset(utterances, clips, parts, augment=augment)
    order = [(0, 6), (1, 6), (0, 2), (0, 6), (1, 2)]
    first = {key: data[key].mel for key in order}
    for key in reversed(order):  # in another order, by another object
        assert np.array_equal(again[key].mel, first[key])
    assert first[(0, 6)].shape != first[(1, 6)].shape or not np.array_equal(first[(0, 6)], first[(1, 6)])
    other = dataset(utterances, clips, parts, augment=augment, seed=1)[(0, 2)].mel
    assert other.shape != first[(0, 2)].shape or not np.array_equal(other, first[(0, 2)])


def test_augmentation_grows_over_the_first_epochs(utterances: list[Utterance], clips: Clips) -> None:
    augment = replace(NO_AUGMENT, gain_db=(8.0, 8.0))
    data = SpeechDataset(
        utterances,
        clips,
        single_parts(clips),
        features=WHISPER_128,
        augment=augment,
        seed=0,
        clean_epochs=1,
        ramp_epochs=3,
    )
    plain = log_mel(clips[0])
    # one decibel is 0.1 / 4 of a Whisper-scaled log-mel
    for epoch, gain_db in enumerate([0.0, 2.0, 4.0, 6.0, 8.0, 8.0]):
        np.testing.assert_allclose(data[(epoch, 0)].mel - plain, gain_db / 40, atol=1e-6)


def test_joined_clips_follow_each_other_with_a_gap(utterances: list[Utterance], clips: Clips) -> None:
    part = Part((0, 3, 0), 1.5)
    example = dataset(utterances, clips, [part], gap_s=(0.1, 0.1))[(0, 0)]
    gap = np.zeros(1600, np.float32)
    samples = np.concatenate([clips[0], gap, clips[3], gap, clips[0]])
    assert np.array_equal(example.mel, log_mel(samples))
    assert example.text == "word0 word3 word0"


def test_gaps_are_drawn_anew_for_each_epoch_within_their_bounds(utterances: list[Utterance], clips: Clips) -> None:
    data = dataset(utterances, clips, [Part((0, 1), 1.4)], gap_s=(0.02, 0.25))
    frames = {data[(epoch, 0)].mel.shape[1] for epoch in range(40)}
    assert min(frames) >= 132 and max(frames) <= 155  # 1.3 s of speech, 0.02 … 0.25 s of silence
    assert len(frames) > 5


def test_joined_chinese_has_no_spaces(utterances: list[Utterance], clips: Clips) -> None:
    chinese = [replace(utterance, language="zh", text="你好") for utterance in utterances]
    example = dataset(chinese, clips, [Part((0, 1), 1.4)])[(0, 0)]
    assert (example.text, example.language) == ("你好你好", "zh")


def test_joined_parts_are_of_one_speaker(utterances: list[Utterance], clips: Clips) -> None:
    mixed = [*utterances[:5], replace(utterances[5], corpus="other")]
    parts = joined_parts(mixed, clips, corpus="digits", count=200, most=4, seed=0)
    assert len(parts) == 200
    assert {len(part.clips) for part in parts} == {2, 3, 4}
    for part in parts:
        assert len({SPEAKERS[clip] for clip in part.clips}) == 1
        assert 5 not in part.clips
        speech_s = sum(SECONDS[clip] for clip in part.clips)
        assert speech_s < part.duration_s < speech_s + 0.25 * (len(part.clips) - 1)
    assert {SPEAKERS[part.clips[0]] for part in parts} == {"ann", "bob"}
    assert parts == joined_parts(mixed, clips, corpus="digits", count=200, most=4, seed=0)
    assert parts != joined_parts(mixed, clips, corpus="digits", count=200, most=4, seed=1)
    assert joined_parts(mixed, clips, corpus="absent", count=5, most=3, seed=0) == []


def test_babble_is_made_of_the_corpus_itself(utterances: list[Utterance], clips: Clips) -> None:
    augment = replace(NO_AUGMENT, noise_probability=1.0, snr_db=(0.0, 0.0))
    data = dataset(utterances, clips, single_parts(clips), augment=augment)
    picked: list[int] = []
    original = data._pick_speech

    def pick(rng: np.random.Generator) -> np.ndarray:
        samples = original(rng)
        picked.extend(index for index in range(6) if np.array_equal(samples, clips[index]))
        return samples

    data._pick_speech = pick  # type: ignore[method-assign]
    for epoch in range(20):
        _ = data[(epoch, 4)]
    assert len(set(picked)) == 6
