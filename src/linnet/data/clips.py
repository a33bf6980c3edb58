"""Decoded training audio, once: every clip of a manifest as 16-bit samples in one memory-mapped file.

Decoding Opus for every epoch costs more than a small model's training step. The cache is keyed by the files' paths,
sizes and times, so a changed corpus is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linnet.audio import SAMPLE_RATE_HZ, read_audio
from linnet.errors import AudioError, TrainingError
from linnet.manifest import Utterance


class Clips:
    """Random access to decoded clips: `clips[i]` is float32 [samples] at `sample_rate_hz`."""

    def __init__(
        self, samples: npt.NDArray[np.int16], offsets: npt.NDArray[np.int64], sample_rate_hz: int = SAMPLE_RATE_HZ
    ) -> None:
        self._samples, self._offsets, self.sample_rate_hz = samples, offsets, sample_rate_hz

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        start, stop = self._offsets[index], self._offsets[index + 1]
        return self._samples[start:stop].astype(np.float32) / 32768.0

    def duration_s(self, index: int) -> float:
        """Length of clip `index` in seconds."""
        return float(self._offsets[index + 1] - self._offsets[index]) / self.sample_rate_hz


def load_clips(
    utterances: Sequence[Utterance],
    cache_dir: Path,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Utterance], Clips]:
    """Decode all utterances (or map the cache) and return the readable ones with their samples.

    Unreadable files are left out and named in `<cache>.unreadable.txt`; TrainingError if nothing is readable.
    """
    key = hashlib.sha256(b"" if sample_rate_hz == SAMPLE_RATE_HZ else f"{sample_rate_hz} Hz".encode())
    for utterance in utterances:
        path = utterance.audio_path
        stat = path.stat() if path.exists() else None
        key.update(f"{path}|{stat.st_size if stat else 0}|{stat.st_mtime_ns if stat else 0}\n".encode())
    base = cache_dir / f"clips-{key.hexdigest()[:16]}"
    index_path, data_path = base.with_suffix(".json"), base.with_suffix(".i16")
    if not index_path.exists():
        _decode(utterances, base, sample_rate_hz, progress)
    index = json.loads(index_path.read_text())
    kept = [utterances[i] for i in index["kept"]]
    if not kept:
        raise TrainingError(f"None of the {len(utterances)} recordings could be read; see {base}.unreadable.txt.")
    samples = np.memmap(data_path, dtype=np.int16, mode="r")
    return kept, Clips(samples, np.asarray(index["offsets"], dtype=np.int64), sample_rate_hz)


def _decode(
    utterances: Sequence[Utterance], base: Path, sample_rate_hz: int, progress: Callable[[int, int], None] | None
) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    partial = base.with_suffix(f".partial-{os.getpid()}")
    kept, offsets, unreadable = [], [0], []
    with open(partial, "wb") as file:
        for i, utterance in enumerate(utterances):
            try:
                samples = read_audio(utterance.audio_path, sample_rate_hz=sample_rate_hz)
            except AudioError as error:
                unreadable.append(f"{utterance.audio_path}: {error}")
            else:
                file.write(np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes())
                kept.append(i)
                offsets.append(offsets[-1] + len(samples))
            if progress:
                progress(i + 1, len(utterances))
    os.replace(partial, base.with_suffix(".i16"))
    if unreadable:
        base.with_suffix(".unreadable.txt").write_text("\n".join(unreadable) + "\n")
    # Last and at once: another process that finds the index takes it as complete.
    partial.write_text(json.dumps({"kept": kept, "offsets": offsets}))
    os.replace(partial, base.with_suffix(".json"))
