"""Matrix products that stay on the calling thread."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linnet.errors import ConfigError

FloatArray = npt.NDArray[np.float32]
_SMALL = 2**18
"""Multiplications up to which OpenBLAS starts no threads (SMP_THRESHOLD_MIN · GEMM_MULTITHREAD_THRESHOLD)."""


def product(a: FloatArray, b: FloatArray) -> FloatArray:
    """a [m, k] times b [k, n] in float32, in pieces of rows too small for NumPy's OpenBLAS to share among threads.

    Its threads wait busily for some 30 ms after every product, and the neural network that runs next has a core less:
    a log-mel of half a second (0.1 ms) cost 32 ms of processor time, and made a tokenizer take twice its time
    (docs/log.md). With another BLAS it is the same product, in pieces. Raises ConfigError if the shapes do not fit.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ConfigError(f"Shapes {a.shape} and {b.shape} have no product; accepted: [m, k] and [k, n].")
    (m, k), n = a.shape, b.shape[1]
    a, b, out = np.ascontiguousarray(a), np.ascontiguousarray(b), np.empty((m, n), np.float32)
    rows = max(1, _SMALL // max(1, k * n))
    whole = m - m % rows
    np.matmul(a[:whole].reshape(-1, rows, k), b, out=out[:whole].reshape(-1, rows, n))
    np.matmul(a[whole:], b, out=out[whole:])
    return out
