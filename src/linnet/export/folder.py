"""A bundle folder appears whole or not at all: written beside its place under another name, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linnet.bundle import DESCRIPTION
from linnet.errors import ExportError


def check_target(out: Path, *, overwrite: bool = False) -> None:
    """ExportError unless `out` is free: not there, an empty folder, or a bundle that may be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / DESCRIPTION).is_file():
        raise ExportError(f"{out} exists and is not a bundle, so it is not replaced. Choose another folder.")
    if not overwrite:
        raise ExportError(f"{out} already holds a bundle. Choose another folder, or ask to overwrite it.")


@contextmanager
def written_whole(out: Path, *, source: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `out` when the block ends; an error leaves nothing behind.

    `source` is what is converted, for the message. Raises ExportError for an unwritable path and a full disk.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
        try:
            yield work
            work.chmod(0o755)  # mkdtemp makes it private
            _move(work, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as problem:
        raise ExportError(
            f"Could not convert {source} to {out}: {problem}. Nothing was left behind; check both paths and the "
            "free space."
        ) from problem


def sweep(out: Path) -> None:
    """Remove what a killed conversion to `out` left beside it, and bring back a bundle it was about to replace.

    Only for a caller that knows that no other process converts to `out` at this time.
    """
    for aside in out.parent.glob(f".{out.name}.old-*"):
        if (aside / "bundle").is_dir() and not out.exists():
            os.replace(aside / "bundle", out)
        shutil.rmtree(aside, ignore_errors=True)
    for work in out.parent.glob(f".{out.name}.partial-*"):
        shutil.rmtree(work, ignore_errors=True)


def _move(work: Path, out: Path) -> None:
    """Give the finished folder its name; an older bundle there steps aside first and comes back if that fails."""
    if not out.exists():
        os.replace(work, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    os.replace(out, aside / "bundle")
    try:
        os.replace(work, out)
    except BaseException:
        os.replace(aside / "bundle", out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
