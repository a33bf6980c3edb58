"""How much memory training an adapter takes, before it is tried: weights, activations by clip length, gradients, Adam.

Counted from the shapes; two constants were measured (benchmarks/adapter_memory.py compares plan and measurement):
what Python and torch take before any model, and what the allocator keeps beyond live tensors. Torch-free.

Shapes: S seconds of audio in a batch, C chunks, L encoder tokens, D encoder width, I encoder feed-forward width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linnet.errors import ConfigError
from linnet.export.qwen3_asr_adapter import count_parameters, inner_width, parse_sites
from linnet.export.qwen3_asr_checkpoint import expected_shapes, read_config
from linnet.models.qwen3_asr.adapter_config import BITS, block_size
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

if TYPE_CHECKING:
    from linnet.models.qwen3_asr.adapter_config import AdapterTrainConfig

BASELINE_BYTES = 420_000_000
"""Python, torch (CPU), accelerate and the tokenizer, before weights."""
TEXT_TOKENS_PER_S = 5.0
ANSWER_TOKENS, PROMPT_TOKENS = 4, 16
LENGTHS_S = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes by purpose for a batch of `audio_s` seconds."""

    audio_s: float
    weights: int
    adapter: int
    """The adapter's parameters, float32."""
    gradients: int
    optimizer: int
    """Two moments per parameter (AdamW)."""
    activations: int
    baseline: int = BASELINE_BYTES

    @property
    def total(self) -> int:
        """Peak of the process."""
        return self.baseline + self.weights + self.adapter + self.gradients + self.optimizer + self.activations


def make_plan(config: AdapterTrainConfig, shape: Qwen3ASRConfig, audio_s: float) -> Plan:
    """The plan for batches of `audio_s` seconds of audio on a network of this shape."""
    element = 4 if config.backbone == "fp32" else 2
    needs_decoder = config.loss != "feature"
    expected = expected_shapes(shape)
    counted = {name: math.prod(size) for name, size in expected.items() if name != "lm_head.weight"}
    loaded = {name: n for name, n in counted.items() if needs_decoder or name.startswith("audio_tower")}
    weights = sum(loaded.values()) * element
    if bits := BITS.get(config.backbone):
        for name in loaded:
            size = expected[name]
            if ".layers." in name and len(size) == 2:
                scales = loaded[name] // block_size(size[1], bits) * (4 if bits == 8 else 2)
                weights += loaded[name] * bits // 8 + scales - loaded[name] * element
    parameters = count_parameters(config.adapter, shape)
    return Plan(
        audio_s=audio_s,
        weights=weights,
        adapter=parameters * 4,
        gradients=parameters * 4,
        optimizer=parameters * 8,
        activations=_activations(config, shape, audio_s, element) + _dequantised(config, loaded, expected),
    )


def longest_clip_s(config: AdapterTrainConfig, shape: Qwen3ASRConfig, limit_bytes: float) -> float:
    """The longest batch in seconds whose plan fits; 0 if not even the weights do."""
    low, high = 0.0, 3600.0
    if make_plan(config, shape, 0.5).total > limit_bytes:
        return 0.0
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if make_plan(config, shape, middle).total <= limit_bytes else (low, middle)
    return low


def plan_text(config: AdapterTrainConfig) -> str:
    """The table behind `--plan`. Raises ConfigError without a base, CheckpointError if it cannot be read."""
    shape = _shape(config)
    parameters = count_parameters(config.adapter, shape)
    sites = ", ".join(config.adapter.sites)
    lines = [
        f"{config.adapter.mode} adapter at {sites}: {parameters:,} trainable parameters; {config.loss} loss; "
        f"frozen weights in {config.backbone}",
        "",
        f"{'batch':>8} {'weights':>9} {'adapter':>9} {'gradients':>9} {'optimizer':>9} {'activations':>11} "
        f"{'baseline':>9} {'total':>9}   MB",
    ]
    for audio_s in sorted({*LENGTHS_S, config.batch_audio_s}):
        plan = make_plan(config, shape, audio_s)
        parts = (plan.weights, plan.adapter, plan.gradients, plan.optimizer)
        mb = [f"{part / 1e6:9.1f}" for part in parts]
        mark = "  ← batch_audio_s" if audio_s == config.batch_audio_s else ""
        lines.append(
            f"{audio_s:6.0f} s {' '.join(mb)} {plan.activations / 1e6:11.1f} {plan.baseline / 1e6:9.1f} "
            f"{plan.total / 1e6:9.1f}{mark}"
        )
    lines.append("")
    for limit in sorted({4.0, 8.0, config.memory_gb or 4.0}):
        longest = longest_clip_s(config, shape, limit * 1e9)
        fits = f"batches and clips of up to {longest:.0f} s fit" if longest else "nothing fits, not even the weights"
        lines.append(f"in {limit:g} GB: {fits}")
    return "\n".join(lines) + "\n"


def check_budget(config: AdapterTrainConfig) -> None:
    """Raise ConfigError if `memory_gb` is set and the plan exceeds it."""
    if config.memory_gb is None:
        return
    shape = _shape(config)
    longest_s = max(config.batch_audio_s, config.max_duration_s)  # one long clip is a batch of its own
    plan = make_plan(config, shape, longest_s)
    if plan.total > config.memory_gb * 1e9:
        fits = longest_clip_s(config, shape, config.memory_gb * 1e9)
        advice = (
            f"set --batch-audio-s and --max-duration-s to {fits:.0f} or less"
            if fits >= 1
            else "use --loss feature, which needs no decoder, or --backbone int8 or int4"
        )
        raise ConfigError(
            f"Training would take {plan.total / 1e9:.2f} GB for batches of {longest_s:g} s, more than the "
            f"{config.memory_gb:g} GB of --memory-gb; {advice}. --plan shows the parts."
        )


def _activations(config: AdapterTrainConfig, shape: Qwen3ASRConfig, audio_s: float, element: int) -> int:
    """The larger of two peaks: the convolutions, or the layers above the first adapter, whose inputs are kept."""
    tokens = math.ceil(audio_s * 100 / shape.chunk_frames) * shape.chunk_tokens(shape.chunk_frames)
    chunks = math.ceil(audio_s * 100 / shape.chunk_frames)
    mel = 2 * int(audio_s * 100) * shape.n_mels * (4 + element)
    bands, frames = (shape.n_mels + 1) // 2, (shape.chunk_frames + 1) // 2
    first_map = chunks * shape.conv_channels * bands * frames * element
    convolution = int(CONVOLUTION_MAPS * first_map)
    width, ffn = shape.d_model, shape.encoder_ffn_dim
    trained = _trained_layers(config, shape)
    # Kept per token and layer: two norms' inputs and outputs, q, k, v, attention, GELU's input and output.
    per_layer = tokens * (9 * width + 2 * ffn) * element
    if config.gradient_checkpointing:
        kept = trained * tokens * width * element + (per_layer if trained else 0)
    else:
        kept = trained * per_layer
    running = tokens * (4 * width + 2 * ffn) * element  # the layer at work, below the first adapter
    branches = sum(
        tokens * (6 * site.width + 12 * inner_width(config.adapter, site, shape)) * 4
        for site in parse_sites(config.adapter, shape)
    )
    outputs = 6 * tokens * shape.output_dim * 4
    through_encoder = running + kept + branches + outputs
    if config.loss != "feature":
        through_encoder += _decoder(config, shape, tokens, audio_s, element)
    return mel + max(convolution, through_encoder)


CONVOLUTION_MAPS = 3.0
"""Live feature maps of the first convolution's size at the peak: its output, GELU's, and the kernel's own copy."""


DEQUANTISED_COPIES = 2
"""Matrices of the largest size that a quantised backbone takes beside its weights, in bf16: the buffer and what the
product makes of it. Measured."""


def _dequantised(config: AdapterTrainConfig, loaded: Mapping[str, int], expected: Mapping[str, tuple[int, ...]]) -> int:
    """The frozen matrices of the layers while they are multiplied by; 0 if they are used as they are stored."""
    if config.backbone not in BITS:
        return 0
    return (
        DEQUANTISED_COPIES
        * 2
        * max(count for name, count in loaded.items() if ".layers." in name and len(expected[name]) == 2)
    )


def _trained_layers(config: AdapterTrainConfig, shape: Qwen3ASRConfig) -> int:
    """Encoder layers that gradients pass through."""
    places = [site.layer for site in parse_sites(config.adapter, shape) if site.part == "encoder"]
    lowest = [layer for layer in places if layer is not None]
    if not lowest:
        return 0
    return shape.encoder_layers - min(lowest) - (config.adapter.mode != "lora")


def _decoder(config: AdapterTrainConfig, shape: Qwen3ASRConfig, tokens: int, audio_s: float, element: int) -> int:
    """Everything the decoder keeps for the gradient that goes back to the audio."""
    answer = math.ceil(TEXT_TOKENS_PER_S * audio_s) + ANSWER_TOKENS
    positions = tokens + answer + PROMPT_TOKENS
    queries, keys = shape.decoder_heads * shape.head_dim, shape.decoder_kv_heads * shape.head_dim
    attention = 6 * queries + 4 * keys + 4 * shape.hidden_size
    per_layer = positions * (attention + 4 * shape.intermediate_size) * element
    if config.gradient_checkpointing:
        kept = shape.decoder_layers * positions * shape.hidden_size * element + per_layer
    else:
        kept = shape.decoder_layers * per_layer
    logits = answer * shape.vocab_size * (element * 2 + 4 * 3)
    return kept + logits


def _shape(config: AdapterTrainConfig) -> Qwen3ASRConfig:
    if config.base is None:
        raise ConfigError("No base: give --base the checkpoint folder or run folder that the adapter is for.")
    if (config.base / "shape.json").is_file():
        import json

        described = json.loads((config.base / "shape.json").read_text())
        return Qwen3ASRConfig.from_checkpoint(described, eos_token_ids=tuple(described["eos_token_id"]))
    return read_config(config.base)
