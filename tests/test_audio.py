"""Reading sound: rates, channels, containers, pipes, and every way in which a file can be broken."""

from __future__ import annotations

import io
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from linnet import containers
from linnet.audio import (
    AudioInfo,
    audio_info,
    check_samples,
    read_audio,
    resample,
    stream_audio,
    write_audio,
    write_blocks,
)
from linnet.errors import AudioContentError, AudioDecodeError, AudioNotFoundError, ConfigError, MissingExtraError


def tone(rate_hz: int, *, hz: float = 440.0, duration_s: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int, format: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=format, subtype=subtype)
    return file.getvalue()


class Pipe(io.BytesIO):
    """Bytes that can only be read forwards."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")


@pytest.fixture(scope="module")
def speech(clip: Path) -> np.ndarray:
    """About ten seconds of real speech at 16 kHz."""
    samples = read_audio(clip)
    return np.tile(samples, -(-160_000 // samples.size))[:160_000]


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000, 96_000])
def test_any_rate_becomes_16_khz(rate_hz: int) -> None:
    samples = read_audio(io.BytesIO(encoded(tone(rate_hz), rate_hz, "WAV")))
    assert samples.dtype == np.float32
    assert samples.shape == (16_000,)
    # the analytic tone is the oracle; 16-bit rounding is 1.5e-5, soxr HQ's pass-band ripple about 1e-5; edges ring
    np.testing.assert_allclose(samples[800:-800], tone(16_000)[800:-800], atol=2e-4)


def test_resampling_lets_no_alias_through() -> None:
    aliased = resample(tone(48_000, hz=11_000.0), 48_000, 16_000)
    assert np.abs(aliased[800:-800]).max() < 0.5 * 10 ** (-90 / 20)


def test_streaming_and_one_shot_resampling_agree(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000).astype(np.float32)  # more than one read block
    soundfile.write(tmp_path / "a.wav", noise, 44_100, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), resample(noise, 44_100, 16_000))


def test_channels_are_averaged_or_picked() -> None:
    six = np.stack([tone(16_000, hz=100.0 * (c + 1)) for c in range(6)], axis=1)
    file = io.BytesIO(encoded(six, 16_000, "WAV", "FLOAT"))
    np.testing.assert_allclose(read_audio(file), six.mean(axis=1), atol=1e-6)  # float32 summation order
    assert np.array_equal(read_audio(file, channels=4), six[:, 4])
    with pytest.raises(ConfigError, match=r"6 channels, got channels=6; accepted: 'mix' or 0…5"):
        read_audio(file, channels=6)


def test_integers_are_scaled_to_one_and_clipping_is_accepted() -> None:
    clipped = np.array([32767, -32768, 0, 16384] * 100, dtype=np.int16)
    samples = read_audio(io.BytesIO(encoded(clipped, 16_000, "WAV", "PCM_16")))
    assert np.array_equal(samples[:4], np.array([32767 / 32768, -1, 0, 0.5], dtype=np.float32))


def test_silence_is_audio() -> None:
    assert not read_audio(io.BytesIO(encoded(np.zeros(1600), 16_000, "FLAC"))).any()


def test_ten_milliseconds_and_one_sample_are_audio() -> None:
    assert read_audio(io.BytesIO(encoded(tone(16_000)[:160], 16_000, "WAV"))).shape == (160,)
    assert read_audio(io.BytesIO(encoded(tone(16_000)[:1], 16_000, "WAV"))).shape == (1,)


@pytest.mark.parametrize("block_s", [0.01, 0.37, 1.0, 30.0])
def test_stream_blocks_join_to_the_whole(speech: np.ndarray, block_s: float) -> None:
    file = io.BytesIO(encoded(speech, 16_000, "FLAC"))
    blocks = list(stream_audio(file, block_s=block_s))
    assert {block.size for block in blocks[:-1]} <= {round(block_s * 16_000)}
    assert 0 < blocks[-1].size <= round(block_s * 16_000)
    assert np.array_equal(np.concatenate(blocks), read_audio(file))


def test_three_hours_stream_in_bounded_memory(tmp_path: Path) -> None:
    seconds, rate_hz = 3 * 3600, 8_000
    with soundfile.SoundFile(tmp_path / "long.flac", "w", rate_hz, 1, "PCM_16") as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(60 * rate_hz, dtype=np.int16))
    tracemalloc.start()
    try:
        total = sum(block.size for block in stream_audio(tmp_path / "long.flac", sample_rate_hz=rate_hz))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == seconds * rate_hz
    assert peak < 16e6  # the whole recording is 346 MB


def test_pipes_and_standard_input_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(tone(16_000), 16_000, "FLAC")
    expected = read_audio(io.BytesIO(content))
    assert np.array_equal(read_audio(Pipe(content)), expected)
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Pipe(content)})())
    assert np.array_equal(read_audio("-"), expected)


def test_a_file_object_is_left_open_and_read_from_its_beginning() -> None:
    file = io.BytesIO(encoded(tone(16_000), 16_000, "WAV"))
    file.seek(100)
    assert read_audio(file).size == read_audio(file).size == 16_000
    assert not file.closed


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_written_audio_reads_back(tmp_path: Path, speech: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"speech{suffix}"
    write_audio(path, speech, 16_000)
    samples = read_audio(path)
    assert samples.shape == speech.shape
    # 16-bit rounding gives 1e-4 of this speech; lossy codecs 0.08; a shift by one MP3 frame, which players have to
    # skip, more than 1
    limit = 1e-3 if suffix in (".wav", ".flac") else 0.3
    assert np.sqrt(np.mean((samples - speech) ** 2) / np.mean(speech**2)) < limit
    assert audio_info(path) == AudioInfo(10.0, 16_000, 1, "ogg" if suffix == ".opus" else suffix[1:])


def test_write_clips_and_refuses(tmp_path: Path) -> None:
    write_audio(tmp_path / "loud.wav", np.array([2.0, -2.0, 0.5], dtype=np.float32), 16_000)
    np.testing.assert_allclose(read_audio(tmp_path / "loud.wav"), [1, -1, 0.5], atol=1 / 32768)
    with pytest.raises(ConfigError, match=r"use \.wav, \.flac"):
        write_audio(tmp_path / "a.xyz", tone(16_000), 16_000)
    with pytest.raises(ConfigError, match="Cannot write"):
        write_audio(tmp_path / "no" / "such" / "a.wav", tone(16_000), 16_000)
    with pytest.raises(AudioContentError, match="NaN"):
        write_audio(tmp_path / "nan.wav", np.array([np.nan], dtype=np.float32), 16_000)


def test_blocks_make_one_file_and_an_error_leaves_none(tmp_path: Path) -> None:
    speech = tone(16_000)
    write_audio(tmp_path / "whole.flac", speech, 16_000)
    write_blocks(tmp_path / "blocks.flac", np.split(speech, [1, 5_000]), 16_000)
    assert (tmp_path / "blocks.flac").read_bytes() == (tmp_path / "whole.flac").read_bytes()
    with pytest.raises(AudioContentError, match="NaN"):
        write_blocks(tmp_path / "bad.wav", [speech, np.array([np.nan], np.float32)], 16_000)
    assert not (tmp_path / "bad.wav").exists()
    before = (tmp_path / "whole.flac").read_bytes()
    for blocks, match in (([], "no samples"), ([speech, np.array([np.inf], np.float32)], "infinite")):
        with pytest.raises(AudioContentError, match=match):  # an error replaces nothing, however late it comes
            write_blocks(tmp_path / "whole.flac", blocks, 16_000)
    assert (tmp_path / "whole.flac").stat().st_size > 1000
    assert (tmp_path / "whole.flac").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks.flac", "whole.flac"]


# --- containers ---


@pytest.mark.parametrize("name", ["jfk.aac", "jfk.amr", "jfk.m4a", "jfk.mp3", "jfk.opus", "jfk.webm"])
def test_every_container_holds_the_same_speech(shared: Path, name: str) -> None:
    reference = read_audio(shared / "data/single/jfk.flac")
    samples = read_audio(shared / "data/formats" / name)
    assert abs(samples.size - reference.size) < 0.15 * 16_000  # raw AAC keeps its encoder delay, nothing says how long
    size = samples.size + reference.size
    product = np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(reference, size)), size)
    lag = int(np.argmax(product))
    # AMR keeps only the band below 3.4 kHz; a wrong rate or swapped channels would leave next to nothing
    assert product[lag] / np.linalg.norm(samples) / np.linalg.norm(reference) > 0.9
    assert min(lag, size - lag) < (0.15 if name == "jfk.aac" else 0.01) * 16_000


@pytest.mark.parametrize("suffix", ["aac", "flac", "mp3", "mp4", "ogg", "webm"])
def test_stereo_containers_give_the_same_duration(shared: Path, suffix: str) -> None:
    samples = read_audio(shared / f"data/formats/sonnet1_p001.{suffix}")
    assert samples.size / 16_000 == pytest.approx(8.99, abs=0.05)
    info = audio_info(shared / f"data/formats/sonnet1_p001.{suffix}")
    assert (info.sample_rate_hz, info.channels, info.format) == (44_100, 2, suffix)
    assert info.duration_s is None if suffix == "aac" else info.duration_s == pytest.approx(8.99, abs=0.05)


def test_a_media_container_without_pyav_names_the_extra(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'linnet\[media\]'"):
        read_audio(shared / "data/formats/jfk.m4a")


def test_a_video_without_sound_says_so(shared: Path) -> None:
    silent = next(iter(sorted((shared / "data/av").glob("*.mp4"))))
    with pytest.raises(AudioDecodeError, match="has no audio track"):
        read_audio(silent)


def test_a_film_may_outlast_its_sound() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        video, sound = container.add_stream("mpeg4", rate=10), container.add_stream("pcm_s16le", rate=16_000)
        assert isinstance(video, av.VideoStream)
        assert isinstance(sound, av.AudioStream)
        video.width = video.height = 32
        sound.layout = "mono"
        for _ in range(30):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), dtype=np.uint8))
            container.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray((tone(16_000) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux([*video.encode(None), *sound.encode(frame), *sound.encode(None)])
    assert read_audio(file).size == 16_000
    assert audio_info(file) == AudioInfo(None, 16_000, 1, "webm")  # three seconds of film say nothing about the sound


def mp3_without_length(samples: np.ndarray, rate_hz: int) -> bytes:
    """Variable bit rate and no Xing header, as cut or streamed MP3 files have it."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=rate_hz)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        stream.codec_context.flags |= 2  # AV_CODEC_FLAG_QSCALE
        stream.codec_context.global_quality = 4 * 118
        for start in range(0, samples.size, 1152):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1152].copy(), "fltp", "mono")
            frame.sample_rate, frame.pts = rate_hz, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("rate_hz", [44_100, 16_000])
def test_mp3_without_a_length_is_read_to_its_end(speech: np.ndarray, rate_hz: int) -> None:
    # loud first: libsndfile extrapolates the high bit rate and would stop long before the end
    wave = np.concatenate([resample(speech, 16_000, rate_hz), np.zeros(20 * rate_hz, dtype=np.float32)])
    content = mp3_without_length(wave, rate_hz)
    assert audio_info(io.BytesIO(content)).duration_s is None
    # encoder delay and padding are at most three frames of 1152 (or 576) samples
    assert read_audio(io.BytesIO(content)).size / 16_000 == pytest.approx(30.0, abs=0.1)


def test_joined_mp3_files_are_read_to_the_end(speech: np.ndarray) -> None:
    one = encoded(np.tile(speech, 4), 16_000, "MP3")
    assert read_audio(io.BytesIO(one + one)).size / 16_000 == pytest.approx(80.0, abs=0.3)


def test_flac_of_unknown_length_is_read(speech: np.ndarray) -> None:
    content = bytearray(encoded(speech, 16_000, "FLAC"))
    content[21] &= 0xF0  # STREAMINFO: 36 bits of total samples, 0 = unknown
    content[22:26] = bytes(4)
    assert read_audio(io.BytesIO(content)).size == speech.size
    assert audio_info(io.BytesIO(content)).duration_s is None


def test_wav_from_a_pipe_has_no_size_and_is_read(speech: np.ndarray) -> None:
    content = bytearray(encoded(speech, 16_000, "WAV"))
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    assert read_audio(io.BytesIO(content)).size == speech.size


# --- broken files ---


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG", "OGG/OPUS", "MP3"])
def test_a_truncated_file_is_an_error(speech: np.ndarray, kind: str) -> None:
    format, _, subtype = kind.partition("/")
    content = encoded(speech, 16_000, format, subtype or None)
    assert read_audio(io.BytesIO(content)).size == speech.size  # the whole file is fine
    for share in (0.02, 0.3, 0.5, 0.9, 0.96):
        with pytest.raises(AudioDecodeError):
            read_audio(io.BytesIO(content[: int(share * len(content))]))


@pytest.mark.parametrize("name", ["jfk.m4a", "jfk.webm", "sonnet1_p001.mp4", "jfk.opus", "jfk.aac"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_download_is_an_error(shared: Path, name: str, share: float) -> None:
    content = (shared / "data/formats" / name).read_bytes()
    with pytest.raises(AudioDecodeError):
        read_audio(io.BytesIO(content[: int(share * len(content))]))


def test_flac_cut_between_two_frames_is_an_error(speech: np.ndarray) -> None:
    content = bytearray(encoded(speech, 16_000, "FLAC"))
    promised = int.from_bytes(content[22:26], "big") + 8000  # half a second that never comes
    content[22:26] = promised.to_bytes(4, "big")
    with pytest.raises(AudioDecodeError, match=r"10\.00 of 10\.50 s"):
        read_audio(io.BytesIO(content))


def test_wav_cut_behind_its_header_is_an_error() -> None:
    content = encoded(tone(16_000), 16_000, "WAV")
    with pytest.raises(AudioDecodeError, match="100% of the samples"):
        read_audio(io.BytesIO(content[: content.index(b"data") + 8]))


def test_opus_cut_between_two_pages_is_an_error(speech: np.ndarray) -> None:
    content = encoded(speech, 16_000, "OGG", "OPUS")
    with pytest.raises(AudioDecodeError, match="last Ogg page"):
        read_audio(io.BytesIO(content[: content.rindex(b"OggS")]))


def test_damage_in_the_middle_is_an_error(speech: np.ndarray) -> None:
    content = bytearray(encoded(speech, 16_000, "FLAC"))
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    with pytest.raises(AudioDecodeError, match="damaged or was cut short"):
        read_audio(io.BytesIO(content))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AudioNotFoundError, match=r"no file .*nowhere\.wav"):
        read_audio(tmp_path / "nowhere.wav")
    with pytest.raises(FileNotFoundError):
        audio_info(str(tmp_path / "nowhere.wav"))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioDecodeError, match="is a folder"):
        read_audio(tmp_path)


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioDecodeError, match=r"empty\.wav is empty \(0 bytes\)"):
        read_audio(tmp_path / "empty.wav")


def test_text_named_wav(tmp_path: Path) -> None:
    (tmp_path / "page.wav").write_text("<html>404 not found</html>\n" * 20)
    with pytest.raises(AudioDecodeError, match=r"it is a text file\. Readable: wav, flac"):
        read_audio(tmp_path / "page.wav")


def test_random_bytes() -> None:
    content = b"\x01" + np.random.default_rng(0).bytes(5000)
    with pytest.raises(AudioDecodeError, match="starts with"):
        read_audio(io.BytesIO(content))


def test_a_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # chmod would not stop a test that runs as root
    with pytest.raises(AudioDecodeError, match="cannot be opened: Permission denied"):
        read_audio(tmp_path / "secret.wav")


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_no_samples(rate_hz: int) -> None:
    with pytest.raises(AudioContentError, match="no samples"):
        read_audio(io.BytesIO(encoded(np.zeros(0), rate_hz, "WAV")))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_in_a_file(bad: float) -> None:
    wave = tone(16_000)
    wave[8000] = bad
    with pytest.raises(AudioContentError, match=r"first at 0\.500 s"):
        read_audio(io.BytesIO(encoded(wave, 16_000, "WAV", "FLOAT")))


def test_check_samples_accepts_and_refuses() -> None:
    assert check_samples(np.zeros(3, dtype=np.float64)).dtype == np.float32
    for bad, message in [
        (np.zeros((2, 3)), r"mic: expected mono samples of shape \[N\], got shape \(2, 3\)"),
        (np.zeros(0), "mic: there are no samples"),
        (np.zeros(3, dtype=np.int16), "divide 16-bit integers by 32768"),
        (np.array([0, np.nan, np.inf]), "mic: 2 of 3 samples are NaN or infinite, the first at index 1"),
    ]:
        with pytest.raises(AudioContentError, match=message):
            check_samples(bad, name="mic")


def test_rates_and_blocks_must_be_positive() -> None:
    file = io.BytesIO(encoded(tone(16_000), 16_000, "WAV"))
    with pytest.raises(ConfigError, match="must be positive, got 0"):
        read_audio(file, sample_rate_hz=0)
    with pytest.raises(ConfigError, match="must be positive, got -1"):
        resample(tone(16_000), -1, 16_000)
    with pytest.raises(ConfigError, match="at least one sample"):
        next(stream_audio(file, block_s=0))


def test_a_playlist_cannot_make_ffmpeg_open_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_media` does not let playlists through; this is the second wall, should one look like something else."""
    pytest.importorskip("av", reason="the [media] extra is not installed")
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "secret.wav", np.full(16_000, 0.1, np.float32), 16_000)
    monkeypatch.setattr(containers, "is_media", lambda head: True)
    with pytest.raises(AudioDecodeError):
        read_audio(io.BytesIO(b"ffconcat version 1.0\nfile secret.wav\n"))
