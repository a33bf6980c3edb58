"""`linnet verify`: whether a bundle is whole, and how far it is from its checkpoint."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

from linnet.verbs.terminal import say


def verify(
    bundle: str,
    /,
    against: str | None = None,
    audio: Path | None = None,
    threads: int | None = None,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Check every file of a bundle and measure what its precision costs; exit code 1 if a limit is missed.

    With --against, encoder and decoders are compared with the original at fp32, and the figures are stored in
    bundle.json. With --audio as well, the error rates on your own recordings are.

    Args:
        bundle: Bundle folder, or the name of a pulled model.
        against: The checkpoint folder it was made from, or a bundle of higher precision.
        audio: JSONL manifest of recordings to compare on, with or without transcripts; needs --against.
        threads: CPU threads; by default all cores.
        json: Print the figures as JSON.
        quiet: No progress on stderr.
    """
    from linnet.export.verify import verify as check
    from linnet.progress import task_bar

    with task_bar("verify", quiet=quiet) as show:
        found = check(bundle, against=against, audio=audio, threads=threads, progress=show)
    if json:
        plain = {"bundle": str(found.bundle.path), "figures": found.figures, "failures": list(found.failures)}
        sys.stdout.write(json_module.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{found.bundle.path}: all {len(found.bundle.files)} files are as they were written\n")
        sys.stdout.write(found.table())
    for failure in found.failures:
        say(f"linnet verify: {failure}")
    return 1 if found.failures else 0
