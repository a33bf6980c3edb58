"""Stopping when validations no longer improve, and the learning rate that falls before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from linear_task import LinearConfig, LinearTask

from linnet.errors import ConfigError
from linnet.train.trainer import fit


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_it_stops_after_its_patience_with_a_falling_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([0.9, 0.5, 0.6, 0.5, 0.4, 0.7, 0.4, 0.8, 0.1])
    monkeypatch.setattr(LinearTask, "validate", lambda self, model: {"wer": next(figures)})
    config = replace(
        LinearConfig(), run_dir=tmp_path / "run", steps=100, schedule="constant", warmup_steps=0, learning_rate=0.01,
        patience=3, plateau_lr_ratio=0.5, validate_every=2, log_every=2, save_every=50,
    )  # fmt: skip
    run = fit(config, quiet=True)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["dev_wer"] for line in lines if "dev_wer" in line] == [0.9, 0.5, 0.6, 0.5, 0.4, 0.7, 0.4, 0.8]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.005, 0.0025, 0.0025, 0.00125, 0.000625])
    assert run.load("last")[1]["step"] == 16 and run.load("best")[1]["best"] == 0.4


def test_options_out_of_range_are_named() -> None:
    for bad in ({"patience": -1}, {"plateau_lr_ratio": 0.0}, {"plateau_lr_ratio": 1.5}):
        with pytest.raises(ConfigError, match="patience"):
            replace(LinearConfig(), **bad)  # type: ignore[arg-type]
