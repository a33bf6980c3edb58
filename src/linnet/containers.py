"""What the bytes of an audio file say before and beside the decoder: its kind, and whether it was cut short.

libsndfile reads to wherever the data ends. An upload that stopped half-way would then give half a transcript without
a word, and an MP3 whose length is not written down may lose its second half although it is all there. These checks
close both holes. All functions put a file back to where it was, since a decoder may be reading it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from typing import BinaryIO

AUDIO_SUFFIXES = frozenset({
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64",
    ".m4a", ".m4b", ".mp4", ".mov", ".webm", ".mkv", ".mka", ".avi", ".aac", ".ac3", ".amr", ".wma", ".3gp",
})  # fmt: skip
"""What is picked up in folders and by globs; a file that is named is tried whatever its ending."""

SPOOL_BYTES = 64 << 20  # copies of streams up to this size stay in memory, larger ones go to a temporary file
_TAIL_BYTES = 1 << 17  # an Ogg page has at most 65,307 bytes, so the last two are in here
_STREAMED_BYTES = 0x7FFF0000  # a pipe cannot go back to write the size; encoders leave 2 or 4 GiB as a placeholder

# Containers that the [media] extra reads and libsndfile does not: offset, magic bytes.
_MEDIA_MAGIC = (
    (4, b"ftyp"),  # mp4, m4a, mov, 3gp
    (4, b"moov"),
    (0, b"\x1a\x45\xdf\xa3"),  # webm, mkv
    (0, b"\xff\xf1"),  # AAC in ADTS
    (0, b"\xff\xf9"),
    (0, b"ADIF"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # wma, asf
    (0, b"#!AMR"),
    (0, b"FLV\x01"),
    (0, b"\x00\x00\x01\xba"),  # MPEG programme stream
    (0, b"\x0b\x77"),  # AC-3
    (0, b"wvpk"),
    (0, b"MAC "),
    (0, b"RIFF"),  # avi, or wav with a codec that libsndfile lacks
    (0, b"OggS"),  # Speex, or video
    (0, b"ID3"),  # AAC behind a tag
)


def is_media(head: bytes) -> bool:
    """Whether the first bytes of a file look like a container that the `[media]` extra could read."""
    return any(head[offset:].startswith(magic) for offset, magic in _MEDIA_MAGIC)


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are plain text (an error page, a Git LFS pointer, a transcript)."""
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head) and head.isascii()


def ogg_is_complete(file: BinaryIO) -> bool:
    """Whether an Ogg file ends in a whole page that is marked as the last one of its stream (RFC 3533, section 6)."""
    position, size = file.tell(), file.seek(0, 2)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    file.seek(position)
    last = tail.rfind(b"OggS")
    if last < 0 or len(tail) < last + 27:
        return False
    flags, lacing_values = tail[last + 5], tail[last + 26]
    lacing = tail[last + 27 : last + 27 + lacing_values]
    whole = len(lacing) == lacing_values and len(tail) >= last + 27 + lacing_values + sum(lacing)
    return whole and bool(flags & 4)


def missing_share(log: str) -> float:
    """Share 0…1 of the sample data that a WAV or AIFF header promises and the file lacks, from libsndfile's log."""
    found = re.search(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", log, flags=re.MULTILINE)
    if not found:
        return 0.0
    promised, present = int(found[1]), int(found[2])
    return 0.0 if promised >= _STREAMED_BYTES or promised <= present else 1 - present / promised


def with_mp3_length(file: BinaryIO) -> BinaryIO | None:
    """A copy of a layer-III MP3 that is read to its real end, or None if the file's own length can be trusted.

    libsndfile stops at the length in the Xing/Info header. Without one it extrapolates from the first frames, which
    is far too short for speech after a quiet start at variable bit rate; joined files announce only the first part.
    The copy starts with a Xing header that promises more frames than can follow, so that the end of the data decides.
    """
    position = file.tell()
    start, size = _after_id3(file), file.seek(0, 2)
    file.seek(start)
    head = file.read(4096)
    file.seek(position)
    sync = next((i for i in range(len(head) - 4) if head[i] == 0xFF and head[i + 1] & 0xE6 == 0xE2), None)
    if sync is None:
        return None
    tag = max(head.find(b"Xing", sync, sync + 64), head.find(b"Info", sync, sync + 64))
    vbri = head.find(b"VBRI", sync, sync + 64)
    promised_bytes = None
    if tag >= 0 and head[tag + 7] & 3 == 3:  # flags: frame count, byte count
        promised_bytes = int.from_bytes(head[tag + 12 : tag + 16], "big")
    elif vbri >= 0:
        promised_bytes = int.from_bytes(head[vbri + 10 : vbri + 14], "big")
    if promised_bytes and size - start <= promised_bytes * 1.05 + _TAIL_BYTES:  # tags may follow the sound
        return None
    copy = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 (the caller closes it)
    copy.write(_xing_frame(head[sync : sync + 4], frames=(size - start) // 24 + 1))  # no frame is below 24 bytes
    file.seek(start + sync)
    shutil.copyfileobj(file, copy)
    file.seek(position)
    copy.seek(0)
    return copy  # type: ignore[return-value] # it has all methods of BinaryIO


def _after_id3(file: BinaryIO) -> int:
    """Offset of the first byte behind ID3v2 tags, which may hold megabytes of pictures."""
    offset = 0
    while True:
        file.seek(offset)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return offset
        size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
        offset += 10 + size


def _xing_frame(header: bytes, *, frames: int) -> bytes:
    """An empty MP3 frame of the stream's version, rate and channel mode that carries a frame count (Xing, 1998)."""
    version, mono = (header[1] >> 3) & 3, header[3] >> 6 == 3
    divider = {3: 1, 2: 2, 0: 4}.get(version, 1)  # MPEG-1, MPEG-2, MPEG-2.5
    rate_hz = (44_100, 48_000, 32_000, 44_100)[(header[2] >> 2) & 3] // divider
    mpeg1 = version == 3
    size = 144 * 128_000 // rate_hz if mpeg1 else 72 * 80_000 // rate_hz  # bit-rate index 9
    side_info = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    frame = bytes([0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]]) + bytes(side_info)
    frame += b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return frame.ljust(size, b"\0")
