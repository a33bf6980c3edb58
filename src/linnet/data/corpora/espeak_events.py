"""Speech from espeak-ng with the time of every phoneme, through its C library (libespeak-ng, 1.51).

The command-line program cannot tell phoneme times without an MBROLA voice; the library reports them as events. Each
call runs in a fresh process of this very file (nothing but the standard library is imported there), since the
library's noise generator remembers what it said before: the same arguments give the same samples, in any order.
"""

from __future__ import annotations

import base64
import ctypes
import json
import subprocess
import sys
from dataclasses import dataclass

TIMEOUT_S = 60
_SYNCHRONOUS, _PHONEME_EVENTS = (2, 1)  # espeak_Initialize: samples to the callback, before the call returns
_EVENT_END, _EVENT_PHONEME = 0, 7
_RATE, _PITCH = 1, 3  # espeak_SetParameter
_CHARS_UTF8 = 1


@dataclass(frozen=True)
class Spoken:
    """16-bit mono samples, little-endian, and where each phoneme begins."""

    pcm: bytes
    rate_hz: int
    phonemes: tuple[tuple[str, float], ...]
    """espeak-ng's mnemonic and start in seconds; pauses begin with an underscore."""


def speak(text: str, *, voice: str, pitch: int, words_per_minute: int) -> Spoken:
    """Say `text`; raises RuntimeError with espeak-ng's complaint, FileNotFoundError if the library is not installed."""
    request = json.dumps({"text": text, "voice": voice, "pitch": pitch, "rate": words_per_minute})
    ran = subprocess.run(
        [sys.executable, "-I", "-S", __file__],
        input=request,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if ran.returncode != 0:
        kind = FileNotFoundError if "libespeak-ng.so" in ran.stderr else RuntimeError
        raise kind(ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else f"exit code {ran.returncode}")
    answer = json.loads(ran.stdout)
    return Spoken(base64.b64decode(answer["pcm"]), answer["rate_hz"], tuple((p, t) for p, t in answer["phonemes"]))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


def _serve() -> None:
    request = json.load(sys.stdin)
    library = ctypes.CDLL("libespeak-ng.so.1")
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
    pcm: list[bytes] = []
    phonemes: list[tuple[str, float]] = []

    def receive(samples: int | None, count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            pcm.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != _EVENT_END:
            if events[index].type == _EVENT_PHONEME:
                phonemes.append((events[index].id.decode(), events[index].sample / rate_hz))
            index += 1
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
    callback = kind(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        raise SystemExit(f"espeak-ng has no voice {request['voice']!r}")
    library.espeak_SetParameter(_RATE, request["rate"], 0)
    library.espeak_SetParameter(_PITCH, request["pitch"], 0)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 0, 0, _CHARS_UTF8, None, None)
    answer = {"pcm": base64.b64encode(b"".join(pcm)).decode(), "rate_hz": rate_hz, "phonemes": phonemes}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _serve()
