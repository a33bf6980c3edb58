"""Video on the clock of its sound: rates, timestamps, rotation, and everything that can be wrong with a file."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from linnet.audio import write_audio
from linnet.errors import AudioNotFoundError, VideoContentError, VideoDecodeError
from linnet.video import read_timing, stream_frames, tracks

av = pytest.importorskip("av")
TICK_MS = 1


def write_video(
    path: Path, times_ms: list[int], *, width: int = 64, height: int = 64, sound_s: float = 0.0, values: bool = True
) -> Path:
    """A video whose frame at t ms has the grey value t / 10, so that a picture tells its time; lossless as .mkv."""
    codec, pixels = ("ffv1", "gray") if path.suffix == ".mkv" else ("mpeg4", "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = Fraction(TICK_MS, 1000)
        sound = container.add_stream("flac", rate=16_000, layout="mono") if sound_s else None
        for time_ms in times_ms:
            grey = np.full((height, width), time_ms // 10 if values else 90, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format=pixels)
            frame.pts, frame.time_base = time_ms, Fraction(TICK_MS, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            block = av.AudioFrame.from_ndarray(np.zeros((1, int(16_000 * sound_s)), np.int16), "s16", "mono")
            block.sample_rate, block.pts = 16_000, 0
            for plain in av.AudioResampler(format="s16", layout="mono", rate=16_000).resample(block):
                container.mux(sound.encode(plain))
            container.mux(sound.encode(None))
    return path


def seen(path: Path, rate_hz: float = 25.0) -> npt.NDArray[np.float64]:
    """What each tick shows, as the time in ms that is written into the picture."""
    timing = read_timing(path)
    return np.array([10 * np.median(frame.astype(float)) for frame in stream_frames(path, timing, rate_hz=rate_hz)])


@pytest.mark.parametrize("fps", [24, 25, 30, 50])
def test_any_rate_comes_out_on_the_same_clock(tmp_path: Path, fps: int) -> None:
    path = write_video(tmp_path / "a.mkv", [round(1000 * i / fps) for i in range(2 * fps)])
    shown = seen(path)
    middles_ms = (np.arange(50) + 0.5) * 40
    assert len(shown) == 50
    # The frame that a player shows then began at most one frame ago; a grey level stands for 10 ms.
    age_ms = middles_ms - shown
    assert age_ms.min() >= 0 and age_ms.max() <= 1000 / fps + 10


def test_variable_rate_follows_the_timestamps(tmp_path: Path) -> None:
    times_ms = [*range(0, 400, 40), *range(400, 1600, 200), *range(1600, 2000, 20)]
    shown, middles_ms = seen(write_video(tmp_path / "a.mkv", times_ms)), (np.arange(50) + 0.5) * 40
    expected = np.array([max(t for t in times_ms if t <= middle) for middle in middles_ms[: len(shown)]])
    assert np.abs(shown - expected).max() < 10


def test_unusable_timestamps_are_spread_over_the_sound(shared: Path) -> None:
    path = shared / "data" / "av" / "s2_l_bbim3a.mp4"  # 68 frames, every one of them at time 0
    timing = read_timing(path, audio_duration_s=2.77)
    assert timing.spread and len(timing.start_s) == 68
    assert timing.ticks(25.0).tolist() == sorted(timing.ticks(25.0).tolist()) and len(timing.ticks(25.0)) == 69
    assert timing.end_s == 2.77


def test_a_real_clip_keeps_all_its_frames(shared: Path) -> None:
    timing = read_timing(shared / "data" / "av_grid" / "grid_bbaf2n.mpg")
    assert not timing.spread and timing.ticks(25.0).tolist() == list(range(75))


def test_size_and_portrait_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(range(0, 400, 40)), width=48, height=96)
    timing = read_timing(path)
    assert (timing.width_px, timing.height_px) == (48, 96)
    frames = list(stream_frames(path, timing, rate_hz=25.0, size_px=(24, 32)))
    assert {frame.shape for frame in frames} == {(32, 24)} and len(frames) == 10


def test_what_a_file_has(tmp_path: Path, clip: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", list(range(0, 400, 40)))
    both = write_video(tmp_path / "both.mp4", list(range(0, 400, 40)), sound_s=0.5)
    (tmp_path / "text.mp4").write_text("no video at all")
    assert tracks(silent) == (False, True) and tracks(both) == (True, True)
    assert tracks(clip) == (True, False)
    assert tracks(tmp_path / "text.mp4") == (True, False)
    assert tracks(io.BytesIO(both.read_bytes())) == (True, True)


def test_one_frame_shows_no_movement(tmp_path: Path) -> None:
    with pytest.raises(VideoContentError, match="1 video frames"):
        read_timing(write_video(tmp_path / "a.mp4", [0]))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(16_000, np.float32), 16_000)
    with pytest.raises(VideoDecodeError, match="no video track"):
        read_timing(tmp_path / "a.wav")


def test_missing_file_and_garbage(tmp_path: Path) -> None:
    with pytest.raises(AudioNotFoundError, match="no file"):
        read_timing(tmp_path / "none.mp4")
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    with pytest.raises(VideoDecodeError, match="damaged"):
        read_timing(tmp_path / "a.mp4")


def test_a_video_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(range(0, 2000, 40)))
    path.write_bytes(path.read_bytes()[:-400])  # the index of an MP4 comes last
    with pytest.raises(VideoDecodeError, match="cut short"):
        read_timing(path)


def test_frames_that_cannot_be_decoded_are_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", list(range(0, 2000, 40)), width=64, height=64)
    timing = read_timing(path)
    whole = bytearray(path.read_bytes())
    for start in range(len(whole) // 2, len(whole) - 200, 97):
        whole[start] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(VideoDecodeError, match="frames"):
        list(stream_frames(path, timing, rate_hz=25.0))
