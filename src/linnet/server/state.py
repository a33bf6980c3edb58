"""What the endpoints of one server share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from linnet.server.decode import DecodePool
from linnet.server.engine import Engine
from linnet.server.metrics import Metrics
from linnet.server.options import ServerOptions


@dataclass(frozen=True)
class State:
    """Engine, decoder, options and numbers."""

    engine: Engine
    decoder: DecodePool
    options: ServerOptions
    metrics: Metrics
    started_at: int = field(default_factory=lambda: int(time.time()))

    def count_audio(self, seconds: float) -> None:
        """Audio that was accepted."""
