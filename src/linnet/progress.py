"""A progress bar on stderr. Nothing at all if stderr is no terminal, so that logs and pipes stay clean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[float, float], None]
"""show(done, total) in any unit; the total may grow on the way, 0 means not known yet."""


ShowStage = Callable[[str, float, float], None]
"""show(stage, done, total): the same for work in several stages."""


@contextmanager
def task_bar(label: str, *, quiet: bool = False) -> Iterator[Show]:
    """Yield `show`; the bar disappears when the block ends, however it ends."""
    with stage_bar(quiet=quiet) as show:
        yield lambda done, total: show(label, done, total)


@contextmanager
def stage_bar(*, quiet: bool = False) -> Iterator[ShowStage]:
    """Yield a `show` whose bar carries the name of the stage it is at."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # stdout is left alone: redirected, its text would come out on stderr
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total or None)
