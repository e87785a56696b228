"""Metrics of all processes in the format that Prometheus reads.

Each series has the label `worker`, the process that counted it: a sum over workers stays right
while one of them restarts; a sum that is made here would not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from prometheus_client import exposition
from prometheus_client.core import Exemplar, Metric
from prometheus_client.openmetrics import exposition as openmetrics

from orchestrator.telemetry.instruments import Family, Series, Spec

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_UNITS = {"s": "seconds", "By": "bytes"}


class Scrape(msgspec.Struct):
    """What one process reports. `worker` is its number."""

    worker: int
    families: list[Family]


def prometheus_name(spec: Spec) -> str:
    """Returns the name without `_total`. Source: OpenTelemetry, Prometheus compatibility."""
    name = spec.name.replace(".", "_")
    unit = _UNITS.get(spec.unit, "")
    return f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name


def render(scrapes: Iterable[Scrape], accept: str) -> tuple[bytes, str]:
    """Returns text and media type: OpenMetrics, which has exemplars, if the client accepts it."""
    collector = _Collector(list(_metrics(scrapes)))
    if "application/openmetrics-text" in accept:
        text: bytes = openmetrics.generate_latest(collector)  # type: ignore[no-untyped-call]  # theirs
        return text, OPEN_METRICS
    return exposition.generate_latest(collector), TEXT


def of_tenant(scrapes: Iterable[Scrape], tenant_id: str) -> list[Scrape]:
    """Returns `scrapes` without the series of other tenants' keys."""
    return [
        Scrape(
            scrape.worker,
            [_of_tenant(family, tenant_id) for family in scrape.families],
        )
        for scrape in scrapes
    ]


def _of_tenant(family: Family, tenant_id: str) -> Family:
    if "tenant" not in family.spec.labels:
        return family
    place = family.spec.labels.index("tenant")
    return Family(family.spec, [one for one in family.series if one.labels[place] == tenant_id])


class _Collector:
    """Has the interface of a registry of prometheus_client."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metrics(scrapes: Iterable[Scrape]) -> Iterable[Metric]:
    found: dict[str, Metric] = {}
    for scrape in scrapes:
        for family in scrape.families:
            spec = family.spec
            name = prometheus_name(spec)
            metric = found.get(name)
            if metric is None:
                metric = found[name] = Metric(name, spec.description, spec.kind)
            for series in family.series:
                labels = {
                    label.replace(".", "_"): value
                    for label, value in zip(spec.labels, series.labels, strict=True)
                }
                labels["worker"] = str(scrape.worker)
                _add(metric, spec, labels, series)
    return found.values()


def _add(metric: Metric, spec: Spec, labels: Mapping[str, str], series: Series) -> None:
    if spec.kind != "histogram":
        name = f"{metric.name}_total" if spec.kind == "counter" else metric.name
        metric.add_sample(name, dict(labels), series.value)
        return
    count = 0
    for bucket, bound in enumerate((*spec.bounds, float("inf"))):
        count += series.counts[bucket]
        exemplar = None
        if (seen := series.exemplars.get(bucket)) is not None:
            exemplar = Exemplar({"trace_id": seen[0]}, seen[1], seen[2])
        shown = "+Inf" if bound == float("inf") else repr(float(bound))
        metric.add_sample(
            f"{metric.name}_bucket", {**labels, "le": shown}, count, exemplar=exemplar
        )
    metric.add_sample(f"{metric.name}_count", dict(labels), count)
    metric.add_sample(f"{metric.name}_sum", dict(labels), series.value)
