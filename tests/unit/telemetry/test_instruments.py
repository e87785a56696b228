"""Counters, gauges and histograms, and what keeps callers from making them grow."""

from __future__ import annotations

from orchestrator.telemetry.instruments import (
    MAX_SERIES,
    OTHER,
    Counter,
    Histogram,
    Registry,
    Spec,
)

COUNTER = Spec("a.counter", "counter", "{x}", "Counts.", ("word",))
GAUGE = Spec("a.gauge", "gauge", "", "Goes up and down.")
HISTOGRAM = Spec("a.time", "histogram", "s", "Lasts.", ("word",), (0.1, 1.0))


def test_a_counter_adds_up_by_its_labels() -> None:
    counter = Counter(COUNTER)
    counter.add(1, "a")
    counter.add(2, "b")
    counter.add(3, "a")
    assert {one.labels: one.value for one in counter.collect().series} == {("a",): 4, ("b",): 2}


def test_what_callers_make_up_ends_in_one_series() -> None:
    counter, histogram = Counter(COUNTER), Histogram(HISTOGRAM)
    for number in range(MAX_SERIES + 50):
        counter.add(1, str(number))
        histogram.record(0.5, str(number))
    for family in (counter.collect(), histogram.collect()):
        assert len(family.series) == MAX_SERIES + 1
        assert family.series[-1].labels == (OTHER,)
    assert counter.collect().series[-1].value == 50
    assert histogram.collect().series[-1].counts == [0, 50, 0]
    counter.add(1, "0")
    assert counter.collect().series[0].value == 2


def test_a_value_belongs_to_the_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram(HISTOGRAM)
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.record(value, "a")
    (series,) = histogram.collect().series
    assert series.counts == [2, 2, 1]
    assert series.value == 8.65


def test_a_bucket_remembers_the_latest_trace() -> None:
    histogram = Histogram(HISTOGRAM)
    histogram.record(0.05, "a", trace="t1")
    histogram.record(0.06, "a", trace="t2")
    histogram.record(0.07, "a")
    (series,) = histogram.collect().series
    assert series.exemplars[0][:2] == ("t2", 0.06)
    assert set(series.exemplars) == {0}


def test_a_moment_does_not_change_with_what_follows() -> None:
    registry = Registry()
    counter, gauge = registry.counter(COUNTER), registry.gauge(GAUGE)
    histogram = registry.histogram(HISTOGRAM)
    registry.observe(Spec("looked", "gauge", "", "Up."), lambda: [((), 1.0)])
    counter.add(1, "a")
    gauge.add(2)
    gauge.add(-1)
    histogram.record(1, "a")
    before = registry.collect()
    counter.add(1, "a")
    gauge.add(5)
    histogram.record(1, "a")
    assert [family.spec.name for family in before] == ["a.counter", "a.gauge", "a.time", "looked"]
    assert [family.series[0].value for family in before] == [1, 1, 1, 1]
    assert before[2].series[0].counts == [0, 1, 0]
