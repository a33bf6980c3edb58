"""Spectral subtraction: the classical front end that every learned one has to beat.

Boll 1979 with the over-subtraction and floor of Berouti et al. 1979. The noise spectrum is a low quantile over time
(Stahl et al. 2000), so no silence has to be found first; it is taken as stationary over the clip.

Shapes: N samples, F frames, K frequencies.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from linnet.audio import check_samples

FloatArray = npt.NDArray[np.float32]
FRAME_S = 0.032
QUANTILE = 0.2
OVER_SUBTRACTION = 2.0
FLOOR = 0.02
"""Share of the noisy power that is always left: less of it sounds and recognises worse (musical noise)."""


def spectral_subtraction(samples: npt.ArrayLike, *, rate_hz: int) -> FloatArray:
    """Mono samples [N] with the stationary part of their noise taken off, float32 [N].

    Raises AudioContentError if the samples are not mono or not finite.
    """
    wave = check_samples(samples).astype(np.float64)
    size = 2 * round(FRAME_S * rate_hz / 2)
    hop = size // 2
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)  # its square adds up to 1 at half overlap
    padded = np.pad(wave, (hop, hop + -len(wave) % hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectrum = np.fft.rfft(frames, axis=1)  # [F, K]
    power = np.abs(spectrum) ** 2
    # The power of Gaussian noise is exponentially distributed: its quantile q lies at −ln(1 − q) of its mean.
    noise = np.quantile(power, QUANTILE, axis=0) / -math.log1p(-QUANTILE)
    gain = np.sqrt(np.maximum(1 - OVER_SUBTRACTION * noise / np.maximum(power, 1e-20), FLOOR))
    cleaned = np.fft.irfft(spectrum * gain, size, axis=1) * window
    result = np.zeros(len(padded))
    for index, frame in enumerate(cleaned):
        result[index * hop : index * hop + size] += frame
    return result[hop : hop + len(wave)].astype(np.float32)
