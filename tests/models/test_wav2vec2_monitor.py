"""Each sign of collapse stops a run once it lasts, and only then."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from linnet.errors import TrainingError
from linnet.models.wav2vec2.config import CollapseLimits
from linnet.models.wav2vec2.monitor import CollapseMonitor

HEALTHY = {"contrastive": 2.0, "accuracy": 0.5, "perplexity_0": 40.0, "perplexity_1": 30.0,
           "negative_cosine": 0.2, "grad_norm": 1.0, "loss": 2.5}  # fmt: skip
SYMPTOMS = {
    "codebook 1 has perplexity 1.20": {"perplexity_1": 1.2},
    "the contrastive loss is 0.010 with an accuracy of 0.10": {"contrastive": 0.01, "accuracy": 0.1},
    "the contrastive loss is back at 4.610, guessing is 4.615": {"contrastive": 4.61},
    "wrong targets have a cosine of 0.999": {"negative_cosine": 0.999},
    "the gradient's norm is 1.0e-07": {"grad_norm": 1e-7},
}


@pytest.fixture
def monitor(tmp_path: Path) -> CollapseMonitor:
    return CollapseMonitor(CollapseLimits(patience=3, grace_steps=2), negatives=100, checkpoint=tmp_path)


@pytest.mark.parametrize("message", list(SYMPTOMS))
def test_a_lasting_symptom_stops_the_run_with_its_reason(
    monitor: CollapseMonitor, message: str, tmp_path: Path
) -> None:
    assert all(monitor.check(step, HEALTHY) for step in range(1, 6))
    sick = HEALTHY | SYMPTOMS[message]
    assert not monitor.check(6, sick) and not monitor.check(7, sick)
    assert monitor.check(8, HEALTHY)  # it recovered: counting starts anew
    assert not monitor.check(9, sick) and not monitor.check(10, sick)
    with pytest.raises(TrainingError) as stopped:
        monitor.check(11, sick)
    assert message in str(stopped.value) and "update 11" in str(stopped.value) and str(tmp_path) in str(stopped.value)


def test_a_young_run_may_guess(tmp_path: Path) -> None:
    monitor = CollapseMonitor(CollapseLimits(patience=1, grace_steps=0), negatives=100, checkpoint=tmp_path / "none")
    guessing = HEALTHY | {"contrastive": math.log(101)}
    assert all(monitor.check(step, guessing) for step in range(500))  # it has never known better
    collapsed = HEALTHY | {"perplexity_0": 1.0}
    with pytest.raises(TrainingError, match="no checkpoint from before"):
        monitor.check(501, collapsed)


def test_nothing_counts_in_the_grace_period(monitor: CollapseMonitor) -> None:
    sick = HEALTHY | {"perplexity_0": 1.0}
    assert monitor.check(1, sick) and monitor.check(2, sick)
    assert not monitor.check(3, sick)
