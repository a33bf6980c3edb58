"""What an adapter trains on: the same clip clean and in noise, or what the frozen layers make of both, from disk.

Unlike in training from scratch nothing may stretch time or frequency, since the clean clip is the target of the noisy
one, token by token.

Shapes: F mel frames, L encoder tokens, D width of the layer that is cached, O width of the encoder's output.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from linnet.audio import SAMPLE_RATE_HZ, read_audio
from linnet.data.augment import NO_AUGMENT, AugmentConfig, augment_samples
from linnet.data.batching import Key
from linnet.data.clips import Clips
from linnet.features import WHISPER_128, log_mel
from linnet.manifest import Utterance, read_manifest

FloatArray = npt.NDArray[np.float32]
MIN_DURATION_S = 0.5


@dataclass(frozen=True)
class Pair:
    """One clip: log-mel [128, F] clean and noisy, or the frozen layers' results (hidden [L, D], target [L, O])."""

    text: str
    language: str | None
    clean: FloatArray | None = None
    noisy: FloatArray | None = None
    hidden: Tensor | None = None
    target: Tensor | None = None


class NoisyPairs(Dataset[Pair]):
    """Clean and noisy log-mel of (epoch, index) keys; the noise follows from the key and the seed."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        clips: Clips,
        *,
        augment: AugmentConfig,
        noise_manifests: Sequence[Path],
        seed: int,
    ) -> None:
        self.utterances, self.clips, self.augment, self.seed = utterances, clips, augment, seed
        paths = [utterance.audio_path for manifest in noise_manifests for utterance in read_manifest(manifest)]
        self.noises = [read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ) for path in paths]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Pair:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        samples = self.clips[index]
        samples = np.pad(samples, (0, max(0, int(MIN_DURATION_S * SAMPLE_RATE_HZ) - len(samples))))
        noisy = augment_samples(
            samples,
            self.augment,
            rng,
            rate_hz=SAMPLE_RATE_HZ,
            pick_speech=lambda rng: self.clips[int(rng.integers(len(self.clips)))],
            pick_noise=(lambda rng: self.noises[int(rng.integers(len(self.noises)))]) if self.noises else None,
        )
        utterance = self.utterances[index]
        clean = log_mel(samples, WHISPER_128)
        return Pair(utterance.text or "", utterance.language, clean=clean, noisy=log_mel(noisy, WHISPER_128))


def noise_only(
    noise_probability: float, snr_db: tuple[float, float], reverb_probability: float, rt60_s: tuple[float, float]
) -> AugmentConfig:
    """Noise and reverberation, and nothing that moves tokens."""
    from dataclasses import replace

    return replace(
        NO_AUGMENT,
        noise_probability=noise_probability,
        snr_db=snr_db,
        reverb_probability=reverb_probability,
        rt60_s=rt60_s,
    )


Encode = Callable[[list[FloatArray]], list[Tensor]]
"""Log-mel clips → one result [L, width] each."""


class CachedPairs(Dataset[Pair]):
    """`variants` noisy versions of every clip as the frozen layers' results, in two memory-mapped files."""

    def __init__(
        self,
        pairs: NoisyPairs,
        cache_dir: Path,
        *,
        key: str,
        variants: int,
        lower: Encode,
        output: Encode,
        dtype: torch.dtype,
    ) -> None:
        """`lower` gives what enters the first adapter, `output` the base's encoder output; `key` names both.

        Files that another run with the same key has written are used again.
        """
        digest = hashlib.sha256(key.encode())
        for utterance in pairs.utterances:
            stat = utterance.audio_path.stat()
            digest.update(f"{utterance.audio_path}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        self.pairs, self.variants, self.dtype = pairs, variants, dtype
        self.base = cache_dir / f"hidden-{digest.hexdigest()[:16]}"
        if not self.base.with_suffix(".json").exists():
            self._write(lower, output)
        index = json.loads(self.base.with_suffix(".json").read_text())
        self.starts = np.concatenate([[0], np.cumsum(index["lengths"])])
        self.widths = index["widths"]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> Pair:
        epoch, index = key
        utterance, start, stop = self.pairs.utterances[index], *self.starts[index : index + 2]
        shift = epoch % self.variants * self.starts[-1]
        return Pair(
            utterance.text or "",
            utterance.language,
            hidden=self._rows("hidden", start + shift, stop + shift),
            target=self._rows("target", start, stop),
        )

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        width = self.widths[name]
        kind = np.int16 if self.dtype == torch.bfloat16 else np.float32
        mapped = np.memmap(self.base.with_suffix(f".{name}"), dtype=kind, mode="r").reshape(-1, width)
        return torch.from_numpy(np.array(mapped[start:stop])).view(self.dtype)

    def _write(self, lower: Encode, output: Encode) -> None:
        self.base.parent.mkdir(parents=True, exist_ok=True)
        lengths, widths = [], {}
        for name, encode, variants in (("target", output, 1), ("hidden", lower, self.variants)):
            partial = self.base.with_suffix(f".{name}-{os.getpid()}")
            with open(partial, "wb") as file:
                for variant in range(variants):
                    for index in range(len(self.pairs)):
                        pair = self.pairs[(variant, index)]
                        mel = pair.clean if name == "target" else pair.noisy
                        assert mel is not None
                        (rows,) = encode([mel])
                        rows = rows.to(self.dtype).cpu().contiguous()
                        stored = rows.view(torch.int16) if self.dtype == torch.bfloat16 else rows
                        file.write(stored.numpy().tobytes())
                        widths[name] = rows.shape[1]
                        if name == "target":
                            lengths.append(len(rows))
            os.replace(partial, self.base.with_suffix(f".{name}"))
        partial = self.base.with_suffix(f".json-{os.getpid()}")
        partial.write_text(json.dumps({"lengths": lengths, "widths": widths}))
        os.replace(partial, self.base.with_suffix(".json"))  # last: whoever finds it takes the cache as complete
