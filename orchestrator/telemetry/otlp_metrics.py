"""Metrics by OTLP: the same ones that `/metrics` shows, sent at intervals."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from orchestrator import __version__
from orchestrator.settings import SettingsError
from orchestrator.telemetry import names
from orchestrator.telemetry.instruments import Family, Registry, Series, Spec
from orchestrator.telemetry.tracing import process_resource, quiet_exporter, session_of

logger = logging.getLogger(__name__)

_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_DEFAULT_INTERVAL_MS = 60_000


class MetricsPush:
    """Sends what `registry` holds, every `OTEL_METRIC_EXPORT_INTERVAL` ms. Close it."""

    def __init__(self, registry: Registry, worker: int) -> None:
        """Raises: SettingsError."""
        self._registry = registry
        self._resource = process_resource(worker)
        self._scope = InstrumentationScope(names.SCOPE, __version__, names.SCHEMA_URL)
        self._began_at_ns = time.time_ns()
        self._interval_s = _interval_s()
        self._exporter = OTLPMetricExporter(session=session_of("metrics"))
        self._task: asyncio.Task[None] | None = None
        quiet_exporter()

    def start(self) -> None:
        """Starts sending."""
        self._task = asyncio.create_task(self._send_forever())

    async def close(self) -> None:
        """Stops sending; values counted since the last time are lost with the process."""
        self._exporter.shutdown()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def moment(self) -> MetricsData:
        """Returns a snapshot of all metrics."""
        now_ns = time.time_ns()
        metrics = [
            _metric(family, self._began_at_ns, now_ns)
            for family in self._registry.collect()
            if family.series
        ]
        scoped = ScopeMetrics(self._scope, metrics, names.SCHEMA_URL)
        return MetricsData([ResourceMetrics(self._resource, [scoped], names.SCHEMA_URL)])

    async def _send_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await asyncio.to_thread(self._exporter.export, self.moment())
            except Exception:
                # Only this snapshot is lost, not the later ones.
                logger.exception("metrics cannot be sent")


def _interval_s() -> float:
    given = os.environ.get(_INTERVAL, "") or str(_DEFAULT_INTERVAL_MS)
    if not given.isdigit() or not int(given):
        raise SettingsError(f"`{_INTERVAL}` is `{given}`; it must be a number of milliseconds")
    return int(given) / 1000


def _metric(family: Family, began_ns: int, now_ns: int) -> Metric:
    spec = family.spec
    cumulative = AggregationTemporality.CUMULATIVE
    points = [_point(spec, series, began_ns, now_ns) for series in family.series]
    match spec.kind:
        case "histogram":
            buckets = [_histogram(spec, series, began_ns, now_ns) for series in family.series]
            data: Histogram | Sum | Gauge = Histogram(buckets, cumulative)
        case "counter":
            data = Sum(points, cumulative, is_monotonic=True)
        case "gauge":
            data = Gauge(points)
    return Metric(spec.name, spec.description, spec.unit, data)


def _attributes(spec: Spec, series: Series) -> dict[str, str]:
    return {label: value for label, value in zip(spec.labels, series.labels, strict=True) if value}


def _point(spec: Spec, series: Series, began_ns: int, now_ns: int) -> NumberDataPoint:
    return NumberDataPoint(_attributes(spec, series), began_ns, now_ns, series.value)


def _histogram(spec: Spec, series: Series, began_ns: int, now_ns: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=_attributes(spec, series),
        start_time_unix_nano=began_ns,
        time_unix_nano=now_ns,
        count=sum(series.counts),
        sum=series.value,
        bucket_counts=series.counts,
        explicit_bounds=spec.bounds,
        # `Series` has no min and max, so none is sent.
        min=None,  # type: ignore[arg-type]  # the message takes it
        max=None,  # type: ignore[arg-type]  # the message takes it
    )
