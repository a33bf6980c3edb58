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
    base: Engine | None = None
    """The same model without its adapter, where one is served beside it."""
    numbers: Numbers = field(init=False)
    streams: set[Any] = field(default_factory=set)
    """Live sessions that are going on."""
    started_at: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        engines, metrics = self.engines, self.metrics
        metrics.gauge(
            "linnet_recordings",
            "Recordings that wait for the model or are in work.",
            lambda: sum(engine.pending for engine in engines),
        )
        metrics.gauge(
            "linnet_model_busy_seconds",
            "Seconds the model has worked on recordings.",
            lambda: sum(engine.busy_s for engine in engines),
        )
        metrics.gauge("linnet_streams", "Live sessions.", lambda: len(self.streams))
        metrics.gauge("linnet_ready", "1 while work is accepted.", lambda: float(self.ready))
        counter, histogram = metrics.counter, metrics.histogram
        object.__setattr__(self, "numbers", Numbers(
            audio_s=counter("linnet_audio_seconds_total", "Audio that was decoded, by kind of request."),
            errors=counter("linnet_errors_total", "Errors by code."),
            rtf=histogram("linnet_real_time_factor", "Seconds to recognise a recording, per second of it.", FACTORS),
            latency_s=histogram(
                "linnet_stream_latency_seconds", "From the end of speech heard to its final text.", SECONDS
            ),
        ))  # fmt: skip

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All that is served, the main model first."""
        return (self.engine,) if self.base is None else (self.engine, self.base)

    @property
    def ready(self) -> bool:
        """Whether new requests are let in."""
        return all(engine.ready for engine in self.engines)

    def engine_for(self, model: str) -> Engine:
        """The engine that a client means: the base by its name, else the main model."""
        return self.base if self.base is not None and model == self.base.recognizer.bundle.name else self.engine
