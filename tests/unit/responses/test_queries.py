"""Stored responses: each tenant's own, in chains, with events, and within bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest_asyncio

from orchestrator.keys import tenants
from orchestrator.responses import queries as response_queries
from orchestrator.responses.queries import Quotas, Stored
from orchestrator.store.database import Database

ONE = Stored("resp_1", "", 1000, None, "completed", '{"id":"resp_1"}', "[]", seen_at=1000)
ROOMY = Quotas(10**9, 10**9)


@pytest_asyncio.fixture
async def owner(each_database: Database) -> str:
    async with each_database.unit_of_work() as session:
        return (await tenants.ensure(session, "acme", 1)).id


async def put(database: Database, *stored: Stored) -> None:
    async with database.unit_of_work() as session:
        await response_queries.add(session, stored)


async def ids(database: Database, tenant_id: str, *wanted: str) -> list[str]:
    """Which of `wanted` are there."""
    async with database.reading() as session:
        found = [await response_queries.find(session, tenant_id, one, 0) for one in wanted]
    return [one.id for one in found if one is not None]


async def test_a_response_is_its_tenants_alone(each_database: Database, owner: str) -> None:
    async with each_database.unit_of_work() as session:
        stranger = (await tenants.ensure(session, "stranger", 1)).id
    stored = replace(ONE, tenant_id=owner, input_items='[{"type":"message","content":"é 😀"}]')
    await put(each_database, stored)
    async with each_database.reading() as session:
        assert await response_queries.find(session, owner, "resp_1", 0) == stored
        assert await response_queries.find(session, stranger, "resp_1", 0) is None
        assert await response_queries.progress(session, owner, "resp_1", 0) == ("completed", 1000)
        assert await response_queries.progress(session, owner, "resp_1", 1001) is None
        assert await response_queries.progress(session, stranger, "resp_1", 0) is None
        assert await response_queries.chain(session, stranger, "resp_1", 0, most=9) == []
        assert await response_queries.texts(session, stranger, ["resp_1"], 0) == {}
    async with each_database.unit_of_work() as session:
        assert await response_queries.remove(session, stranger, "resp_1") is False
        assert await response_queries.remove(session, owner, "resp_1") is True
        assert await response_queries.remove(session, owner, "resp_1") is False


async def test_what_is_too_old_is_not_found_even_before_it_is_deleted(
    each_database: Database, owner: str
) -> None:
    await put(each_database, replace(ONE, tenant_id=owner))
    async with each_database.reading() as session:
        assert await response_queries.find(session, owner, "resp_1", 1001) is None
        assert await response_queries.chain(session, owner, "resp_1", 1001, most=9) == []
    async with each_database.unit_of_work() as session:
        assert await response_queries.expire(session, 1000) == 0
        assert await response_queries.expire(session, 1001) == 1
    assert await ids(each_database, owner, "resp_1") == []


async def test_a_chain_is_read_at_once_and_ends_where_it_is_broken(
    each_database: Database, owner: str
) -> None:
    turns = [
        replace(ONE, id=f"resp_{n}", tenant_id=owner, previous_id=f"resp_{n - 1}" if n else None)
        for n in range(6)
    ]
    await put(each_database, *turns)
    async with each_database.reading() as session:
        whole = await response_queries.chain(session, owner, "resp_4", 0, most=99)
        assert [link[0] for link in whole] == ["resp_4", "resp_3", "resp_2", "resp_1", "resp_0"]
        assert [link[1] for link in whole][-2:] == ["resp_0", None]
        assert {link[2] for link in whole} == {ONE.size_bytes}
        assert len(await response_queries.chain(session, owner, "resp_4", 0, most=2)) == 2
        found = await response_queries.texts(session, owner, ["resp_1", "resp_3", "resp_none"], 0)
        assert set(found) == {"resp_1", "resp_3"}
    async with each_database.unit_of_work() as session:
        await response_queries.remove(session, owner, "resp_2")
    async with each_database.reading() as session:
        rest = await response_queries.chain(session, owner, "resp_4", 0, most=99)
    assert [(link[0], link[1]) for link in rest] == [("resp_4", "resp_3"), ("resp_3", "resp_2")]


async def test_events_are_appended_while_it_runs_and_never_after_its_end(
    each_database: Database, owner: str
) -> None:
    await put(each_database, replace(ONE, tenant_id=owner, status="queued"))
    async with each_database.unit_of_work() as session:
        assert await response_queries.advance(
            session, "resp_1", status="in_progress", now=2000, frames=["a", "b"]
        )
        assert await response_queries.advance(
            session, "resp_1", status="in_progress", now=3000, frames=["c"]
        )
        assert await response_queries.touch(session, "resp_1", 3500)
        assert await response_queries.advance(
            session, "resp_1", status="completed", now=4000, frames=["d"], body='{"done":true}'
        )
        assert not await response_queries.advance(session, "resp_1", status="failed", now=5000)
        assert not await response_queries.touch(session, "resp_1", 5000)
    async with each_database.reading() as session:
        found = await response_queries.find(session, owner, "resp_1", 0)
        assert found is not None
        assert (found.status, found.next_sequence, found.seen_at) == ("completed", 4, 4000)
        assert found.body == '{"done":true}'
        assert await response_queries.events(session, "resp_1", -1) == [
            (0, "ab"),
            (2, "c"),
            (3, "d"),
        ]
        assert await response_queries.events(session, "resp_1", 0) == [
            (0, "ab"),
            (2, "c"),
            (3, "d"),
        ]
        assert await response_queries.events(session, "resp_1", 1) == [(2, "c"), (3, "d")]
        assert await response_queries.events(session, "resp_1", 2) == [(3, "d")]
        assert await response_queries.events(session, "resp_1", 9) == [(3, "d")]
        assert await response_queries.events(session, "resp_2", -1) == []
        ((_, _, size),) = await response_queries.chain(session, owner, "resp_1", 0, most=9)
    assert size == found.size_bytes + len("abcd")


async def test_events_go_with_their_response(each_database: Database, owner: str) -> None:
    await put(each_database, replace(ONE, tenant_id=owner, status="queued"))
    async with each_database.unit_of_work() as session:
        await response_queries.advance(session, "resp_1", status="queued", now=1, frames=["secret"])
    async with each_database.unit_of_work() as session:
        await response_queries.remove(session, owner, "resp_1")
    async with each_database.reading() as session:
        assert await response_queries.events(session, "resp_1", -1) == []


async def test_only_a_silent_worker_loses_its_response(each_database: Database, owner: str) -> None:
    running = replace(ONE, tenant_id=owner, status="in_progress", seen_at=1000)
    await put(each_database, running, replace(ONE, id="resp_2", tenant_id=owner))
    async with each_database.unit_of_work() as session:
        assert await response_queries.abandoned(session, 1000) == []
        assert [one.id for one in await response_queries.abandoned(session, 1001)] == ["resp_1"]
        assert not await response_queries.advance(
            session, "resp_1", status="failed", now=9, idle_since=1000
        )
        assert await response_queries.advance(
            session, "resp_1", status="failed", now=9, idle_since=1001
        )


async def test_the_oldest_go_first_by_count_and_by_size(
    each_database: Database, owner: str
) -> None:
    async with each_database.unit_of_work() as session:
        stranger = (await tenants.ensure(session, "stranger", 1)).id
    everybody = [replace(ONE, id=f"resp_{n}", tenant_id=owner, created_at=n) for n in range(6)]
    everybody[1] = replace(everybody[1], status="in_progress")
    await put(each_database, *everybody, replace(ONE, id="resp_s", tenant_id=stranger))
    names = [one.id for one in everybody]
    async with each_database.unit_of_work() as session:
        assert await response_queries.make_room(session, owner, ROOMY, ["resp_5"]) == 0
        assert await response_queries.make_room(session, owner, Quotas(10**9, 4), ["resp_5"]) == 2
    assert await ids(each_database, owner, *names) == ["resp_1", "resp_3", "resp_4", "resp_5"]
    async with each_database.unit_of_work() as session:
        tight = Quotas(2 * ONE.size_bytes, 10**9)
        assert await response_queries.make_room(session, owner, tight, ["resp_3"]) == 2
    # What runs and what has just been written stay.
    assert await ids(each_database, owner, *names) == ["resp_1", "resp_3"]
    async with each_database.unit_of_work() as session:
        assert await response_queries.make_room(session, owner, Quotas(1, 1), ["resp_3"]) == 0
    assert await ids(each_database, stranger, "resp_s") == ["resp_s"]
