"""Spectra to samples and back in NumPy: short-time Fourier transform, its inverse in pieces, Griffin-Lim.

Frames are centred (frame t around sample t · hop) and windowed with a periodic Hann window, as in `features.log_mel`.

Shapes: F frames, K = n_fft / 2 + 1 bins, M mel bands, N samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linnet.features import FeatureSpec, hann_window, mel_filters

FloatArray = npt.NDArray[np.float32]
ComplexArray = npt.NDArray[np.complex64]
_CHUNK_FRAMES, _OVERLAP_FRAMES = 2000, 20  # Griffin-Lim on hours of audio in bounded memory


class InverseSTFT:
    """Overlap-add, piece by piece: what `push` gives is final, whatever follows."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.n_fft, self.hop = spec.n_fft, spec.hop_length
        self.window = hann_window(spec.n_fft)
        tail = spec.n_fft - spec.hop_length
        self._sum, self._weight = np.zeros(tail, np.float32), np.zeros(tail, np.float32)
        self._skip = spec.n_fft // 2  # the first frame begins half a window before the first sample

    def push(self, spectrum: ComplexArray) -> FloatArray:
        """Samples that the next frames [F, K] complete: F · hop of them, less half a window at the start."""
        frames = len(spectrum)
        pieces = np.fft.irfft(spectrum, n=self.n_fft, axis=1).astype(np.float32) * self.window
        size = frames * self.hop + self.n_fft - self.hop
        total, weight = np.zeros(size, np.float32), np.zeros(size, np.float32)
        total[: len(self._sum)], weight[: len(self._weight)] = self._sum, self._weight
        square = self.window**2
        for index, piece in enumerate(pieces):
            start = index * self.hop
            total[start : start + self.n_fft] += piece
            weight[start : start + self.n_fft] += square
        done = frames * self.hop
        self._sum, self._weight = total[done:], weight[done:]
        return self._take(total[:done], weight[:done])

    def finish(self, samples: int) -> FloatArray:
        """The last `samples` samples, silence beyond what the frames cover."""
        rest = self._take(self._sum, self._weight)[:samples]
        return np.pad(rest, (0, samples - len(rest)))

    def _take(self, total: FloatArray, weight: FloatArray) -> FloatArray:
        skip = min(self._skip, len(total))
        self._skip -= skip
        return (total[skip:] / np.maximum(weight[skip:], np.float32(1e-3))).astype(np.float32)


def istft(spectrum: ComplexArray, spec: FeatureSpec) -> FloatArray:
    """Samples [F · hop] of all frames [F, K]."""
    inverse = InverseSTFT(spec)
    first = inverse.push(spectrum)
    return np.concatenate([first, inverse.finish(len(spectrum) * spec.hop_length - len(first))])


def stft(samples: FloatArray, spec: FeatureSpec) -> ComplexArray:
    """Frames [N // hop, K] of samples [N]."""
    half = spec.n_fft // 2
    padded = np.pad(samples, half, mode="reflect" if len(samples) > half else "symmetric")
    framed = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]
    framed = framed[: len(samples) // spec.hop_length]
    return np.fft.rfft(framed * hann_window(spec.n_fft), axis=1).astype(np.complex64)


def griffin_lim(log_mel: FloatArray, spec: FeatureSpec, *, iterations: int = 32, seed: int = 0) -> FloatArray:
    """Samples [F · hop] whose spectrum has the magnitudes of `log_mel` [F, M] (natural log of power), phases guessed.

    Fast Griffin-Lim (Perraudin et al. 2013, momentum 0.99) from random phases; the seed makes it repeatable.
    """
    hop = spec.hop_length
    parts: list[FloatArray] = []
    for start in range(0, len(log_mel), _CHUNK_FRAMES):
        first = max(0, start - _OVERLAP_FRAMES)
        magnitude = magnitudes(log_mel[first : start + _CHUNK_FRAMES], spec)
        wave = _griffin_lim(magnitude, spec, iterations, np.random.default_rng([seed, start]))
        if parts:
            overlap = (start - first) * hop
            ramp = np.linspace(0, 1, overlap, dtype=np.float32)
            parts[-1][-overlap:] = parts[-1][-overlap:] * (1 - ramp) + wave[:overlap] * ramp
            wave = wave[overlap:]
        parts.append(wave)
    return np.concatenate(parts)


def magnitudes(log_mel: FloatArray, spec: FeatureSpec, *, iterations: int = 40) -> FloatArray:
    """Magnitude spectra [F, K] ≥ 0 whose mel powers come close to exp(log_mel) [F, M] (multiplicative updates)."""
    filters = mel_filters(spec)
    mel = np.exp(np.minimum(log_mel, 30.0)).astype(np.float32)
    power = mel @ filters + np.float32(1e-10)
    for _ in range(iterations):
        power *= (mel @ filters) / np.maximum(power @ filters.T @ filters, np.float32(1e-12))
    root: FloatArray = np.sqrt(power)
    return root


def _griffin_lim(magnitude: FloatArray, spec: FeatureSpec, iterations: int, rng: np.random.Generator) -> FloatArray:
    angles = rng.uniform(0, 2 * np.pi, magnitude.shape).astype(np.float32)
    spectrum = magnitude * np.exp(1j * angles).astype(np.complex64)
    previous = np.zeros_like(spectrum)
    for _ in range(iterations):
        consistent = stft(istft(spectrum, spec), spec)
        ahead = consistent + np.float32(0.99) * (consistent - previous)
        previous = consistent
        spectrum = magnitude * ahead / np.maximum(np.abs(ahead), np.float32(1e-9))
    return istft(spectrum, spec)
