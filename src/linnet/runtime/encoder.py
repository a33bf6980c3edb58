"""Qwen3-ASR's audio encoder in ONNX Runtime: log-mel in, one embedding per audio token out.

Two graphs (written by `linnet.export.qwen3_asr_encoder`): the convolutions run chunk by chunk (1 s of mel each), the
transformer on attention windows of 8 chunks, which are independent of each other.

Shapes: M mel bands, F mel frames, T tokens (13 per full chunk), D encoder width, O width of the decoder's embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linnet.errors import ConfigError
from linnet.features import FeatureSpec, log_mel
from linnet.runtime.providers import open_session, release_free_memory
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

FloatArray = npt.NDArray[np.float32]
Attention = Literal["windowed", "full"]
MIN_CLIP_S = 0.5
WINDOWS_AT_ONCE = 4  # more in one call is no faster and costs memory


def clip_features(samples: FloatArray, spec: FeatureSpec) -> FloatArray:
    """The official front end: log-mel [M, F] of one clip [N], padded with zeros to 0.5 s if it is shorter."""
    missing = round(MIN_CLIP_S * spec.sample_rate_hz) - len(samples)
    return log_mel(np.pad(samples, (0, missing)) if missing > 0 else samples, spec)


class Encoder:
    """Both graphs, opened once. `attention="full"` sees the whole clip at once, as the official torch code on CPU."""

    def __init__(
        self,
        folder: Path,
        config: Qwen3ASRConfig,
        *,
        attention: Attention = "windowed",
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        """Open `encoder_conv.onnx` and `encoder.onnx` in `folder`; `threads` None means all physical cores.

        `device` is one of `providers.PROVIDERS`; raises ConfigError if it is not there.
        """
        if attention not in ("windowed", "full"):
            raise ConfigError(f"Unknown attention {attention!r}; accepted: 'windowed' (the default), 'full'.")
        self._config, self._attention = config, attention
        self._conv: Any = open_session(folder / "encoder_conv.onnx", threads=threads, device=device)
        self._transformer: Any = open_session(folder / "encoder.onnx", threads=threads, device=device)
        release_free_memory()

    def __call__(self, mel: FloatArray) -> FloatArray:
        """Audio embeddings [T, O] of one clip's log-mel [M, F]; F ≥ 1."""
        if mel.ndim != 2 or mel.shape[0] != self._config.n_mels or mel.shape[1] == 0:
            raise ConfigError(f"The encoder reads log-mel [{self._config.n_mels}, frames ≥ 1], got shape {mel.shape}.")
        hidden = self._convolve(mel)
        if self._attention == "full":
            whole: FloatArray = self._transform(hidden[None])[0]
            return whole
        window = self._config.window_tokens
        full = len(hidden) // window
        windows = hidden[: full * window].reshape(full, window, hidden.shape[1])
        parts = [self._transform(windows[i : i + WINDOWS_AT_ONCE]) for i in range(0, full, WINDOWS_AT_ONCE)]
        parts = [part.reshape(-1, part.shape[-1]) for part in parts]
        if full * window < len(hidden):
            parts.append(self._transform(hidden[None, full * window :])[0])
        return np.concatenate(parts)

    def close(self) -> None:
        """Release the graphs' memory; further calls are errors."""
        self._conv = self._transformer = None

    def _convolve(self, mel: FloatArray) -> FloatArray:
        """Hidden states [T, D]: every chunk passes alone, and only its valid tokens are kept."""
        size, frames = self._config.chunk_frames, mel.shape[1]
        parts = []
        # One chunk per call: batching buys nothing here and the convolutions' outputs would take most of the memory.
        for start in range(0, frames, size):
            chunk = mel[:, start : start + size]
            tokens = self._config.chunk_tokens(chunk.shape[1])
            if frames > size and chunk.shape[1] < size:  # the official code pads the tail, but not a lone short chunk
                chunk = np.pad(chunk, ((0, 0), (0, size - chunk.shape[1])))
            hidden: FloatArray = self._conv.run(None, {"mel": np.ascontiguousarray(chunk)[None]})[0]
            parts.append(hidden[0, :tokens])
        return np.concatenate(parts)

    def _transform(self, windows: FloatArray) -> FloatArray:
        """Embeddings [windows, T, O] of hidden states [windows, T, D]."""
        audio: FloatArray = self._transformer.run(None, {"hidden": windows})[0]
        return audio
