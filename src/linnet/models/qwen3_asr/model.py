"""Qwen3-ASR as a plain torch module: convolutional audio encoder, Qwen3 text decoder, read top to bottom.

Source: qwen-asr 0.0.6, `modeling_qwen3_asr.py` (Apache-2.0), checked against its outputs in `tests/parity`.
Parameter names are the official ones without the `thinker.` prefix.

Shapes: B clips, F mel frames, C chunks of ≤ 100 frames, L encoder tokens, W attention windows, D encoder width,
T decoder positions, H decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linnet.models.qwen3_asr.positions import rotary_table, rotate, sinusoids
from linnet.runtime.qwen3_asr_config import Qwen3ASRConfig

Attention = Literal["windowed", "full"]


@dataclass
class KVCache:
    """Keys and values of one decoder layer, [B, kv heads, T, head_dim]; grows by concatenation."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions; return everything so far."""
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], dim=2)
        self.values = values if self.values is None else torch.cat([self.values, values], dim=2)
        return self.keys, self.values


class Qwen3ASR(nn.Module):
    """Encoder and decoder together; `forward` is teacher forcing, `generate` greedy decoding with a KV cache."""

    def __init__(self, config: Qwen3ASRConfig, *, attention: Attention = "windowed", drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.audio_tower = AudioEncoder(config, attention=attention, drop_path=drop_path)
        self.model = TextDecoder(config, drop_path=drop_path)
        self.gradient_checkpointing = False

    def forward(self, mels: Sequence[Tensor], tokens: Tensor) -> Tensor:
        """Logits [B, T, V] for prompts `tokens` [B, T] (right-padded) whose `audio_token_id` places take the audio.

        `mels`: one [n_mels, F] per row of `tokens`.
        """
        audio = self.audio_tower(mels)
        return self.logits(self.model(self.embed(tokens, audio), audio_places=self.audio_places(tokens)))

    def audio_places(self, tokens: Tensor) -> Tensor:
        """Where prompts [B, T] take the audio: the only positions that adapters of the decoder may touch."""
        return tokens == self.config.audio_token_id

    def embed(self, tokens: Sequence[int] | Tensor, audio: Sequence[Tensor]) -> Tensor:
        """Token embeddings [B, T, H] with each clip's encoder output (list of [L, H]) at its audio places."""
        assert isinstance(tokens, Tensor)
        embeddings = self.model.embed_tokens(tokens)
        places = self.audio_places(tokens)[..., None]
        return embeddings.masked_scatter(places, torch.cat(list(audio)).to(embeddings.dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., V] through the tied embedding table."""
        return F.linear(hidden, self.model.embed_tokens.weight)

    def generate(
        self, mels: Sequence[Tensor], prompts: Sequence[Sequence[int]], *, max_new_tokens: int
    ) -> list[list[int]]:
        """Greedy answers (token ids without the end token), one per clip; prompts may differ in length."""
        with torch.no_grad():
            return self.answer(self.audio_tower(mels), prompts, max_new_tokens=max_new_tokens)

    @torch.no_grad()
    def answer(
        self, audio: Sequence[Tensor], prompts: Sequence[Sequence[int]], *, max_new_tokens: int
    ) -> list[list[int]]:
        """`generate` from encoder outputs [L, H] that are there already."""
        # Left padding would need a mask in every layer; grouping rows of equal length keeps the decoder mask-free.
        answers: list[list[int]] = [[] for _ in prompts]
        by_length: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(row)
        for rows in by_length.values():
            tokens = torch.tensor([prompts[row] for row in rows], device=audio[0].device)
            caches = [KVCache() for _ in self.model.layers]
            embeddings = self.embed(tokens, [audio[row] for row in rows])
            hidden = self.model(embeddings, caches=caches, audio_places=self.audio_places(tokens))
            done = torch.zeros(len(rows), dtype=torch.bool, device=tokens.device)
            for step in range(max_new_tokens):
                chosen = self.logits(hidden[:, -1]).argmax(-1)
                for eos in self.config.eos_token_ids:
                    done |= chosen == eos
                if bool(done.all()):
                    break
                for place, row in enumerate(rows):
                    if not done[place]:
                        answers[row].append(int(chosen[place]))
                if step + 1 < max_new_tokens:
                    hidden = self.model(self.model.embed_tokens(chosen[:, None]), caches=caches)
        return answers


class AudioEncoder(nn.Module):
    """Log-mel clips → decoder-width embeddings: convolutions per 1 s chunk, transformer per attention window."""

    def __init__(self, config: Qwen3ASRConfig, *, attention: Attention = "windowed", drop_path: float = 0.0) -> None:
        super().__init__()
        self.config, self.attention = config, attention
        channels = config.conv_channels
        self.conv2d1 = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.conv2d2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv2d3 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv_out = nn.Linear(config.conv_out_features, config.d_model, bias=False)
        self.layers = nn.ModuleList(EncoderLayer(config, drop_path) for _ in range(config.encoder_layers))
        self.ln_post = nn.LayerNorm(config.d_model)
        self.proj1 = nn.Linear(config.d_model, config.d_model)
        self.proj2 = nn.Linear(config.d_model, config.output_dim)
        self.adapters = nn.ModuleDict()  # "<layer>": behind that layer, "output": on the embeddings (adapters.py)
        self.gradient_checkpointing = False
        self.positions: Tensor
        self.register_buffer("positions", torch.empty(0), persistent=False)
        self.fill_positions()

    def fill_positions(self) -> None:
        """Compute the position table, which no checkpoint holds."""
        self.positions = sinusoids(self.config.chunk_tokens(self.config.chunk_frames), self.config.d_model)

    def forward(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Clips [n_mels, F_b] → embeddings [L_b, output_dim], L_b by `config.audio_tokens(F_b)`."""
        hidden, lengths = self.hidden(mels)
        embeddings = self.adapt_output(self.project(hidden), lengths)
        return list(embeddings.split(lengths))

    def project(self, hidden: Tensor) -> Tensor:
        """[..., D] → [..., output_dim]."""
        return self.proj2(F.gelu(self.proj1(hidden)))

    def adapt_output(self, embeddings: Tensor, lengths: Sequence[int]) -> Tensor:
        """`project`ed clips [ΣL, output_dim] after the adapter there, if there is one."""
        if "output" not in self.adapters:
            return embeddings
        x, keep = _pad_windows(embeddings, self._windows(lengths))
        return self.adapters["output"](x, keep)[keep]

    def hidden(self, mels: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Transformer output after `ln_post`, all clips one after another [ΣL, D], and each clip's L."""
        tokens, lengths = self.convolve(mels)
        return self.ln_post(self.transform(tokens, lengths)), lengths

    def transform(self, tokens: Tensor, lengths: Sequence[int], *, start: int = 0, stop: int | None = None) -> Tensor:
        """Tokens [ΣL, D] that enter layer `start` → what enters layer `stop` (by default: what enters `ln_post`).

        The adapter behind a layer belongs to what follows it: it runs first if `start` is the next layer.
        """
        last = len(self.layers) if stop is None else stop
        x, keep = _pad_windows(tokens, self._windows(lengths))
        whole = bool(keep.all())
        mask, kept = (None, None) if whole else (keep[:, None, None, :], keep)
        for index in range(start, last):
            x = self._adapt(index - 1, x, kept)
            if self.gradient_checkpointing and self.training:
                x = checkpoint(self.layers[index], x, mask, use_reentrant=False)
            else:
                x = self.layers[index](x, mask)
        if stop is None:
            x = self._adapt(last - 1, x, kept)
        return x[keep]

    def _adapt(self, layer: int, x: Tensor, keep: Tensor | None) -> Tensor:
        name = str(layer)
        return self.adapters[name](x, keep) if name in self.adapters else x

    def convolve(self, mels: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Clips → conv tokens with positions, all clips one after another [ΣL, D], and each clip's L.

        The official rule: the tail chunk of a longer clip is zero-padded to full length and convolved whole, but a clip
        of a single short chunk is not padded. Zeroing the activations beyond such a clip's end after every
        convolution is the same as not padding it, and lets all chunks share one batch.
        """
        size = self.config.chunk_frames
        parts = [mel.split(size, dim=1) for mel in mels]
        # [C]: frames that the convolutions may see, and tokens to keep, of every chunk
        seen = [size if len(clip) > 1 else clip[0].shape[1] for clip in parts for _ in clip]
        valid_tokens = [self.config.chunk_tokens(part.shape[1]) for clip in parts for part in clip]
        width = max(seen)
        x = torch.stack([F.pad(part, (0, width - part.shape[1])) for clip in parts for part in clip])
        x = x[:, None].contiguous(memory_format=torch.channels_last)  # [C, 1, n_mels, width]
        frames_left = torch.tensor(seen, device=x.device)
        for conv in (self.conv2d1, self.conv2d2, self.conv2d3):
            x = F.gelu(conv(x))
            if min(seen) < width:
                frames_left = (frames_left + 1) // 2
                x = x * (torch.arange(x.shape[3], device=x.device) < frames_left[:, None])[:, None, None, :]
        x = self.conv_out(x.permute(0, 3, 1, 2).flatten(2))  # [C, tokens, D]
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        keep = torch.arange(x.shape[1], device=x.device) < torch.tensor(valid_tokens, device=x.device)[:, None]
        return x[keep], [self.config.audio_tokens(mel.shape[1]) for mel in mels]

    def _windows(self, lengths: Sequence[int]) -> list[int]:
        """Lengths of the attention windows, clip after clip; a window never spans two clips."""
        if self.attention == "full":
            return list(lengths)
        size = self.config.window_tokens
        return [min(size, length - start) for length in lengths for start in range(0, length, size)]


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer with biased projections (as Whisper's)."""

    def __init__(self, config: Qwen3ASRConfig, drop_path: float) -> None:
        super().__init__()
        self.self_attn = EncoderAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.self_attn(self.self_attn_layer_norm(x), mask))
        return x + self.drop_path(self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))))


class EncoderAttention(nn.Module):
    """Bidirectional multi-head attention inside one window."""

    def __init__(self, config: Qwen3ASRConfig) -> None:
        super().__init__()
        self.heads = config.encoder_heads
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class TextDecoder(nn.Module):
    """Qwen3 decoder over embeddings, causal, with plain rotary positions.

    The official model uses interleaved three-stream rotary positions (MRoPE); for text and audio all three streams are
    equal, and the result is plain RoPE (`tests/models/test_qwen3_asr_model.py` proves it on a long prompt).
    """

    def __init__(self, config: Qwen3ASRConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, drop_path) for _ in range(config.decoder_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.adapters = nn.ModuleDict()  # "<layer>": behind that layer, on audio positions alone (adapters.py)
        self.gradient_checkpointing = False

    def forward(
        self,
        embeddings: Tensor,
        *,
        caches: Sequence[KVCache] | None = None,
        audio_places: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [B, T, H] → hidden states [B, T, H]; with caches, T continues what they hold.

        `audio_places` [B, T] marks audio, which adapters change; a step that holds none (one token of an answer) needs
        no mask. Padding belongs on the right: causal attention then never looks at it.
        """
        past = caches[0].keys.shape[2] if caches and caches[0].keys is not None else 0
        rotary = rotary_table(past, embeddings.shape[1], self.config, embeddings)
        x = embeddings
        for index, layer in enumerate(self.layers):
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, rotary, None, use_reentrant=False)
            else:
                x = layer(x, rotary, caches[index] if caches else None)
            if str(index) in self.adapters and audio_places is not None:
                x = self._adapt(index, x, audio_places)
        return self.norm(x)

    def _adapt(self, index: int, x: Tensor, audio_places: Tensor) -> Tensor:
        # Windows as in the encoder. The text comes after the audio, so what is mixed here never holds the answer.
        size = self.config.window_tokens
        lengths: list[int] = audio_places.sum(dim=1).tolist()
        windows = [min(size, length - start) for length in lengths for start in range(0, length, size)]
        if not windows:
            return x
        padded, keep = _pad_windows(x[audio_places], windows)
        return x.masked_scatter(audio_places[..., None], self.adapters[str(index)](padded, keep)[keep])


class DecoderLayer(nn.Module):
    """Pre-norm layer: grouped-query attention and SwiGLU."""

    def __init__(self, config: Qwen3ASRConfig, drop_path: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = DecoderAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None) -> Tensor:
        x = x + self.drop_path(self.self_attn(self.input_layernorm(x), rotary, cache))
        return x + self.drop_path(self.mlp(self.post_attention_layernorm(x)))


class DecoderAttention(nn.Module):
    """Causal grouped-query attention with RMS-normalised queries and keys."""

    def __init__(self, config: Qwen3ASRConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.decoder_heads // config.decoder_kv_heads
        self.q_proj = nn.Linear(config.hidden_size, config.decoder_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.decoder_kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.decoder_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.decoder_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        precise = self.q_norm.weight.dtype  # under autocast q and k are shorter than the weights
        q, k = self.q_norm(q.to(precise)), self.k_norm(k.to(precise))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.append(k, v)
        k, v = k.repeat_interleave(self.groups, dim=1), v.repeat_interleave(self.groups, dim=1)
        if q.shape[2] == k.shape[2]:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        else:  # continuing a cache: position i may see everything before it
            past = k.shape[2] - q.shape[2]
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(past)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): leave a residual branch out for a random clip.

    Regularises like dropout at a hundredth of its cost on CPU, where drawing a random number per element is slow.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.probability
        return branch * (keep / (1 - self.probability)).to(branch.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, config: Qwen3ASRConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def _pad_windows(tokens: Tensor, windows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """[ΣL, D] cut into windows → right-padded [W, max, D] and the places that are real [W, max]."""
    padded = nn.utils.rnn.pad_sequence(list(tokens.split(list(windows))), batch_first=True)
    lengths = torch.tensor(windows, device=tokens.device)
    return padded, torch.arange(padded.shape[1], device=tokens.device) < lengths[:, None]
