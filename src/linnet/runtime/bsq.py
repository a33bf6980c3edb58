"""An audio tokenizer in ONNX Runtime: audio → `Codes` → audio, in one piece or as it comes.

Everything works block by block with caches, whether a recording comes as a file or as a stream: streaming gives what
offline gives, bit for bit, and memory does not grow with the recording. The delay of streaming is one block and a
little (`BSQCodec.latency_s`).

Shapes: N samples, T tokens, D bits, F frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from linnet.audio import check_samples, resample, stream_audio
from linnet.bundle import Bundle
from linnet.codes import Codes
from linnet.errors import BundleCorruptError, CodesError, ConfigError
from linnet.features import log_mel
from linnet.runtime.base import AudioSource, Progress
from linnet.runtime.bsq_config import BSQConfig
from linnet.runtime.istft import InverseSTFT, griffin_lim
from linnet.runtime.providers import session_options

if TYPE_CHECKING:
    import onnxruntime as ort

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]
Vocoder = Literal["auto", "head", "griffin-lim"]
_TOKENS_PER_PUSH = 1000  # at a time when a whole recording is decoded: 20 s of the speech presets
_NOTHING = np.float32(-1e9)  # attention to a place of the cache that holds no token yet


class Codec(Protocol):
    """Turns recordings into tokens and tokens into sound."""

    @property
    def bundle(self) -> Bundle:
        """The bundle it was loaded from."""
        ...

    def encode(self, audio: AudioSource, *, sample_rate_hz: int = 16_000, progress: Progress | None = None) -> Codes:
        """The tokens of a recording."""
        ...

    def decode(self, codes: Codes, *, vocoder: Vocoder = "auto") -> FloatArray:
        """The samples of tokens."""
        ...

    def decode_blocks(
        self, codes: Codes, *, vocoder: Vocoder = "auto", progress: Progress | None = None
    ) -> Iterator[FloatArray]:
        """The samples of `decode` in blocks [n], n ≥ 1; `progress` is called with seconds."""
        ...


class BSQCodec:
    """One opened bundle."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """`threads` None means all physical cores. Raises BundleCorruptError."""
        self.bundle = bundle
        extra = ("fingerprint", "vocoder")
        self.config = BSQConfig.from_dict({key: value for key, value in bundle.model.items() if key not in extra})
        self.fingerprint, self._vocoder = str(bundle.model.get("fingerprint", "")), bundle.model.get("vocoder", "auto")
        if self.config.block_tokens is None:
            raise BundleCorruptError(f"Bundle {bundle.path} cannot work block by block. Export it again.")
        self._encoder = _open(bundle.file("encoder.onnx"), threads)
        self._decoder = _open(bundle.file("decoder.onnx"), threads)

    @property
    def latency_s(self) -> float:
        """Longest time a sample waits for its token when streaming: one block and half an analysis window."""
        assert self.config.block_tokens is not None
        spec = self.config.features
        return (self.config.block_tokens * self.config.token_samples + spec.n_fft) / spec.sample_rate_hz

    def encode(self, audio: AudioSource, *, sample_rate_hz: int = 16_000, progress: Progress | None = None) -> Codes:
        """Tokens of a recording of any length: a file, a binary stream, or samples [N] at `sample_rate_hz`.

        Raises AudioError.
        """
        rate_hz, stream = self.config.features.sample_rate_hz, self.stream_encoder()
        parts, done = [], 0
        if isinstance(audio, np.ndarray):
            blocks: Any = [resample(check_samples(audio), sample_rate_hz, rate_hz)]
        else:
            blocks = stream_audio(audio, sample_rate_hz=rate_hz)
        for samples in blocks:
            parts.append(stream.push(samples))
            done += len(samples)
            if progress is not None:
                progress(done / rate_hz, done / rate_hz)
        parts.append(stream.finish())
        return self.codes(np.concatenate(parts), stream.samples)

    def codes(self, ids: IdArray, samples: int) -> Codes:
        """What a stream encoder gave, as `Codes` that can be saved."""
        config = self.config
        rate_hz = config.features.sample_rate_hz
        return Codes(ids, config.bits, samples, rate_hz, config.token_samples, self.bundle.name, self.fingerprint)

    def decode(self, codes: Codes, *, vocoder: Vocoder = "auto") -> FloatArray:
        """Samples [N] at the bundle's rate, as many as the recording had.

        `head` is the trained waveform head, `griffin-lim` guesses phases for the decoded log-mel; `auto` is what the
        bundle found better. Raises CodesError for tokens of another tokenizer, ConfigError for a vocoder not here.
        """
        return np.concatenate([np.zeros(0, np.float32), *self.decode_blocks(codes, vocoder=vocoder)])

    def decode_blocks(
        self, codes: Codes, *, vocoder: Vocoder = "auto", progress: Progress | None = None
    ) -> Iterator[FloatArray]:
        """The samples of `decode` in blocks [n], so that hours need no more memory than seconds; Griffin-Lim gives one.

        `progress` is called with seconds done and seconds in all. Errors as in `decode`, raised by the iteration.
        """
        self.check(codes)
        if self._choose(vocoder) == "griffin-lim":
            yield griffin_lim(self.decode_mel(codes), self.config.features)[: codes.samples]
            return
        stream, left = self.stream_decoder(), codes.samples
        for start in range(0, len(codes.ids), _TOKENS_PER_PUSH):
            samples = stream.push(codes.ids[start : start + _TOKENS_PER_PUSH])[:left]
            left -= len(samples)
            if len(samples):
                yield samples
            if progress is not None:
                progress(codes.duration_s - left / codes.sample_rate_hz, codes.duration_s)
        rest = stream.finish()[:left]
        if len(rest):
            yield rest

    def decode_mel(self, codes: Codes) -> FloatArray:
        """The decoder's log-mel [F, M] (natural logarithm of power)."""
        self.check(codes)
        steps = _Decoder(self)
        return np.concatenate([part["log_mel"] for part in steps.push(codes.ids, last=True)])

    def check(self, codes: Codes) -> None:
        """Raise CodesError if `codes` are not this tokenizer's."""
        config = self.config
        got = (codes.bits, codes.sample_rate_hz, codes.token_samples)
        want = (config.bits, config.features.sample_rate_hz, config.token_samples)
        if got != want or (codes.fingerprint and codes.fingerprint != self.fingerprint):
            raise CodesError(
                f"These codes were made by tokenizer {codes.model!r} {codes.fingerprint} ({codes.bits} bits, "
                f"{codes.sample_rate_hz} Hz), not by {self.bundle.name!r} {self.fingerprint}. Decode with the bundle "
                "that encoded."
            )

    def stream_encoder(self) -> StreamEncoder:
        """A new stream of samples."""
        return StreamEncoder(self)

    def stream_decoder(self) -> StreamDecoder:
        """A new stream of tokens; ConfigError without a waveform head, since Griffin-Lim needs the whole recording."""
        self._choose("head")
        return StreamDecoder(self)

    def close(self) -> None:
        """Release the model's memory; further calls are errors."""
        self._encoder = self._decoder = None

    def _choose(self, vocoder: Vocoder) -> Vocoder:
        if vocoder not in ("auto", "head", "griffin-lim"):
            raise ConfigError(f"Unknown vocoder {vocoder!r}; accepted: 'auto', 'head', 'griffin-lim'.")
        if vocoder == "auto":
            vocoder = self._vocoder if self._vocoder != "auto" else "head"
            vocoder = vocoder if self.config.waveform_channels else "griffin-lim"
        if vocoder == "head" and not self.config.waveform_channels:
            raise ConfigError(f"Bundle {self.bundle.name!r} has no waveform head; accepted: 'auto', 'griffin-lim'.")
        return vocoder


class _Blocks:
    """One graph with its caches; each call takes one block."""

    def __init__(self, session: ort.InferenceSession, config: BSQConfig) -> None:
        self._session, self._config, self._seen = session, config, 0
        self._caches = {
            entry.name: np.zeros(entry.shape, np.float32)
            for entry in session.get_inputs()
            if f"next_{entry.name}" in {output.name for output in session.get_outputs()}
        }
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, name: str, value: FloatArray, tokens: int) -> dict[str, FloatArray]:
        """Outputs for input `name`, which holds `tokens` tokens."""
        left = self._config.left_tokens
        bias = np.zeros(left + tokens, np.float32)
        bias[: max(0, left - self._seen)] = _NOTHING
        found = self._session.run(None, {name: value, "bias": bias, **self._caches})
        results = dict(zip(self._outputs, found, strict=True))
        self._caches = {kind: results.pop(f"next_{kind}") for kind in self._caches}
        self._seen += tokens
        return results


class StreamEncoder:
    """Samples in pieces of any size → tokens as soon as a block is full."""

    def __init__(self, codec: BSQCodec) -> None:
        config = codec.config
        assert config.block_tokens is not None
        self.config, self.samples = config, 0
        """Samples so far."""
        self._blocks = _Blocks(codec._encoder, config)
        self._step = config.block_tokens * config.token_samples
        # Frames of a block reach half a window beyond it on both sides; whole hops keep them in place.
        spec = config.features
        self._context = -(-(spec.n_fft // 2) // spec.hop_length) * spec.hop_length
        self._waiting = np.zeros(0, np.float32)
        self._before = 0  # samples at the front of `_waiting` that have been encoded already

    def push(self, samples: FloatArray) -> IdArray:
        """Tokens [T] that these samples complete; T may be 0. Raises AudioContentError for NaN and the like."""
        samples = check_samples(samples) if len(samples) else np.zeros(0, np.float32)
        self.samples += len(samples)
        self._waiting = np.concatenate([self._waiting, samples])
        parts, start = [np.zeros(0, np.int64)], 0
        while len(self._waiting) - start >= self._before + self._step + self._context:
            parts.append(self._encode(self._waiting[start : start + self._before + self._step + self._context]))
            start += self._advance()
        self._waiting = self._waiting[start:]
        return np.concatenate(parts)

    def finish(self) -> IdArray:
        """The tokens of what is left; silence fills the last one."""
        if len(self._waiting) <= self._before:
            return np.zeros(0, np.int64)
        missing = -(len(self._waiting) - self._before) % self.config.token_samples
        rest, parts = np.pad(self._waiting, (0, missing)), []
        while len(rest) > self._before:
            parts.append(self._encode(rest[: self._before + self._step + self._context]))
            rest = rest[self._advance() :]
        self._waiting, self._before = np.zeros(0, np.float32), 0
        return np.concatenate(parts)

    def _advance(self) -> int:
        """Samples that the next block does not need; the first block has nothing before it."""
        reached = self._before + self._step
        self._before = min(self._context, reached)
        return reached - self._before

    def _encode(self, samples: FloatArray) -> IdArray:
        spec, config = self.config.features, self.config
        first = self._before // spec.hop_length
        count = min(self._step, len(samples) - self._before) // spec.hop_length
        mel = np.ascontiguousarray(log_mel(samples, spec)[:, first : first + count].T)
        latents = self._blocks.run("log_mel", mel, count // config.frames_per_token)["latents"]
        shifts = np.arange(config.bits - 1, -1, -1, dtype=np.int64)
        ids: IdArray = ((latents > 0).astype(np.int64) << shifts).sum(axis=1, dtype=np.int64)
        return ids


class _Decoder:
    """Tokens in pieces → the decoder graph's outputs, block by block."""

    def __init__(self, codec: BSQCodec) -> None:
        assert codec.config.block_tokens is not None
        self.config, self._size = codec.config, codec.config.block_tokens
        self._blocks = _Blocks(codec._decoder, codec.config)
        self._waiting = np.zeros(0, np.int64)

    def push(self, ids: IdArray, *, last: bool = False) -> list[dict[str, FloatArray]]:
        """Outputs of every block that is complete; with `last` also of the rest."""
        self._waiting = np.concatenate([self._waiting, ids])
        shifts = np.arange(self.config.bits - 1, -1, -1, dtype=np.int64)
        found = []
        while len(self._waiting) >= self._size or (last and len(self._waiting)):
            block, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            codes = (block[:, None] >> shifts & 1).astype(np.float32) * 2 - 1
            found.append(self._blocks.run("codes", codes, len(block)))
        return found


class StreamDecoder:
    """Tokens in pieces of any size → samples as soon as a block is full."""

    def __init__(self, codec: BSQCodec) -> None:
        self._steps, self._inverse = _Decoder(codec), InverseSTFT(codec.config.features)
        self._token_samples, self._tokens, self._given = codec.config.token_samples, 0, 0

    def push(self, ids: IdArray) -> FloatArray:
        """Samples [N] that these tokens complete; N may be 0."""
        return self._sound(ids, last=False)

    def finish(self) -> FloatArray:
        """The samples that are left; the last token is whole, so cut them to the recording's length."""
        rest = self._sound(np.zeros(0, np.int64), last=True)
        missing = self._tokens * self._token_samples - self._given
        return np.concatenate([rest, self._inverse.finish(missing)])

    def _sound(self, ids: IdArray, *, last: bool) -> FloatArray:
        self._tokens += len(ids)
        blocks = self._steps.push(ids, last=last)
        parts = [self._inverse.push((part["real"] + 1j * part["imaginary"]).astype(np.complex64)) for part in blocks]
        samples = np.concatenate([np.zeros(0, np.float32), *parts])
        self._given += len(samples)
        return samples


def _open(path: Path, threads: int | None) -> ort.InferenceSession:
    import onnxruntime as ort

    options = session_options(threads)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's own exceptions share no public base class
        raise BundleCorruptError(f"ONNX Runtime cannot load {path}: {problem}. Export or pull it again.") from problem
