"""Qwen3-ASR checkpoints in the official layout: read them into the torch module, write trained ones back.

What `save_checkpoint` writes is what `linnet.export.qwen3_asr.convert` reads, so the embedded model and the published
ones go through the same conversion.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from linnet.errors import CheckpointError
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.export.safetensors import open_checkpoint
from linnet.export.tokenizer import write_tokenizer
from linnet.models.qwen3_asr.adapter_config import Bits
from linnet.models.qwen3_asr.frozen import FrozenLinear, freeze_layers
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig
from linnet.train.run_folder import RunFolder


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint in memory: shape, float32 weights under the module's names, tokenizer."""

    config: Qwen3ASRConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer


def load_pretrained(path: Path) -> Pretrained:
    """Read a checkpoint folder (official or `-hf` layout) or a run folder. Raises CheckpointError."""
    with as_checkpoint(path) as folder:
        return Pretrained(read_config(folder), load_weights(folder), load_tokenizer(folder))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, whichever files it comes in. Raises CheckpointError."""
    with tempfile.TemporaryDirectory() as work:
        write_tokenizer(folder, Path(work) / "tokenizer.json")
        return Tokenizer.from_file(str(Path(work) / "tokenizer.json"))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Float32 weights of a checkpoint folder, without the tied head. Raises CheckpointError."""
    tensors = open_checkpoint(folder)
    return {name: torch.from_numpy(tensors.get(name)) for name in tensors.names() if name != "lm_head.weight"}


def load_frozen(folder: Path, *, dtype: torch.dtype, decoder: bool = True, bits: Bits | None = None) -> Qwen3ASR:
    """The network of a checkpoint folder in `dtype`, nothing trainable; without `decoder` only its encoder can run.

    `bits`: quantise the transformer layers' matrices (frozen.py). Rows of a matrix pass through memory in float32, so
    the peak is little more than the result. Raises CheckpointError.
    """
    with open_checkpoint(folder) as tensors:
        with torch.device("meta"):
            asr = Qwen3ASR(read_config(folder))
        if not decoder:
            asr.model = nn.Identity()  # type: ignore[assignment]  # a third of the 0.6B model's weights remain
        asr.to(dtype)
        if bits is not None:
            freeze_layers(asr, bits)
        asr.to_empty(device="cpu").requires_grad_(False)
        asr.audio_tower.fill_positions()
        for name, fill in _parts(asr):
            row = 0
            for block in tensors.get_rows(name, at_once=1024):
                fill(row, torch.from_numpy(block))
                row += len(block)
    asr.audio_tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster on CPU
    return asr.eval()


def _parts(asr: Qwen3ASR) -> Iterator[tuple[str, Callable[[int, Tensor], None]]]:
    """Every tensor that a checkpoint gives, with what takes its rows."""

    def copy(parameter: Tensor, first: int, rows: Tensor) -> None:
        parameter.data[first : first + len(rows)] = rows

    for name, parameter in asr.named_parameters():
        yield name, partial(copy, parameter)
    for name, module in asr.named_modules():
        if isinstance(module, FrozenLinear):
            yield f"{name}.weight", module.fill


@contextmanager
def as_checkpoint(path: Path, *, which: str = "best") -> Iterator[Path]:
    """A checkpoint folder as it is; a run folder's `which` checkpoint as a temporary folder in the official layout.

    Raises CheckpointError.
    """
    if not (path / "checkpoints").is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="linnet-checkpoint-") as work:
        write_run_checkpoint(RunFolder(path), Path(work), which)
        yield Path(work)


def write_run_checkpoint(
    run: RunFolder, folder: Path, which: str, *, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Write checkpoints/<which> of a run folder in the official layout; returns its state. Raises CheckpointError."""
    if "adapter" in run.config():
        raise CheckpointError(
            f"{run.path} holds an adapter and no whole model; give the base it was trained on, or export it."
        )
    weights, state = run.load(which)
    asr = {key.removeprefix("asr."): value for key, value in weights.items() if key.startswith("asr.")}
    shape = read_shape(run.path)
    languages = json.loads((run.path / "shape.json").read_text()).get("support_languages", [])
    tokenizer = Tokenizer.from_file(str(run.path / "tokenizer.json"))
    save_checkpoint(folder, asr, shape, tokenizer, languages=languages, dtype=dtype)
    return state


def save_assets(folder: Path, tokenizer: Tokenizer, config: Qwen3ASRConfig, *, languages: Sequence[str]) -> None:
    """Write tokenizer.json and the shape as `shape.json` (official layout) into a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = official_config(config, languages) | _generation_config(config)
    (folder / "shape.json").write_text(json.dumps(described, indent=2) + "\n")


def read_shape(run: Path) -> Qwen3ASRConfig:
    """The shape that `save_assets` wrote. Raises CheckpointError."""
    try:
        described = json.loads((run / "shape.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{run} is not a run folder of Qwen3-ASR: it has no shape.json.") from None
    ends, beam_size = tuple(described["eos_token_id"]), described.get("num_beams", 1)
    return Qwen3ASRConfig.from_checkpoint(described, eos_token_ids=ends, beam_size=beam_size)


def save_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: Qwen3ASRConfig,
    tokenizer: Tokenizer,
    *,
    languages: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `weights` (the module's names) as an official-layout checkpoint folder in `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(official_config(config, languages), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(_generation_config(config), indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"thinker.{name}": tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def _generation_config(config: Qwen3ASRConfig) -> dict[str, Any]:
    """generation_config.json: what ends an answer, and how to search for it."""
    return {"eos_token_id": list(config.eos_token_ids), "do_sample": False, "num_beams": config.beam_size}


def official_config(config: Qwen3ASRConfig, languages: Sequence[str] = ()) -> dict[str, Any]:
    """config.json as the official package writes it (the keys that shape the network); `languages` by Qwen's names."""
    sections = config.head_dim // 2
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": list(languages),
        "thinker_config": {
            "model_type": "qwen3_asr_thinker",
            "audio_config": {
                "model_type": "qwen3_asr_audio_encoder",
                "num_mel_bins": config.n_mels,
                "downsample_hidden_size": config.conv_channels,
                "d_model": config.d_model,
                "encoder_layers": config.encoder_layers,
                "num_hidden_layers": config.encoder_layers,
                "encoder_attention_heads": config.encoder_heads,
                "encoder_ffn_dim": config.encoder_ffn_dim,
                "output_dim": config.output_dim,
                "activation_function": "gelu",
                "n_window": config.chunk_frames // 2,
                "n_window_infer": config.window_tokens
                // config.chunk_tokens(config.chunk_frames)
                * config.chunk_frames,
            },
            "text_config": {
                "model_type": "qwen3_asr_text",
                "vocab_size": config.vocab_size,
                "hidden_size": config.hidden_size,
                "num_hidden_layers": config.decoder_layers,
                "num_attention_heads": config.decoder_heads,
                "num_key_value_heads": config.decoder_kv_heads,
                "head_dim": config.head_dim,
                "intermediate_size": config.intermediate_size,
                "hidden_act": "silu",
                "rms_norm_eps": config.rms_norm_eps,
                "rope_theta": config.rope_theta,
                "rope_scaling": {
                    "rope_type": "default",
                    "mrope_interleaved": True,
                    "mrope_section": [sections - 2 * (sections // 3), sections // 3, sections // 3],
                },
                "tie_word_embeddings": True,
            },
            "audio_token_id": config.audio_token_id,
            "audio_start_token_id": config.audio_start_token_id,
            "audio_end_token_id": config.audio_end_token_id,
        },
    }
