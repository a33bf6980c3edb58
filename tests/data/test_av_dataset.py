"""Audio-visual examples: the cache of mouths, modality dropout, and augmentation that keeps lips and voice together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from linnet.data.augment import NO_AUGMENT
from linnet.data.av_dataset import AVDataset, VideoAugment, augment_video, change_speed
from linnet.data.clips import Clips
from linnet.data.video import Mouths, load_mouths
from linnet.features import FeatureSpec
from linnet.manifest import Utterance
from test_video import write_video

MEL = FeatureSpec(n_mels=40)


def clips(count: int) -> Clips:
    rng = np.random.default_rng(0)
    samples = (3000 * rng.standard_normal(16_000 * count)).astype(np.int16)
    return Clips(samples, np.arange(count + 1, dtype=np.int64) * 16_000)


def mouths(frames: list[int]) -> Mouths:
    pictures = np.random.default_rng(1).integers(0, 256, (sum(frames), 16, 16)).astype(np.uint8)
    return Mouths(pictures, np.cumsum([0, *frames]), 0, 0)


def dataset(frames: list[int], **options: object) -> AVDataset:
    settings: dict[str, object] = {"augment": None, "video_augment": None, "drop_audio": 0.0, "drop_video": 0.0}
    return AVDataset(
        clips(len(frames)),
        mouths(frames),
        [[1]] * len(frames),
        features=MEL,
        seed=0,
        **(settings | options),  # type: ignore[arg-type]
    )


def test_mouths_are_cached_and_bad_videos_cost_only_their_pictures(tmp_path: Path) -> None:
    pytest.importorskip("av")
    good = write_video(tmp_path / "good.mp4", list(range(0, 800, 40)))
    one = write_video(tmp_path / "one.mp4", [0])
    names: list[Path | None] = [good, None, one, tmp_path / "gone.mp4", good]
    utterances = [Utterance(audio_path=tmp_path / "a.wav", duration_s=1.0, video_path=name) for name in names]
    seen: list[tuple[int, int]] = []
    found = load_mouths(utterances, tmp_path / "cache", size_px=16, progress=lambda *done: seen.append(done))
    assert [found.frames(i) for i in range(5)] == [20, 0, 0, 0, 20] and seen[-1] == (5, 5)
    assert (found.without_video, found.unreadable) == (1, 2)
    (named,) = (tmp_path / "cache").glob("*.unreadable.txt")
    assert "1 video frames" in named.read_text() and "gone.mp4" in named.read_text()
    again = load_mouths(utterances, tmp_path / "cache", size_px=16, progress=lambda *done: pytest.fail("cropped twice"))
    assert np.array_equal(again[4], found[0])
    assert load_mouths(utterances[:1], tmp_path / "cache", size_px=32)[0].shape == (20, 32, 32)


def test_the_manifest_may_say_that_a_video_is_a_crop(tmp_path: Path) -> None:
    pytest.importorskip("av")
    large = write_video(tmp_path / "large.mp4", list(range(0, 800, 40)), width=200, height=200)
    utterance = Utterance(
        audio_path=tmp_path / "a.wav", duration_s=1.0, video_path=large, extra={"video_crop": "mouth"}
    )
    assert load_mouths([utterance], tmp_path / "cache", size_px=16).frames(0) == 20


def test_modality_dropout_drops_one_stream_as_often_as_asked_and_never_both() -> None:
    data = dataset([25, 0], drop_audio=0.3, drop_video=0.5)
    drawn = [data[(epoch, 0)] for epoch in range(400)]
    deaf = sum(example.mel.shape[1] == 0 for example in drawn)
    blind = sum(len(example.video) == 0 for example in drawn)
    assert all(example.mel.shape[1] or len(example.video) for example in drawn)
    assert abs(deaf - 120) < 40 and abs(blind - 200) < 45  # four standard deviations
    assert all(data[(epoch, 1)].mel.shape[1] == 100 for epoch in range(50))  # the only stream stays


def test_an_example_follows_from_its_key() -> None:
    data = dataset([25], augment=replace(NO_AUGMENT, noise_probability=1.0, speed=(0.8, 1.2)),
                   video_augment=VideoAugment(), drop_audio=0.2, drop_video=0.2)  # fmt: skip
    first, again, other = data[(3, 0)], data[(3, 0)], data[(4, 0)]
    assert np.array_equal(first.mel, again.mel) and np.array_equal(first.video, again.video)
    assert first.mel.shape != other.mel.shape or not np.array_equal(first.mel, other.mel)


def test_augmentation_grows_over_its_ramp() -> None:
    loud = replace(NO_AUGMENT, gain_db=(10.0, 10.0))
    plain, ramped = dataset([25]), dataset([25], augment=loud, ramp_epochs=2)
    gains = [float((ramped[(epoch, 0)].mel - plain[(epoch, 0)].mel).mean()) for epoch in range(3)]
    assert np.allclose(gains, [0.0, 0.125, 0.25], atol=1e-3)  # 10 dB are 0.25 on Whisper's scale


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_keeps_lips_and_voice_together(speed: float) -> None:
    ramp = np.tile(np.linspace(0, 1, 400, dtype=np.float32), (40, 1))
    video: npt.NDArray[np.uint8] = np.tile(np.arange(100, dtype=np.uint8)[:, None, None], (1, 16, 16))
    mel, pictures = change_speed(ramp, video, speed)
    assert abs(mel.shape[1] / 4 - len(pictures)) <= 1
    for step in range(1, len(pictures) - 1):  # what is heard at a step and what is seen come from the same moment
        assert abs(mel[0, 4 * step] * 100 - pictures[step, 0, 0]) <= 1.5


def test_pictures_move_together_and_only_a_stretch_is_hidden() -> None:
    video = np.zeros((50, 16, 16), np.uint8)
    video[:, 8, 8] = 255
    config = VideoAugment(contrast=(1.0, 1.0), hide_probability=1.0)
    changed = augment_video(video, config, np.random.default_rng(5))
    hidden = (changed == 128).all(axis=(1, 2))
    assert 0 < hidden.sum() <= 12 and np.diff(np.flatnonzero(hidden)).max(initial=1) == 1
    spots = {tuple(np.argwhere(picture > 200)[0]) for picture in changed[~hidden]}
    assert len(spots) == 1
