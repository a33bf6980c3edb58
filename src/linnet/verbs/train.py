"""`linnet train`: train a preset on manifests."""

from __future__ import annotations

import os
import sys

from linnet.errors import ConfigError
from linnet.verbs.run_folder import needs_torch


def train(arguments: list[str]) -> int:
    """Train a preset: its dataclass is the command line, so it parses for itself."""
    from linnet.models.presets import PRESETS

    if not arguments or arguments[0] in {"-h", "--help"}:
        lines = [f"  {name:19}{preset.summary}\n" for name, preset in PRESETS.items()]
        usage = "usage: linnet train PRESET [options]        linnet train PRESET --help tells more\n\n"
        (sys.stdout if arguments else sys.stderr).write(usage + "".join(lines))
        return 0 if arguments else 2
    name = arguments[0]
    if name not in PRESETS:
        raise ConfigError(f"There is no preset '{name}'; accepted: {', '.join(PRESETS)}.")
    import tyro

    config = tyro.cli(
        type(PRESETS[name]),
        default=PRESETS[name],
        prog=f"linnet train {name}",
        description=f"{type(PRESETS[name]).__doc__}\n\n{name}: {PRESETS[name].summary}.\n"
        "Add --resume to go on with an interrupted run, --plan to see what memory it would take.",
        args=[argument for argument in arguments[1:] if argument not in {"--resume", "--plan"}],
    )
    if "--plan" in arguments:
        sys.stdout.write(config.plan())
        return 0
    with needs_torch("Training"):
        from linnet.train.trainer import fit, leave_processes
    run = fit(config, resume="--resume" in arguments)
    leave_processes()
    if os.environ.get("RANK", "0") == "0":  # of several processes one gives the answer
        sys.stdout.write(f"{run.path}\n")
    return 0
