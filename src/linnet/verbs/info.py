"""`linnet info`: what a path holds."""

from __future__ import annotations

import sys


def info(path: str, /, json: bool = False) -> int:
    """Describe a bundle, run folder, checkpoint, manifest, .bsq or audio file.

    Args:
        path: nano, a pulled model's name, or a path.
        json: Print JSON.
    """
    from linnet.info import describe

    sys.stdout.write(describe(path, as_json=json))
    return 0
