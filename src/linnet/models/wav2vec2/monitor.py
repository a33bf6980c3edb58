"""Notice that pretraining has collapsed, while the last good checkpoint is still there.

What is watched, and why (transformers#14387, #12934, #14471; fairseq#3673, #3804, #3842): one codebook entry takes
everything (perplexity → 1); with nothing left to tell apart the contrastive loss falls to 0, or climbs back to
log(K + 1); all targets point the same way (cosine saturation); the gradient vanishes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from linnet.errors import TrainingError
from linnet.models.wav2vec2.config import CollapseLimits


class CollapseMonitor:
    """Counts, per symptom, the updates in a row that showed it."""

    def __init__(self, limits: CollapseLimits, *, negatives: int, checkpoint: Path) -> None:
        self.limits, self.guessing, self.checkpoint = limits, math.log(negatives + 1), checkpoint
        self._in_a_row: dict[str, int] = defaultdict(int)
        self._best_loss = math.inf

    def check(self, step: int, figures: dict[str, float]) -> bool:
        """Whether this update looks healthy. Raises TrainingError once a symptom has lasted `patience` updates."""
        loss = figures["contrastive"]
        self._best_loss = min(self._best_loss, loss)
        if step <= self.limits.grace_steps:
            return True
        symptoms = self._symptoms(figures)
        for name in list(self._in_a_row):
            if name not in symptoms:
                del self._in_a_row[name]
        for name in symptoms:
            self._in_a_row[name] += 1
        lasting = [symptoms[name] for name, count in self._in_a_row.items() if count >= self.limits.patience]
        if lasting:
            kept = (
                f"The last good checkpoint is {self.checkpoint}: resume"
                if self.checkpoint.exists()
                else "There is no checkpoint from before; start again"
            )
            raise TrainingError(
                f"Pretraining has collapsed at update {step}: {'; '.join(lasting)}, {self.limits.patience} updates in "
                f"a row. {kept} with a lower learning rate, a larger batch or a higher diversity_weight."
            )
        return not symptoms

    def _symptoms(self, figures: dict[str, float]) -> dict[str, str]:
        limits, found = self.limits, dict[str, str]()
        loss, accuracy = figures["contrastive"], figures["accuracy"]
        for name, value in figures.items():
            if name.startswith("perplexity") and value < limits.min_perplexity:
                found[name] = f"codebook {name.removeprefix('perplexity_')} has perplexity {value:.2f}"
        if loss < limits.min_loss and accuracy < 0.5:
            found["trivial"] = f"the contrastive loss is {loss:.3f} with an accuracy of {accuracy:.2f}"
        if loss > (1 - limits.guess_margin) * self.guessing and self._best_loss < 0.9 * self.guessing:
            found["guessing"] = f"the contrastive loss is back at {loss:.3f}, guessing is {self.guessing:.3f}"
        if figures["negative_cosine"] > limits.max_negative_cosine:
            found["cosine"] = f"wrong targets have a cosine of {figures['negative_cosine']:.3f}"
        if figures["grad_norm"] < limits.min_grad_norm:
            found["gradient"] = f"the gradient's norm is {figures['grad_norm']:.1e}"
        return found
