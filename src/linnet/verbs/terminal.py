"""What every verb says on stderr."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """One line on stderr; stdout is for the answer."""
    sys.stderr.write(f"{message}\n")
