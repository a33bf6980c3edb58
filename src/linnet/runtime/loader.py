"""Find a model by name or path and open it: the one door into the runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.bundle import DESCRIPTION, Bundle, read_bundle
from linnet.errors import BundleError, BundleNotFoundError, ConfigError
from linnet.runtime.base import Recognizer
from linnet.runtime.decoder import Decoder, FloatArray
from linnet.runtime.providers import Device, check_encoder, check_gpu_layers

if TYPE_CHECKING:
    from linnet.runtime.bsq import BSQCodec

DecoderChoice = Literal["auto", "onnx", "gguf"]
Attention = Literal["windowed", "full"]
EMBEDDED = "nano"
_ASSETS = Path(__file__).parents[1] / "assets"


def load_model(
    name_or_path: str | Path = EMBEDDED,
    *,
    decoder: DecoderChoice = "auto",
    threads: int | None = None,
    attention: Attention = "windowed",
    device: Device = "cpu",
    gpu_layers: int = 0,
    beam_size: int | None = None,
) -> Recognizer:
    """Open a recogniser: `nano` (embedded), a pulled model's name, or a bundle folder.

    `decoder` picks the text decoder of a bundle that carries several (auto: onnx, else gguf); `threads` is the number
    of cores to use (None: all physical ones); `attention` is the audio encoder's. `device` runs the encoder and
    `gpu_layers` (−1: all) of a GGUF decoder go to a GPU, once a self-test has shown that they agree with the CPU.
    `beam_size` answers are searched for side by side (None: as many as the bundle advises; 1: greedy).
    Raises BundleError, or ConfigError, which says why a device is disabled.
    """
    bundle = read_bundle(resolve(name_or_path))
    if bundle.family != "qwen3_asr" and bundle.family not in _OTHERS:
        raise BundleError(
            f"Bundle {bundle.path} is of family {bundle.family!r}; this Linnet recognises speech with: "
            f"{', '.join(['qwen3_asr', *_OTHERS])}. Choose another bundle, or upgrade: pip install --upgrade linnet"
        )
    if bundle.family == "qwen3_asr":
        return _load_qwen3_asr(bundle, decoder, threads, attention, device, gpu_layers, beam_size)
    if device != "cpu" or gpu_layers:
        raise ConfigError(
            f"Bundle {bundle.path} of family {bundle.family!r} runs on the CPU; leave device and GPU layers out."
        )
    if beam_size is not None:
        raise ConfigError(
            f"Bundle {bundle.path} of family {bundle.family!r} has a search of its own; leave the beam size out."
        )
    return _OTHERS[bundle.family](bundle, decoder, threads, attention)


def load_codec(name_or_path: str | Path, *, threads: int | None = None) -> BSQCodec:
    """Open an audio tokenizer: a pulled model's name or a bundle folder; `threads` as for `load_model`.

    Raises BundleError.
    """
    bundle = read_bundle(resolve(name_or_path))
    if bundle.family != "bsq":
        raise BundleError(
            f"Bundle {bundle.path} is of family {bundle.family!r}; encoding and decoding need one of family 'bsq'. "
            "Train one with: linnet train bsq-tiny"
        )
    from linnet.runtime.bsq import BSQCodec

    return BSQCodec(bundle, threads=threads)


def resolve(name_or_path: str | Path) -> Path:
    """Folder of the bundle meant: the embedded one, a folder with bundle.json, or a pulled model in the cache.

    An existing bundle folder wins over a name. Raises BundleNotFoundError, which lists the names there are.
    """
    path = Path(name_or_path).expanduser()
    if (path / DESCRIPTION).is_file():
        return path
    name = str(name_or_path)
    # Hugging Face names have one slash; anything else with a separator is a path.
    is_name = not path.is_absolute() and not name.startswith(".") and len(path.parts) <= 2 and ".." not in path.parts
    places = [_ASSETS, models_folder()] if is_name else []
    for place in places:
        if (place / name / DESCRIPTION).is_file():
            return place / name
    names = sorted({found.parent.name for place in (_ASSETS, models_folder()) for found in _bundles(place)})
    state = "is a folder without bundle.json" if path.is_dir() else "is neither a folder nor a model that is here"
    raise BundleNotFoundError(
        f"No model {name!r}: it {state}. Accepted: a bundle folder (as `linnet export` writes it) or one of: "
        f"{', '.join(names) or 'none yet'}. Get one with: linnet pull Qwen/Qwen3-ASR-0.6B"
    )


def models_folder() -> Path:
    """Where pulled models lie: `$LINNET_HOME/models`, by default `~/.cache/linnet/models`."""
    home = os.environ.get("LINNET_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "linnet") / "models"


def _bundles(folder: Path) -> list[Path]:
    found = [*folder.glob(f"*/{DESCRIPTION}"), *folder.glob(f"*/*/{DESCRIPTION}")]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _load_avsr(bundle: Bundle, decoder: DecoderChoice, threads: int | None, attention: Attention) -> Recognizer:
    from linnet.runtime.avsr import AVSRRecognizer

    return AVSRRecognizer(bundle, threads=threads)


def _load_qwen3_asr(
    bundle: Bundle,
    decoder: DecoderChoice,
    threads: int | None,
    attention: Attention,
    device: str,
    gpu_layers: int,
    beam_size: int | None,
) -> Recognizer:
    from linnet.runtime.qwen3_asr import Qwen3ASRRecognizer, slots_for
    from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

    width = Qwen3ASRConfig.from_bundle(bundle.model).beam_size if beam_size is None else beam_size
    if device != "cpu":
        check_device(bundle, device, threads=threads)
    opened = open_decoder(bundle, decoder, threads=threads, gpu_layers=gpu_layers, max_slots=slots_for(width))
    return Qwen3ASRRecognizer(bundle, opened, threads=threads, attention=attention, device=device, beam_size=width)


def check_device(bundle: Bundle, device: str, *, threads: int | None = None) -> None:
    """Self-test of the bundle's encoder on a device; raises ConfigError with the reason if it cannot be used."""
    from linnet.runtime.encoder import Encoder, clip_features
    from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

    config = Qwen3ASRConfig.from_bundle(bundle.model)

    def hear(where: str, samples: FloatArray) -> FloatArray:
        encoder = Encoder(bundle.path, config, threads=threads, device=where)
        try:
            return encoder(clip_features(samples, bundle.features))
        finally:
            encoder.close()

    check_encoder(hear, device)


def _load_wav2vec2(bundle: Bundle, decoder: DecoderChoice, threads: int | None, attention: Attention) -> Recognizer:
    from linnet.runtime.wav2vec2 import Wav2Vec2Recognizer

    if decoder not in ("auto", "onnx"):
        raise ConfigError(f"Bundle {bundle.path} is wav2vec 2.0, which has no {decoder} decoder; leave the choice out.")
    return Wav2Vec2Recognizer(bundle, threads=threads)


def open_decoder(
    bundle: Bundle,
    choice: DecoderChoice = "auto",
    *,
    threads: int | None = None,
    gpu_layers: int = 0,
    max_slots: int = 8,
) -> Decoder:
    """The bundle's text decoder, with room for `max_slots` sequences at a time.

    Raises MissingExtraError if it is GGUF and llama.cpp is not installed; ConfigError if `gpu_layers` cannot be or
    disagree with the CPU.
    """
    if choice not in ("auto", "onnx", "gguf"):
        raise ConfigError(f"Unknown decoder {choice!r}; accepted: 'auto', 'onnx', 'gguf'.")
    if choice == "onnx" or (choice == "auto" and bundle.has("decoder.onnx") and not gpu_layers):
        if gpu_layers:
            raise ConfigError("The ONNX decoder runs on the CPU; GPU layers need --decoder gguf.")
        from linnet.runtime.onnx_decoder import OnnxDecoder

        return OnnxDecoder(bundle.file("decoder.onnx"), threads=threads, max_slots=max_slots)
    path = bundle.file("decoder.gguf")
    from linnet.runtime.llama import LlamaDecoder

    decoder = LlamaDecoder(path, threads=threads, gpu_layers=gpu_layers, max_slots=max_slots)
    if gpu_layers:
        reference = LlamaDecoder(path, threads=threads, gpu_layers=0, max_slots=1)
        try:
            check_gpu_layers(reference, decoder, gpu_layers)
        except ConfigError:
            decoder.close()
            raise
        finally:
            reference.close()
    return decoder


_OTHERS: dict[str, Callable[[Bundle, DecoderChoice, int | None, Attention], Recognizer]] = {
    "wav2vec2": _load_wav2vec2,
    "avsr": _load_avsr,
}
