"""Self-supervised pretraining: Gumbel product quantiser and the three losses (Baevski et al. 2020, sections 2 and 3).

The quantiser takes the *unmasked* feature-encoder output, in parallel to the masked context network. Only masked frames
are quantised and compared; softmax, Gumbel noise and losses run in float32 whatever the precision of the rest.

Shapes: B clips, T frames, n masked frames at most in a clip, C channels, G codebooks of V entries, P projection, K
negatives. Everything per masked frame is [B, n, …], padded; `valid` [B, n] says what is real.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.models.wav2vec2.config import NO_REGULARISATION, Regularisation
from linnet.models.wav2vec2.masking import masked_positions, sample_negatives
from linnet.models.wav2vec2.model import Wav2Vec2
from linnet.runtime.wav2vec2_config import Wav2Vec2Config


class Quantised(NamedTuple):
    """targets [B, n, code_dim]; codes [B, n, G]; probabilities [B, n, G, V], without noise, for the diversity loss."""

    targets: Tensor
    codes: Tensor
    probabilities: Tensor


class PretrainingLosses(NamedTuple):
    """Sums and means of one batch; `loss` is per masked frame, all terms weighted."""

    loss: Tensor
    contrastive: Tensor
    """Cross-entropy of the right target among K + 1, per masked frame; guessing gives log(K + 1)."""
    diversity: Tensor
    """1 − perplexity / (G · V): 0 if all entries are used alike."""
    penalty: Tensor
    """Mean square of the feature encoder's output."""
    masked: Tensor
    """Masked frames with at least one other in their clip: what the loss is normalised by."""
    accuracy: Tensor
    perplexity: Tensor
    """Of each codebook [G], 1 … V."""
    cosine: Tensor
    """Mean cosine of contexts with their targets."""
    negative_cosine: Tensor
    """Mean cosine of contexts with other targets: near 1, all targets look alike."""


class GumbelQuantizer(nn.Module):
    """One entry from each of G codebooks, chosen by straight-through Gumbel softmax (Jang et al. 2017)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.groups, self.entries = config.codebooks, config.codebook_size
        self.codevectors = nn.Parameter(torch.empty(1, self.groups * self.entries, config.code_dim // self.groups))
        self.weight_proj = nn.Linear(config.conv_dim[-1], self.groups * self.entries)

    def forward(self, features: Tensor, *, temperature: float, gumbel: Tensor | None = None) -> Quantised:
        """Quantise features [B, n, C]; `gumbel` [B, n, G, V] replaces the noise that training draws (evaluation: none).

        The forward pass uses the entry with the largest noisy logit, the backward pass the softmax at `temperature`.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = self.weight_proj(features.float()).unflatten(-1, (self.groups, self.entries))
            noisy = logits
            if self.training:
                if gumbel is None:
                    gumbel = -torch.empty_like(logits).exponential_().log()
                noisy = (logits + gumbel) / temperature
            codes = noisy.argmax(-1)
            books = self.codevectors.view(self.groups, self.entries, -1)
            hard = torch.stack([books[g][codes[..., g]] for g in range(self.groups)], dim=-2)
            if self.training:
                # Straight through: the value is the chosen entry's, the gradient that of the softmax. Written as a
                # correction so that no one-hot matrix is made.
                soft = noisy.softmax(-1)
                mixed = torch.einsum("bngv,gvd->bngd", soft, books.detach())
                hard = hard + (mixed - mixed.detach())
            return Quantised(hard.flatten(-2), codes, logits.softmax(-1))


class Wav2Vec2ForPreTraining(nn.Module):
    """Wav2Vec2 with quantiser and the projections that are compared."""

    def __init__(
        self,
        config: Wav2Vec2Config,
        regularisation: Regularisation = NO_REGULARISATION,
        *,
        kappa: float = 0.1,
        diversity_weight: float = 0.1,
        penalty_weight: float = 10.0,
        negatives: int = 100,
    ) -> None:
        super().__init__()
        self.config, self.kappa, self.negatives = config, kappa, negatives
        self.diversity_weight, self.penalty_weight = diversity_weight, penalty_weight
        self.wav2vec2 = Wav2Vec2(config, regularisation)
        self.target_dropout = nn.Dropout(regularisation.target_dropout)
        self.quantizer = GumbelQuantizer(config)
        self.project_hid = nn.Linear(config.hidden_size, config.projection_dim)
        self.project_q = nn.Linear(config.code_dim, config.projection_dim)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None,
        mask: Tensor,
        *,
        temperature: float = 2.0,
        negatives: Tensor | None = None,
        gumbel: Tensor | None = None,
    ) -> PretrainingLosses:
        """Losses of normalised samples [B, N] with mask [B, T].

        `negatives` [B, n, K] are ranks among a clip's masked frames, `gumbel` [B, n, G, V]; both are drawn if absent.
        """
        encoded = self.wav2vec2(samples, lengths, mask=mask)
        positions, counts = masked_positions(mask)
        contexts = self.project_hid(_take(encoded.hidden, positions))
        features = self.target_dropout(_take(encoded.features, positions))
        quantised = self.quantizer(features, temperature=temperature, gumbel=gumbel)
        with torch.autocast(samples.device.type, enabled=False):
            targets = self.project_q(quantised.targets)
            if negatives is None:
                negatives = sample_negatives(counts, positions.shape[1], self.negatives)
            # A clip with one masked frame has no wrong answer to offer.
            valid = torch.arange(positions.shape[1], device=mask.device) < counts.where(counts > 1, 0)[:, None]
            loss = self._losses(contexts.float(), targets, quantised, negatives, valid)
            penalty = encoded.raw.float().pow(2).mean()
            return loss._replace(loss=loss.loss + self.penalty_weight * penalty, penalty=penalty)

    def _losses(
        self, contexts: Tensor, targets: Tensor, quantised: Quantised, negatives: Tensor, valid: Tensor
    ) -> PretrainingLosses:
        """Contrastive and diversity loss; the penalty is left at zero."""
        masked = valid.sum().clamp(min=1)
        # All cosines within a clip at once, [B, n, n]: a matrix product instead of K copies of the targets.
        cosines = F.normalize(contexts, dim=-1, eps=1e-8) @ F.normalize(targets, dim=-1, eps=1e-8).transpose(1, 2)
        negatives = negatives.clamp(max=cosines.shape[-1] - 1)
        right = cosines.diagonal(dim1=1, dim2=2)[..., None]
        wrong = cosines.gather(2, negatives)
        codes = quantised.codes
        flat = (codes * self._radix(codes)).sum(-1)  # one number per combination of entries
        same = flat[:, None].expand(-1, flat.shape[1], -1).gather(2, negatives) == flat[..., None]
        logits = torch.cat([right, wrong.masked_fill(same, float("-inf"))], dim=-1) / self.kappa
        per_frame = torch.logsumexp(logits, -1) - logits[..., 0]
        # A frame whose negatives all equal its target is right for nothing; its loss is 0, and it counts as wrong.
        hits = (logits[..., 0] > logits[..., 1:].amax(-1)) & ~same.all(-1)
        share = quantised.probabilities.masked_fill(~valid[..., None, None], 0.0).sum((0, 1)) / masked
        perplexity = torch.exp(-torch.xlogy(share, share).sum(-1))
        total = self.config.codebooks * self.config.codebook_size
        contrastive = per_frame.masked_fill(~valid, 0.0).sum() / masked
        diversity = (total - perplexity.sum()) / total

        def mean(values: Tensor) -> Tensor:
            return values.detach().masked_fill(~valid, 0.0).sum() / masked

        return PretrainingLosses(
            loss=contrastive + self.diversity_weight * diversity,
            contrastive=contrastive,
            diversity=diversity,
            penalty=contrastive.new_zeros(()),
            masked=valid.sum(),
            accuracy=mean(hits.float()),
            perplexity=perplexity,
            cosine=mean(right[..., 0]),
            negative_cosine=mean(wrong.mean(-1)),
        )

    def _radix(self, codes: Tensor) -> Tensor:
        return self.config.codebook_size ** torch.arange(self.config.codebooks, device=codes.device)


def initialise_heads(model: Wav2Vec2ForPreTraining, *, quantizer_std: float = 1.0) -> None:
    """Fresh quantiser and projections as fairseq draws them; the rest is `model.initialise`."""
    nn.init.normal_(model.quantizer.weight_proj.weight, std=quantizer_std)
    nn.init.zeros_(model.quantizer.weight_proj.bias)
    nn.init.uniform_(model.quantizer.codevectors)
    model.project_hid.reset_parameters()
    model.project_q.reset_parameters()


def _take(x: Tensor, positions: Tensor) -> Tensor:
    """x [B, T, D] at positions [B, n] → [B, n, D]."""
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
