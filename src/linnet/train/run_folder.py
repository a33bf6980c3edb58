"""The run folder: config.json, meta.json, metrics.jsonl and checkpoints/{last,best}. Only this file knows its layout.

A checkpoint holds trainable weights (model.safetensors), and what resuming needs (state.pt, read with
weights_only=True). It is written beside and renamed, so that an interruption never leaves half a checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linnet.environment import provenance
from linnet.errors import CheckpointError, ConfigError
from linnet.train.config import TrainConfig


class RunFolder:
    """Reads and writes one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, config: TrainConfig, *, resume: bool) -> None:
        """Create the folder and write config.json and meta.json.

        Raises ConfigError if a run is already there and `resume` is False.
        """
        if (self.path / "config.json").exists() and not resume:
            raise ConfigError(f"{self.path} already holds a run. Resume it with --resume, or choose another --run-dir.")
        self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self.path / "config.json", to_json(config))
        if not (self.path / "meta.json").exists():
            _write_json(self.path / "meta.json", environment())

    def log(self, record: dict[str, float | int | str]) -> None:
        """Append one line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")

    def trim_log(self, step: int) -> None:
        """Drop log lines after `step`, which a resumed run is going to write again."""
        log = self.path / "metrics.jsonl"
        if log.exists():
            lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
            log.write_text("".join(line + "\n" for line in lines))

    def save(self, name: str, weights: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Write checkpoints/<name> atomically."""
        final = self.path / "checkpoints" / name
        partial = final.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(
            {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()},
            partial / "model.safetensors",
        )
        torch.save(state, partial / "state.pt")
        replaced = final.with_name(f"{name}.replaced")
        if final.exists():  # otherwise `replaced` may be the only good copy, left by an interruption just here
            shutil.rmtree(replaced, ignore_errors=True)
            os.rename(final, replaced)
        os.rename(partial, final)
        shutil.rmtree(replaced, ignore_errors=True)
        return final

    def has(self, name: str) -> bool:
        """Whether checkpoints/<name> can be loaded."""
        return any((self.path / "checkpoints" / folder).exists() for folder in (name, f"{name}.replaced"))

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and state of checkpoints/<name>; raises CheckpointError if it is not there."""
        folder = self.path / "checkpoints" / name
        if not folder.exists():
            replaced = folder.with_name(f"{name}.replaced")  # interrupted between the two renames of `save`
            if not replaced.exists():
                raise CheckpointError(
                    f"{self.path} has no checkpoint '{name}'. Train first, or name another run folder."
                )
            folder = replaced
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        return load_file(folder / "model.safetensors"), state

    def config(self) -> dict[str, Any]:
        """The resolved configuration of the run."""
        try:
            loaded: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        except FileNotFoundError:
            raise CheckpointError(f"{self.path} is not a run folder: it has no config.json.") from None
        return loaded

    def meta(self) -> dict[str, Any]:
        """Commit, versions and hardware of the run."""
        loaded: dict[str, Any] = json.loads((self.path / "meta.json").read_text())
        return loaded


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters a checkpoint must hold."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def environment() -> dict[str, Any]:
    """Commit, versions and hardware, for provenance of every number."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {**provenance(), "torch": torch.__version__, "cuda": cuda}


def to_json(value: Any) -> Any:
    """Dataclasses, paths and tuples as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
