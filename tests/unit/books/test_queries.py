"""Sums of the books: exact, by every grouping, of one tenant only."""

from __future__ import annotations

import itertools
import random
import typing
from collections import Counter

import pytest
from alembic import command
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from orchestrator.books import queries as usage_queries
from orchestrator.books.lines import cells, columns, format_place, parse_groupings, parse_place
from orchestrator.books.queries import RecordsGoneError
from orchestrator.books.spans import DAY_MS, HOUR_MS, Source, pieces
from orchestrator.books.sums import Grouping, UsageFilter
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import alembic_config, migrate
from orchestrator.store.tables import UsageEntry

T0 = 1_700_006_400_000
"""A midnight."""


def entries(count: int = 400, days: int = 3) -> list[UsageEntry]:
    chance = random.Random(7)
    return [
        UsageEntry(
            record_id=f"use_{number}",
            at=T0 + chance.randrange(days * DAY_MS),
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
            wasted_tokens=chance.randrange(100),
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
        await usage_queries.add_all(session, [entry.model_dump() for entry in written])
    expected: Counter[tuple[str | int, ...]] = Counter()
    requests: Counter[tuple[str | int, ...]] = Counter()
    for entry in written:
        if entry.tenant_id == "ten_a":
            group = tuple(key_of(entry, name) for name in by)
            expected[group] += entry.prompt_tokens
            requests[group] += 1
    async with each_database.reading() as session:
        which = UsageFilter(tenant_id="ten_a")
        sums = await usage_queries.summed(session, which, by)
        pages = [
            one
            for offset in range(0, len(sums), 3)
            for one in await usage_queries.summed(session, which, by, limit=3, offset=offset)
        ]
        followed, after = [], None
        while page := await usage_queries.summed(session, which, by, limit=7, after=after):
            followed += page
            after = tuple(page[-1].group.values())
        (total,) = await usage_queries.summed(session, which)
    assert followed == sums
    assert {tuple(one.group.values()): one.prompt_tokens for one in sums} == expected
    assert {tuple(one.group.values()): one.requests for one in sums} == requests
    assert pages == sums
    assert total.prompt_tokens == sum(expected.values())
    assert total.failed == sum(e.outcome == "failed" for e in written if e.tenant_id == "ten_a")


EVERY_GROUPING: list[tuple[Grouping, ...]] = [
    by
    for count in range(1, 4)
    for by in itertools.permutations(typing.get_args(Grouping), count)
    if not {"hour", "day"} <= set(by)
]


@pytest.mark.parametrize(
    "which",
    [
        UsageFilter("ten_a"),
        UsageFilter("ten_a", T0 + 3 * DAY_MS + 5, T0 + 36 * DAY_MS + HOUR_MS),
        UsageFilter("ten_a", key_id="key_2"),
        UsageFilter("ten_a", T0 + 5, model="acme/chat"),
        UsageFilter(None, None, T0 + 20 * DAY_MS),
    ],
)
async def test_every_grouping_in_pages_of_every_size_is_what_the_records_say(
    each_database: Database, which: UsageFilter
) -> None:
    """Forty days: periods, days and hours at the edges, and keys that begin and end within them."""
    written = entries(500, days=40)
    async with each_database.unit_of_work() as session:
        await usage_queries.add_all(session, [entry.model_dump() for entry in written])
    counted = [entry for entry in written if _is_of(entry, which)]
    async with each_database.reading() as session:
        for by in EVERY_GROUPING:
            expected: Counter[tuple[str | int, ...]] = Counter()
            for entry in counted:
                expected[tuple(key_of(entry, name) for name in by)] += entry.prompt_tokens
            for size in (1, 7, 1000) if len(expected) < 50 else (97, 1000):
                found, after = [], None
                while page := await usage_queries.summed(
                    session, which, by, limit=size, after=after
                ):
                    found += [(tuple(one.group.values()), one.prompt_tokens) for one in page]
                    after = found[-1][0]
                assert found == sorted(expected.items()), (by, size)


def _is_of(entry: UsageEntry, which: UsageFilter) -> bool:
    return (
        which.tenant_id in {None, entry.tenant_id}
        and which.key_id in {None, entry.key_id}
        and which.model in {None, entry.model}
        and (which.start_at is None or which.start_at <= entry.at)
        and (which.end_at is None or entry.at < which.end_at)
    )


async def test_filters_leave_out_what_does_not_match(each_database: Database) -> None:
    written = entries()
    async with each_database.unit_of_work() as session:
        await usage_queries.add_all(session, [entry.model_dump() for entry in written])
        await usage_queries.add_all(session, [])
    start, end = T0 + DAY_MS, T0 + 2 * DAY_MS
    which = UsageFilter("ten_b", start, end, "key_2", "acme/embed")
    async with each_database.reading() as session:
        (total,) = await usage_queries.summed(session, which)
        (nothing,) = await usage_queries.summed(session, UsageFilter(tenant_id="ten_c"))
        assert await usage_queries.summed(session, UsageFilter(tenant_id="ten_c"), ("day",)) == []
    matching = [
        entry
        for entry in written
        if (entry.tenant_id, entry.key_id, entry.model) == ("ten_b", "key_2", "acme/embed")
        and start <= entry.at < end
    ]
    assert matching
    assert total.requests == len(matching)
    assert total.duration_ms == sum(entry.duration_ms for entry in matching)
    assert total.wasted_tokens == sum(entry.wasted_tokens for entry in matching) > 0
    assert (nothing.requests, nothing.total_tokens) == (0, 0)


async def test_cells_tell_moments_as_people_write_them(each_database: Database) -> None:
    written = entries(1)
    written[0].at = T0 + HOUR_MS + 1
    async with each_database.unit_of_work() as session:
        await usage_queries.add_all(session, [entry.model_dump() for entry in written])
    async with each_database.reading() as session:
        (one,) = await usage_queries.summed(session, UsageFilter(), ("hour", "key"))
    assert cells(one)["hour"] == "2023-11-15T01:00:00Z"
    assert list(cells(one)) == columns(("hour", "key"))


def test_groupings_are_words_with_commas() -> None:
    assert parse_groupings("day, key,day") == ("day", "key")
    assert parse_groupings("") == ()
    with pytest.raises(ValueError, match="`week` is not one of"):
        parse_groupings("day,week")


MOMENT = st.one_of(
    st.none(),
    st.integers(0, 40 * DAY_MS),
    st.integers(0, 960).map(lambda hours: hours * HOUR_MS),
)


@settings(max_examples=300, deadline=None)
@given(
    start=MOMENT,
    end=MOMENT,
    longest=st.sampled_from(("hour", "day", "period")),
    moments=st.lists(st.integers(0, 40 * DAY_MS)),
)
def test_pieces_cover_a_stretch_exactly_once(
    start: int | None, end: int | None, longest: Source, moments: list[int]
) -> None:
    found = pieces(start, end, longest)
    edges = [at for at in (start, end) if at is not None]
    for at in [*moments, *edges, *[edge - 1 for edge in edges]]:
        inside = (start is None or at >= start) and (end is None or at < end)
        covering = [
            piece
            for piece in found
            if (piece.start_at is None or at >= piece.start_at)
            and (piece.end_at is None or at < piece.end_at)
        ]
        assert len(covering) == int(inside)
    longer = {"hour": {"day", "period"}, "day": {"period"}}.get(longest, set())
    assert not longer & {piece.source for piece in found}
    # Single records are read of less than an hour at each edge, or of less than two in all.
    records = [piece for piece in found if piece.source == "record"]
    assert sum((one.end_at or 0) - (one.start_at or 0) for one in records) < 2 * HOUR_MS


@pytest.mark.parametrize("by", [(), ("hour",), ("key", "day"), ("model",)])
async def test_any_stretch_adds_up_as_its_records_do(
    each_database: Database, by: tuple[Grouping, ...]
) -> None:
    written = entries()
    async with each_database.unit_of_work() as session:
        await usage_queries.add_all(session, [entry.model_dump() for entry in written])
    chance = random.Random(3)
    stretches = [
        sorted((T0 + chance.randrange(3 * DAY_MS), T0 + chance.randrange(3 * DAY_MS)))
        for _ in range(12)
    ]
    stretches += [[T0 + HOUR_MS // 2, T0 + HOUR_MS], [T0, T0 + 5], [T0 + 5, T0 + 5]]
    async with each_database.reading() as session:
        for start, end in stretches:
            sums = await usage_queries.summed(session, UsageFilter("ten_a", start, end), by)
            expected: Counter[tuple[str | int, ...]] = Counter()
            for entry in written:
                if entry.tenant_id == "ten_a" and start <= entry.at < end:
                    expected[tuple(key_of(entry, name) for name in by)] += entry.prompt_tokens
            found = {tuple(one.group.values()): one.prompt_tokens for one in sums}
            assert found == (expected or ({} if by else {(): 0}))


async def test_records_that_come_again_are_counted_once(each_database: Database) -> None:
    written = [entry.model_dump() for entry in entries(20)]
    for batch in (written[:10] + written[:5], written[5:], written):
        async with each_database.unit_of_work() as session:
            await usage_queries.add_all(session, batch)
    async with each_database.reading() as session:
        (total,) = await usage_queries.summed(session, UsageFilter())
    assert total.requests == 20
    assert total.prompt_tokens == sum(entry["prompt_tokens"] for entry in written)


async def test_sums_outlive_their_records(each_database: Database) -> None:
    written = entries()
    async with each_database.unit_of_work() as session:
        await usage_queries.add_all(session, [entry.model_dump() for entry in written])
    async with each_database.reading() as session:
        before = await usage_queries.summed(session, UsageFilter(), ("hour", "key"))
    cut = T0 + DAY_MS + HOUR_MS
    old = sum(entry.at < cut for entry in written)
    async with each_database.unit_of_work() as session:
        assert await usage_queries.forget_records(session, cut, 50) == 50
    async with each_database.unit_of_work() as session:
        assert await usage_queries.forget_records(session, cut, 10_000) == old - 50
    async with each_database.reading() as session:
        assert await usage_queries.summed(session, UsageFilter(), ("hour", "key")) == before
        # Inside an hour of which the sum alone is there, no answer is right.
        hour_at = next(entry.at for entry in written if entry.at < cut) // HOUR_MS * HOUR_MS
        with pytest.raises(RecordsGoneError) as gone:
            await usage_queries.summed(session, UsageFilter(None, hour_at + 1, cut))
        assert gone.value.hour_at == hour_at
        await usage_queries.summed(session, UsageFilter(None, hour_at, cut + HOUR_MS + 1))


async def test_upgrade_sums_what_is_recorded_already(each_settings: Settings) -> None:
    def earlier(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "20261121_3")

    database = Database(each_settings)
    written = entries(60)
    async with database.migrating() as connection:
        await connection.run_sync(earlier)
        rows = [entry.model_dump(exclude={"wasted_tokens"}) for entry in written]
        names = list(rows[0])
        told = ", ".join(f":{name}" for name in names)
        statement = f"INSERT INTO usage_record ({', '.join(names)}) VALUES ({told})"  # constants
        await connection.execute(text(statement), rows)
    assert await migrate(each_settings) is True
    async with database.reading() as session:
        days = await usage_queries.summed(session, UsageFilter(), ("day", "key"))
        hours = await usage_queries.summed(session, UsageFilter(), ("hour",))
        keys = await usage_queries.summed(session, UsageFilter(), ("key", "model"))
        models = await usage_queries.summed(session, UsageFilter(), ("model", "day"))
    await database.close()
    assert sum(one.prompt_tokens for one in keys) == sum(one.prompt_tokens for one in written)
    assert sum(one.prompt_tokens for one in models) == sum(one.prompt_tokens for one in written)
    assert sum(one.requests for one in days) == sum(one.requests for one in hours) == 60
    assert sum(one.failed for one in days) == sum(one.outcome == "failed" for one in written)
    assert sum(one.prompt_tokens for one in hours) == sum(one.prompt_tokens for one in written)
    # Of what was recorded before they were counted none is known.
    assert sum(one.wasted_tokens for one in hours) == 0


async def test_a_place_is_read_with_the_groups_it_was_written_with(
    each_database: Database,
) -> None:
    async with each_database.unit_of_work() as session:
        await usage_queries.add_all(session, [entry.model_dump() for entry in entries(1)])
    async with each_database.reading() as session:
        (one,) = await usage_queries.summed(session, UsageFilter(), ("day", "model"))
    place = format_place(one)
    assert parse_place(place, ("day", "model")) == tuple(one.group.values())
    for told, by in (
        (place, ("model", "day")),
        (place, ()),
        ("x", ("day",)),
        ("bnVsbA", ("day",)),
    ):
        with pytest.raises(ValueError, match="is not where a page"):
            parse_place(told, by)  # type: ignore[arg-type]  # tuples of the four words


async def test_a_page_costs_as_much_with_many_keys_as_with_few(database: Database) -> None:
    """Counted in hundreds of instructions of SQLite's machine, which no load changes."""
    pages: list[tuple[UsageFilter, tuple[Grouping, ...]]] = [
        (UsageFilter("ten_a", key_id="key_03"), ("hour",)),
        (UsageFilter("ten_a"), ("key", "hour")),
        (UsageFilter("ten_a"), ("key", "model", "day")),
        (UsageFilter("ten_a"), ("day", "model", "key")),
        (UsageFilter("ten_a"), ("model", "hour")),
    ]
    few, many = [
        [await _steps(database, which, by, first, last) for which, by in pages]
        for first, last in ((0, 8), (8, 64))
    ]
    for (_, by), one, other in zip(pages, few, many, strict=True):
        assert other < 2 * one, by


async def _steps(
    database: Database, which: UsageFilter, by: tuple[Grouping, ...], first: int, last: int
) -> int:
    """What a page of 20 lines costs when the keys up to `last` have a record in each hour."""
    (like,) = entries(1)
    async with database.unit_of_work() as session:
        for number in range(first, last):
            more = [
                like.model_dump()
                | {"record_id": f"use_{number}_{hour}", "at": T0 + hour * HOUR_MS}
                | {"tenant_id": "ten_a", "key_id": f"key_{number:02}"}
                for hour in range(240)
            ]
            await usage_queries.add_all(session, more)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    async with database.reading() as session:
        raw = await (await session.connection()).get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.set_progress_handler(count, 100)
        await usage_queries.summed(session, which, by, limit=20)
        await raw.driver_connection.set_progress_handler(None, 100)
    return steps
