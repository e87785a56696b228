"""Metrics in memory: counters, gauges, histograms, and snapshots of them.

Each is a dictionary and an addition, because several run for every request; only one thread may
change them. An instrument keeps `MAX_SERIES` series: later ones are counted under `other`, so that
no caller can make them grow.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
Observed = Iterable[tuple[Labels, float]]

MAX_SERIES = 2000
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Spec:
    """Name and meaning of an instrument. `unit` is UCUM's: `s`, `By` or `{token}` for example."""

    name: str
    kind: Kind
    unit: str
    description: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()


@dataclass(slots=True)
class Series:
    """The state of one series. For a histogram `value` is the sum, `counts` has one per bucket.

    `exemplars` holds for each bucket the trace id, value and Unix time of its latest traced
    request.
    """

    labels: Labels
    value: float = 0.0
    counts: list[int] = field(default_factory=list)
    exemplars: dict[int, tuple[str, float, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Family:
    """A snapshot of an instrument."""

    spec: Spec
    series: list[Series]


@dataclass(slots=True)
class Tally:
    """How many lookups a cache answered, and how many it could not."""

    hits: int = 0
    misses: int = 0


class _Instrument:
    """The series of one instrument by the values of its labels."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._series: dict[Labels, Series] = {}

    def series(self, *labels: str) -> Series:
        """Returns that of `labels`, the values in the order of the spec, for frequent callers."""
        try:
            return self._series[labels]
        except KeyError:
            return self._new_series(labels)

    def _new_series(self, labels: Labels) -> Series:
        if len(self._series) >= MAX_SERIES:
            labels = (OTHER,) * len(self.spec.labels)
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Series(labels)
            if self.spec.kind == "histogram":
                found.counts = [0] * (len(self.spec.bounds) + 1)
        return found

    def collect(self) -> Family:
        """Returns a snapshot."""
        kept = [
            Series(one.labels, one.value, list(one.counts), dict(one.exemplars))
            for one in self._series.values()
        ]
        return Family(self.spec, kept)


class Counter(_Instrument):
    """A value that only goes up."""

    def add(self, amount: float, *labels: str) -> None:
        """Adds `amount`. `labels` are the values, in the order of the spec."""
        try:
            self._series[labels].value += amount
        except KeyError:
            self.series(*labels).value += amount


class Gauge(Counter):
    """A value that goes up and down."""


class Histogram(_Instrument):
    """Counts values in buckets. A value on a bound belongs to the bucket that it ends."""

    def record(self, value: float, *labels: str, trace: str = "") -> None:
        """Records `value`. `trace` is the id of the trace to look at for it, if there is one."""
        try:
            series = self._series[labels]
        except KeyError:
            series = self.series(*labels)
        bucket = bisect_left(self.spec.bounds, value)
        series.counts[bucket] += 1
        series.value += value
        if trace:
            series.exemplars[bucket] = (trace, value, time.time())


class Registry:
    """All instruments of a process, in the order in which they were made."""

    def __init__(self) -> None:
        self._collectors: list[Callable[[], Family]] = []

    def counter(self, spec: Spec) -> Counter:
        """Creates a counter."""
        counter = Counter(spec)
        self._collectors.append(counter.collect)
        return counter

    def gauge(self, spec: Spec) -> Gauge:
        """Creates a gauge."""
        gauge = Gauge(spec)
        self._collectors.append(gauge.collect)
        return gauge

    def histogram(self, spec: Spec) -> Histogram:
        """Creates a histogram."""
        histogram = Histogram(spec)
        self._collectors.append(histogram.collect)
        return histogram

    def observe(self, spec: Spec, look: Callable[[], Observed]) -> None:
        """Adds a counter or gauge whose series `look` returns at each scrape."""

        def collect() -> Family:
            return Family(spec, [Series(labels, value) for labels, value in look()])

        self._collectors.append(collect)

    def collect(self) -> list[Family]:
        """Returns a snapshot of every instrument."""
        return [collect() for collect in self._collectors]
