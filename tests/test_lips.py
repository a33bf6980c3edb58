"""Mouth pictures: found in real faces, smooth over time, honest where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linnet.errors import ConfigError, MissingExtraError, VideoContentError
from linnet.lips import read_mouth, smooth_boxes
from test_video import write_video

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize(
    "name", ["av_grid/grid_bbaf2n.mpg", "av_grid/grid_lwbsza.mpg", "av/s2_l_brbi2s.mp4", "av/s3_p_bbbn6n.mp4"]
)
def test_mouths_of_real_people_are_found_and_move(shared: Path, name: str) -> None:
    mouth = read_mouth(shared / "data" / name, size_px=32, audio_duration_s=2.4)
    assert mouth.faces >= 0.9 * mouth.looks > 0
    assert mouth.frames.shape[1:] == (32, 32) and mouth.frames.dtype == np.uint8
    # The lips move and the rest of the face hardly does: the change is in the middle of the crop, not at its rim.
    change = np.abs(np.diff(mouth.frames.astype(float), axis=0)).mean(axis=0)
    rim = np.concatenate([change[:5].ravel(), change[-5:].ravel()])
    assert change[10:24, 8:24].mean() > 1.2 * rim.mean()


def test_a_video_without_a_face_says_how_often_it_looked(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wall.mp4", list(range(0, 1000, 40)), width=320, height=240)
    with pytest.raises(VideoContentError, match=r"found in 0 of 5 frames"):
        read_mouth(path, size_px=32)


def test_small_videos_are_mouths_already(tmp_path: Path) -> None:
    path = write_video(tmp_path / "mouth.mp4", list(range(0, 1000, 40)), width=96, height=64)
    mouth = read_mouth(path, size_px=32)
    assert mouth.looks == 0 and mouth.frames.shape == (25, 32, 32)
    with pytest.raises(VideoContentError, match="found in 0"):
        read_mouth(path, size_px=32, crop="face")
    large = write_video(tmp_path / "large.mp4", list(range(0, 400, 40)), width=320, height=320)
    assert read_mouth(large, size_px=48, crop="mouth").frames.shape == (10, 48, 48)
    with pytest.raises(ConfigError, match="crop"):
        read_mouth(path, size_px=32, crop="nose")  # type: ignore[arg-type]


def test_missing_faces_keep_the_last_box_and_false_alarms_go() -> None:
    boxes = np.tile([100.0, 80.0, 50.0], (12, 1))
    boxes[3] = (10.0, 10.0, 200.0)  # one false alarm
    found = np.ones(12, bool)
    found[[0, 6, 7]] = False
    boxes[~found] = 0
    assert np.array_equal(smooth_boxes(boxes, found), np.tile([100.0, 80.0, 50.0], (12, 1)))


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "face.mp4", list(range(0, 400, 40)), width=320, height=240)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"linnet\[lips\]"):
        read_mouth(path, size_px=32)
