"""What the bytes of a file say by themselves; tests/test_audio.py checks what follows from it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from linnet.containers import is_media, is_text, missing_share, ogg_is_complete, with_mp3_length


def encoded(format: str, seconds: float = 3.0) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, round(16_000 * seconds))
    soundfile.write(file, noise, 16_000, format=format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("head", "media", "text"),
    [
        (b"\x00\x00\x00\x20ftypM4A ", True, False),
        (b"\x1a\x45\xdf\xa3\x01\x00", True, False),
        (b"\xff\xf1\x50\x80", True, False),
        (b"<!DOCTYPE html>\r\n\t", False, True),
        (b"version https://git-lfs", False, True),
        (b"\x01\x02\x03", False, False),
        (b"PK\x03\x04", False, False),
    ],
)
def test_kinds(head: bytes, media: bool, text: bool) -> None:
    assert (is_media(head), is_text(head)) == (media, text)


def test_every_proper_prefix_of_an_ogg_file_is_incomplete() -> None:
    content = encoded("OGG")
    assert ogg_is_complete(io.BytesIO(content))
    assert ogg_is_complete(io.BytesIO(content + b"TAG" + bytes(125)))  # a tag behind the stream is harmless
    for size in [*range(0, len(content), 997), len(content) - 1]:
        assert not ogg_is_complete(io.BytesIO(content[:size])), size


@pytest.mark.parametrize(
    ("log", "share"),
    [
        ("RIFF : 400 (should be 200)\ndata : 400 (should be 100)\nEnd\n", 0.75),
        ("SSND : 400 (should be 300)\n", 0.25),
        ("RIFF : 400 (should be 200)\ndata : 400\n", 0.0),  # a careless header, but all samples are there
        ("data : 4294967295 (should be 100)\n", 0.0),  # written through a pipe
        ("data : 0 (should be 100)\n", 0.0),  # the recorder crashed before it wrote the size
        ("", 0.0),
    ],
)
def test_missing_share_of_a_wav(log: str, share: float) -> None:
    assert missing_share(log) == share


def test_an_mp3_with_a_trustworthy_length_is_not_copied() -> None:
    content = encoded("MP3")
    file = io.BytesIO(content)
    file.seek(123)
    assert with_mp3_length(file) is None
    assert file.tell() == 123  # a decoder may be reading from here
    picture = b"ID3\x04\x00\x00" + bytes([0, 1, 0, 0]) + bytes(1 << 14)  # 16 KiB in four 7-bit digits
    assert with_mp3_length(io.BytesIO(picture + content)) is None


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_the_copy_of_an_mp3_is_whole(rate_hz: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.3, 0.3, (rate_hz * 2, 2)), rate_hz, format="MP3")
    content = file.getvalue()
    length_tag = max(content.find(b"Xing"), content.find(b"Info"))
    frames = content[:length_tag] + b"none" + content[length_tag + 4 :]
    copy = with_mp3_length(io.BytesIO(frames))
    assert copy is not None
    with copy:
        assert copy.read().endswith(frames)
        copy.seek(0)
        with soundfile.SoundFile(copy) as sound:
            assert (sound.samplerate, sound.channels) == (rate_hz, 2)
            assert sound.frames >= rate_hz * 2
