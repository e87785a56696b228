"""The text that Prometheus reads, of all workers, each with its number."""

from __future__ import annotations

from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.telemetry import specs
from orchestrator.telemetry.exposition import (
    OPEN_METRICS,
    TEXT,
    Scrape,
    of_tenant,
    prometheus_name,
    render,
)
from orchestrator.telemetry.instruments import Family, Series, Spec
from orchestrator.telemetry.metrics import Metrics

HISTOGRAM = Spec("a.time", "histogram", "s", "Lasts.", ("gen_ai.word",), (0.1, 1.0))
COUNTER = Spec("a.count", "counter", "{x}", "Counts.")


def parsed(text: bytes) -> list[Metric]:
    read = openmetrics.text_string_to_metric_families
    return list(read(text.decode()))  # type: ignore[no-untyped-call]  # theirs


def scrapes() -> list[Scrape]:
    timed = Series(("w",), 1.5, [1, 2, 0], {1: ("abc", 0.5, 1000.0)})
    return [
        Scrape(0, [Family(HISTOGRAM, [timed]), Family(COUNTER, [Series((), 3)])]),
        Scrape(1, [Family(HISTOGRAM, []), Family(COUNTER, [Series((), 4)])]),
    ]


def test_each_worker_has_series_of_its_own() -> None:
    text, media_type = render(scrapes(), "text/plain")
    assert media_type == TEXT
    families = {one.name: one for one in text_string_to_metric_families(text.decode())}
    counted = {one.labels["worker"]: one.value for one in families["a_count"].samples}
    assert counted == {"0": 3, "1": 4}
    buckets = [
        (one.labels["le"], one.value)
        for one in families["a_time_seconds"].samples
        if one.name.endswith("_bucket")
    ]
    assert buckets == [("0.1", 1), ("1.0", 3), ("+Inf", 3)]
    assert families["a_time_seconds"].samples[0].labels["gen_ai_word"] == "w"


def test_whoever_reads_open_metrics_gets_the_traces_too() -> None:
    text, media_type = render(scrapes(), "application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert media_type == OPEN_METRICS
    families = {one.name: one for one in parsed(text)}
    exemplars = [one.exemplar for one in families["a_time_seconds"].samples if one.exemplar]
    assert [(one.labels, one.value) for one in exemplars] == [({"trace_id": "abc"}, 0.5)]


def test_every_instrument_can_be_told() -> None:
    metrics = Metrics(most_keys=5)
    metrics.keys.ended("ten", "key", 'a "label"\n', "ok", (1, 1))
    families = metrics.registry.collect()
    for accept in ("", "application/openmetrics-text"):
        text, _ = render([Scrape(0, families)], accept)
        assert b'orchestrator_build_info{version="' in text
        assert b'label="a \\"label\\"\\n"' in text
    assert parsed(text)


def test_names_get_the_unit_that_prometheus_wants() -> None:
    assert prometheus_name(specs.FIRST_TOKEN) == "gen_ai_server_time_to_first_token_seconds"
    assert prometheus_name(specs.MEMORY) == "process_memory_usage_bytes"
    assert prometheus_name(specs.TOKENS) == "orchestrator_tokens"


def test_a_tenant_sees_its_own_keys_only() -> None:
    metrics = Metrics(most_keys=5)
    metrics.keys.ended("mine", "key_1", "a", "ok", (1, 1))
    metrics.keys.ended("theirs", "key_2", "b", "ok", (1, 1))
    text, _ = render(of_tenant([Scrape(0, metrics.registry.collect())], "mine"), "")
    assert b"key_1" in text
    assert b"key_2" not in text
    assert b"theirs" not in text
    assert b"orchestrator_build_info" in text
