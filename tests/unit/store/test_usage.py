"""Sums of the books: exact, by every grouping, of one tenant only."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from orchestrator.store import usage
from orchestrator.store.database import Database
from orchestrator.store.tables import UsageEntry
from orchestrator.store.usage import (
    DAY_MS,
    HOUR_MS,
    Grouping,
    UsageFilter,
    cells,
    columns,
    parse_groupings,
)

T0 = 1_700_006_400_000
"""A midnight."""


def entries(count: int = 400) -> list[UsageEntry]:
    chance = random.Random(7)
    return [
        UsageEntry(
            record_id=f"use_{number}",
            at=T0 + chance.randrange(3 * DAY_MS),
            request_id=f"req_{number}",
            tenant_id=chance.choice(("ten_a", "ten_b")),
            key_id=chance.choice(("key_1", "key_2", "key_3")),
            model=chance.choice(("acme/chat", "acme/embed")),
            route="local",
            dialect="chat",
            prompt_tokens=chance.randrange(10**12),
            completion_tokens=chance.randrange(1000),
            cached_tokens=chance.randrange(10),
            first_token_ms=chance.choice((None, 5)),
            duration_ms=chance.randrange(1000),
            outcome=chance.choice(("ok", "ok", "failed", "cancelled")),
        )
        for number in range(count)
    ]


def key_of(entry: UsageEntry, name: Grouping) -> str | int:
    match name:
        case "hour":
            return entry.at // HOUR_MS * HOUR_MS
        case "day":
            return entry.at // DAY_MS * DAY_MS
        case "key":
            return entry.key_id
        case "model":
            return entry.model


@pytest.mark.parametrize("by", [("hour",), ("day", "key"), ("model", "key", "day"), ("model",)])
async def test_groups_add_up_exactly(each_database: Database, by: tuple[Grouping, ...]) -> None:
    written = entries()
    async with each_database.unit_of_work() as session:
        await usage.add_all(session, [entry.model_dump() for entry in written])
    expected: Counter[tuple[str | int, ...]] = Counter()
    requests: Counter[tuple[str | int, ...]] = Counter()
    for entry in written:
        if entry.tenant_id == "ten_a":
            group = tuple(key_of(entry, name) for name in by)
            expected[group] += entry.prompt_tokens
            requests[group] += 1
    async with each_database.reading() as session:
        which = UsageFilter(tenant_id="ten_a")
        sums = await usage.summed(session, which, by)
        pages = [
            one
            for offset in range(0, len(sums), 3)
            for one in await usage.summed(session, which, by, limit=3, offset=offset)
        ]
        (total,) = await usage.summed(session, which)
    assert {tuple(one.group.values()): one.prompt_tokens for one in sums} == expected
    assert {tuple(one.group.values()): one.requests for one in sums} == requests
    assert pages == sums
    assert total.prompt_tokens == sum(expected.values())
    assert total.failed == sum(e.outcome == "failed" for e in written if e.tenant_id == "ten_a")


async def test_filters_leave_out_what_does_not_match(each_database: Database) -> None:
    written = entries()
    async with each_database.unit_of_work() as session:
        await usage.add_all(session, [entry.model_dump() for entry in written])
        await usage.add_all(session, [])
    start, end = T0 + DAY_MS, T0 + 2 * DAY_MS
    which = UsageFilter("ten_b", start, end, "key_2", "acme/embed")
    async with each_database.reading() as session:
        (total,) = await usage.summed(session, which)
        (nothing,) = await usage.summed(session, UsageFilter(tenant_id="ten_c"))
        assert await usage.summed(session, UsageFilter(tenant_id="ten_c"), ("day",)) == []
    matching = [
        entry
        for entry in written
        if (entry.tenant_id, entry.key_id, entry.model) == ("ten_b", "key_2", "acme/embed")
        and start <= entry.at < end
    ]
    assert matching
    assert total.requests == len(matching)
    assert total.duration_ms == sum(entry.duration_ms for entry in matching)
    assert (nothing.requests, nothing.total_tokens) == (0, 0)


async def test_cells_tell_moments_as_people_write_them(each_database: Database) -> None:
    written = entries(1)
    written[0].at = T0 + HOUR_MS + 1
    async with each_database.unit_of_work() as session:
        await usage.add_all(session, [entry.model_dump() for entry in written])
    async with each_database.reading() as session:
        (one,) = await usage.summed(session, UsageFilter(), ("hour", "key"))
    assert cells(one)["hour"] == "2023-11-15T01:00:00Z"
    assert list(cells(one)) == columns(("hour", "key"))


def test_groupings_are_words_with_commas() -> None:
    assert parse_groupings("day, key,day") == ("day", "key")
    assert parse_groupings("") == ()
    with pytest.raises(ValueError, match="`week` is not one of"):
        parse_groupings("day,week")
