"""The same numbers as messages of OTLP."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

from orchestrator.settings import SettingsError
from orchestrator.telemetry import specs
from orchestrator.telemetry.instruments import Observed, Registry
from orchestrator.telemetry.otlp_metrics import MetricsPush


def test_every_kind_of_instrument_becomes_a_message() -> None:
    registry = Registry()
    registry.counter(specs.TOKENS).add(5, "m", "input", "ok")
    registry.gauge(specs.ACTIVE).add(2, "m")
    registry.histogram(specs.DURATION).record(0.015, "chat", "operayde", "m", "")
    registry.counter(specs.RESERVED)
    told = encode_metrics(MetricsPush(registry, 0).moment())
    (resource,) = told.resource_metrics
    (scope,) = resource.scope_metrics
    metrics = {metric.name: metric for metric in scope.metrics}
    # What has no series yet is not sent.
    assert set(metrics) == {specs.TOKENS.name, specs.ACTIVE.name, specs.DURATION.name}
    (tokens,) = metrics[specs.TOKENS.name].sum.data_points
    assert tokens.as_double == 5
    assert metrics[specs.TOKENS.name].sum.is_monotonic
    assert metrics[specs.ACTIVE.name].gauge.data_points[0].as_double == 2
    (duration,) = metrics[specs.DURATION.name].histogram.data_points
    assert list(duration.bucket_counts)[:3] == [0, 1, 0]
    assert (duration.count, duration.sum) == (1, 0.015)
    assert not duration.HasField("min")
    # An empty label is one that is not there.
    assert {pair.key for pair in duration.attributes} == set(specs.DURATION.labels[:3])


@pytest.mark.parametrize("given", ["0", "soon", "-5"])
def test_an_interval_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", given)
    with pytest.raises(SettingsError, match="OTEL_METRIC_EXPORT_INTERVAL"):
        MetricsPush(Registry(), 0)


async def test_a_number_that_cannot_be_told_ends_no_telling(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1")
    asked = 0
    twice = asyncio.Event()

    def look() -> Observed:
        nonlocal asked
        asked += 1
        if asked == 2:
            twice.set()
        raise ZeroDivisionError

    registry = Registry()
    registry.observe(specs.CPU_TIME, look)
    push = MetricsPush(registry, 0)
    push.start()
    async with asyncio.timeout(60):
        await twice.wait()
    await push.close()
    assert "metrics cannot be sent" in caplog.text
