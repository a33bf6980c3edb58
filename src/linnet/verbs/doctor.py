"""`linnet doctor`: what works on this machine."""

from __future__ import annotations

import sys


def doctor(json: bool = False) -> int:
    """Check this machine: versions, CPU features, decoders, extras, and a 3-second transcription.

    Args:
        json: Print JSON.
    """
    from linnet.doctor import examine

    found = examine()
    sys.stdout.write(found.to_json() if json else found.text())
    return 0 if found.healthy else 1
