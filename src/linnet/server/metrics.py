"""Counters, gauges and histograms in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
FACTORS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """All numbers of one server; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: dict[str, tuple[str, str]] = {}
        self._counters: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._gauges: dict[str, Callable[[], float]] = {}
        self._histograms: dict[str, _Histogram] = {}

    def counter(self, name: str, help: str) -> Callable[..., None]:
        """A function add(amount=1, **labels)."""
        self._help[name] = ("counter", help)
        values = self._counters[name]

        def add(amount: float = 1.0, **labels: str) -> None:
            with self._lock:
                values[tuple(sorted(labels.items()))] += amount

        return add

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A number that is read when somebody asks."""
        self._help[name] = ("gauge", help)
        self._gauges[name] = read

    def histogram(self, name: str, help: str, bounds: tuple[float, ...]) -> Callable[[float], None]:
        """A function observe(value)."""
        self._help[name] = ("histogram", help)
        histogram = self._histograms[name] = _Histogram(bounds)

        def observe(value: float) -> None:
            with self._lock:
                histogram.counts[bisect_left(bounds, value)] += 1
                histogram.total += value

        return observe

    def render(self) -> str:
        """The page that Prometheus reads."""
        gauges = {name: read() for name, read in self._gauges.items()}
        lines = []
        with self._lock:
            for name, (kind, text) in self._help.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                if kind == "gauge":
                    lines.append(f"{name} {_number(gauges[name])}")
                elif kind == "counter":
                    series = self._counters[name] or {(): 0.0}
                    lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in sorted(series.items())]
                else:
                    lines += self._histograms[name].lines(name)
        return "\n".join(lines) + "\n"


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def lines(self, name: str) -> list[str]:
        lines, seen = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {seen}')
        return [*lines, f"{name}_sum {_number(self.total)}", f"{name}_count {seen}"]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = (value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for _, value in labels)
    return "{" + ",".join(f'{name}="{value}"' for (name, _), value in zip(labels, escaped, strict=True)) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
