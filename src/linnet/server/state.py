"""What the endpoints of one server share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from linnet.server.decode import DecodePool
from linnet.server.engine import Engine
from linnet.server.metrics import FACTORS, SECONDS, Metrics
from linnet.server.options import ServerOptions


@dataclass(frozen=True)
class Numbers:
    """What the endpoints count."""

    audio_s: Callable[..., None]
    errors: Callable[..., None]
    rtf: Callable[[float], None]
    latency_s: Callable[[float], None]


@dataclass(frozen=True)
class State:
    """Engine, decoder, options and numbers."""

    engine: Engine
    decoder: DecodePool
    options: ServerOptions
    metrics: Metrics
    numbers: Numbers = field(init=False)
    streams: set[Any] = field(default_factory=set)
    """Live sessions that are going on."""
    started_at: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        engine, metrics = self.engine, self.metrics
        metrics.gauge(
            "linnet_recordings",
            "Recordings that wait for the model or are in work.",
            lambda: engine.pending,
        )
        metrics.gauge(
            "linnet_model_busy_seconds",
            "Seconds the model has worked on recordings.",
            lambda: engine.busy_s,
        )
        metrics.gauge("linnet_streams", "Live sessions.", lambda: len(self.streams))
        metrics.gauge("linnet_ready", "1 while work is accepted.", lambda: float(engine.ready))
        counter, histogram = metrics.counter, metrics.histogram
        object.__setattr__(self, "numbers", Numbers(
            audio_s=counter("linnet_audio_seconds_total", "Audio that was decoded, by kind of request."),
            errors=counter("linnet_errors_total", "Errors by code."),
            rtf=histogram("linnet_real_time_factor", "Seconds to recognise a recording, per second of it.", FACTORS),
            latency_s=histogram(
                "linnet_stream_latency_seconds", "From the end of speech heard to its final text.", SECONDS
            ),
        ))  # fmt: skip
