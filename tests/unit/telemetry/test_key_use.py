"""Numbers by key: bounded, and of the keys that call."""

from __future__ import annotations

from orchestrator.telemetry.instruments import OTHER, Family, Registry
from orchestrator.telemetry.key_use import IDLE_S, KeyUse


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watched(most: int) -> tuple[KeyUse, Registry, Clock]:
    registry, clock = Registry(), Clock()
    return KeyUse(registry, most, now=clock), registry, clock


def values(registry: Registry, name: str) -> dict[tuple[str, ...], float]:
    family: Family = next(
        one for one in registry.collect() if one.spec.name == f"orchestrator.key.{name}"
    )
    assert all(len(series.labels) == len(family.spec.labels) for series in family.series)
    return {series.labels: series.value for series in family.series}


def test_each_key_has_its_requests_tokens_and_refusals() -> None:
    keys, registry, _ = watched(10)
    keys.ended("ten", "key_1", "app", "ok", (10, 5))
    keys.ended("ten", "key_1", "app", "cancelled", (10, 2))
    keys.refused("ten", "key_1", "app", "key_rpm")
    keys.ended("ten", "key_2", "cron", "ok", (1, 0))
    assert values(registry, "requests") == {
        ("ten", "key_1", "ok"): 1,
        ("ten", "key_1", "cancelled"): 1,
        ("ten", "key_2", "ok"): 1,
    }
    assert values(registry, "tokens")["ten", "key_1", "input"] == 20
    assert values(registry, "tokens")["ten", "key_1", "output"] == 7
    assert values(registry, "refusals") == {("ten", "key_1", "key_rpm"): 1}
    assert values(registry, "info") == {("ten", "key_1", "app"): 1, ("ten", "key_2", "cron"): 1}


def test_keys_beyond_the_number_are_counted_together() -> None:
    keys, registry, _ = watched(2)
    for number in range(5):
        keys.ended("ten", f"key_{number}", "app", "ok", (1, 1))
    assert values(registry, "requests") == {
        ("ten", "key_0", "ok"): 1,
        ("ten", "key_1", "ok"): 1,
        (OTHER, OTHER, "ok"): 3,
    }
    assert len(values(registry, "info")) == 2


def test_a_quiet_key_gives_its_place_away() -> None:
    keys, registry, clock = watched(2)
    keys.ended("ten", "key_0", "app", "ok", (1, 1))
    keys.ended("ten", "key_1", "app", "ok", (1, 1))
    clock.now += IDLE_S
    keys.ended("ten", "key_0", "app", "ok", (1, 1))
    keys.ended("ten", "key_2", "app", "ok", (1, 1))
    assert set(values(registry, "info")) == {("ten", "key_0", "app"), ("ten", "key_2", "app")}
    assert values(registry, "requests")["ten", "key_0", "ok"] == 2


def test_none_at_all_are_kept_where_settings_say_so() -> None:
    keys, registry, _ = watched(0)
    keys.ended("ten", "key_0", "app", "ok", (1, 1))
    assert values(registry, "requests") == {(OTHER, OTHER, "ok"): 1}


def test_what_is_left_of_a_budget_is_all_of_it_once_the_budget_begins_anew() -> None:
    keys, registry, clock = watched(2)
    keys.limits("ten", "key_0", "app", {})
    assert values(registry, "info") == {}
    headers = {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "7",
        "x-ratelimit-reset-tokens": "2000",
    }
    keys.limits("ten", "key_0", "app", headers)
    assert values(registry, "budget.limit") == {("ten", "key_0", "tokens"): 100}
    assert values(registry, "budget.remaining") == {("ten", "key_0", "tokens"): 7}
    clock.now = 2000
    assert values(registry, "budget.remaining") == {("ten", "key_0", "tokens"): 100}
