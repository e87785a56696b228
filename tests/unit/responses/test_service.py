"""Stored responses: chains, items, age, and workers that fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from orchestrator.core.errors import (
    InvalidRequest,
    PreviousResponseNotFound,
    RateLimited,
    ResponseNotFound,
    StoreUnavailable,
)
from orchestrator.responses.service import MAX_TURNS, Responses
from orchestrator.responses.values import (
    StoredResponse,
    frames_in,
    item_id,
    lifecycle_frame,
    response_of,
)
from orchestrator.settings import ResponsesSettings
from orchestrator.store.database import Database, StoreError
from tests.unit.responses.conftest import QUICK

T = TypeVar("T")

FIRST, SECOND, THIRD = (f"resp_01HZX3J5K7M9N1P3Q5R7S9T1V{n}" for n in range(3))


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def kept(
    tenant_id: str, response_id: str, previous_id: str | None = None, **more: Any
) -> StoredResponse:
    body = {
        "id": response_id,
        "previous_response_id": previous_id,
        "status": "completed",
        "background": False,
        "output": [{"id": item_id("msg", response_id, 1), "text": f"out of {response_id}"}],
    }
    items = [{"id": item_id("msg", response_id, 0), "text": f"into {response_id}"}]
    return StoredResponse(tenant_id, body | more, items)


def running(tenant_id: str, response_id: str = FIRST) -> StoredResponse:
    return kept(tenant_id, response_id, status="queued", background=True, output=[])


async def test_a_chain_is_one_conversation(database: Database, tenant_id: str) -> None:
    responses = Responses(database, QUICK)
    for one, before in ((FIRST, None), (SECOND, FIRST), (THIRD, SECOND)):
        assert await responses.keep(kept(tenant_id, one, before))
    said = [item["text"] for item in await responses.history(tenant_id, SECOND)]
    assert said == [f"{way} {one}" for one in (FIRST, SECOND) for way in ("into", "out of")]
    await responses.remove(tenant_id, FIRST)
    with pytest.raises(PreviousResponseNotFound, match=FIRST):
        await responses.history(tenant_id, THIRD)
    with pytest.raises(PreviousResponseNotFound, match="resp_9"):
        await responses.history(tenant_id, "resp_9")


async def test_a_chain_has_an_end(
    database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_TURNS > 100
    monkeypatch.setattr("orchestrator.responses.service.MAX_TURNS", 2)
    responses = Responses(database, QUICK)
    for one, before in ((FIRST, None), (SECOND, FIRST), (THIRD, SECOND)):
        await responses.keep(kept(tenant_id, one, before))
    assert len(await responses.history(tenant_id, SECOND)) == 4
    with pytest.raises(InvalidRequest, match="At most 2 responses"):
        await responses.history(tenant_id, THIRD)
    monkeypatch.setattr("orchestrator.responses.service.MAX_HISTORY_BYTES", 10)
    with pytest.raises(InvalidRequest, match="10 bytes at most"):
        await responses.history(tenant_id, FIRST)


@pytest.mark.parametrize("status", ["failed", "cancelled", "in_progress"])
async def test_only_an_answer_can_be_gone_on_from(
    database: Database, tenant_id: str, status: str
) -> None:
    responses = Responses(database, QUICK)
    await responses.keep(kept(tenant_id, FIRST, status=status))
    with pytest.raises(InvalidRequest, match=f"it is {status}"):
        await responses.history(tenant_id, FIRST)


async def test_items_are_found_by_their_ids(database: Database, tenant_id: str) -> None:
    responses = Responses(database, QUICK)
    await responses.keep(kept(tenant_id, FIRST))
    await responses.keep(kept(tenant_id, SECOND))
    ids = [item_id("msg", FIRST, 1), item_id("msg", SECOND, 0), item_id("msg", THIRD, 0), "x"]
    found = await responses.items(tenant_id, ids)
    assert {one: item["text"] for one, item in found.items()} == {
        ids[0]: f"out of {FIRST}",
        ids[1]: f"into {SECOND}",
    }
    assert await responses.items("ten_other", ids) == {}


async def test_items_of_very_much_that_is_stored_are_refused_unread(
    database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = Responses(database, QUICK)
    await responses.keep(kept(tenant_id, FIRST))
    monkeypatch.setattr("orchestrator.responses.service.MAX_HISTORY_BYTES", 100)
    ids = [item_id("msg", FIRST, 1)]
    with pytest.raises(InvalidRequest, match="may have 100 bytes"):
        await responses.items(tenant_id, ids)
    assert await responses.items("ten_other", ids) == {}


async def test_what_is_too_old_is_gone_at_once_and_deleted_later(
    database: Database, tenant_id: str
) -> None:
    clock = Clock()
    responses = Responses(database, ResponsesSettings(ttl_s=60), now=clock)
    await responses.keep(kept(tenant_id, FIRST))
    clock.now += 60
    assert (await responses.find(tenant_id, FIRST)).id == FIRST
    clock.now += 0.1
    for call in (responses.find, responses.history, responses.cancel):
        with pytest.raises((ResponseNotFound, PreviousResponseNotFound)):
            await call(tenant_id, FIRST)
    assert await responses.items(tenant_id, [item_id("msg", FIRST, 0)]) == {}
    await responses.sweep()
    clock.now -= 60
    with pytest.raises(ResponseNotFound):
        await responses.find(tenant_id, FIRST)


async def test_the_sweep_runs_by_itself(database: Database, tenant_id: str) -> None:
    clock = Clock()
    responses = Responses(database, ResponsesSettings(ttl_s=60), now=clock)
    await responses.keep(kept(tenant_id, FIRST))
    await responses.begin(running(tenant_id, SECOND), [])
    clock.now += 31
    responses.start()
    try:
        async with asyncio.timeout(60):
            while True:
                if "failed" in await _statuses(database):
                    break
    finally:
        await responses.close()
    assert (await responses.find(tenant_id, FIRST)).body["status"] == "completed"


async def _statuses(database: Database) -> list[str]:
    async with database.reading() as session:
        connection = await session.connection()
        rows = await connection.execute(text("SELECT status FROM stored_response"))
        return [row[0] for row in rows]


async def test_a_silent_worker_has_lost_its_response(database: Database, tenant_id: str) -> None:
    clock = Clock()
    responses = Responses(database, QUICK, now=clock)
    begun = running(tenant_id)
    await responses.begin(begun, [lifecycle_frame("response.created", 0, begun.body)])
    clock.now += 5
    assert (await responses.find(tenant_id, FIRST)).body["status"] == "queued"
    assert await responses.touch(FIRST)
    clock.now += 5.1
    lost = await responses.find(tenant_id, FIRST)
    assert lost.body["status"] == "failed"
    assert lost.body["error"]["code"] == "server_error"
    page = await responses.page(tenant_id, FIRST, 0)
    assert page.over
    assert [number for number, _ in page.frames] == [1]
    assert b"event: response.failed" in page.frames[0][1]
    # It may still be at work, and finds out that nobody waits any more.
    assert not await responses.touch(FIRST)
    assert not await responses.advance(kept(tenant_id, FIRST), [])


async def test_followers_see_a_lost_response_end(database: Database, tenant_id: str) -> None:
    clock = Clock()
    responses = Responses(database, QUICK, now=clock)
    begun = running(tenant_id)
    await responses.begin(begun, [lifecycle_frame("response.created", 0, begun.body)])
    clock.now += 5.1
    first = await responses.page(tenant_id, FIRST, -1)
    assert ([number for number, _ in first.frames], first.over) == ([0], False)
    second = await responses.page(tenant_id, FIRST, 0)
    assert ([number for number, _ in second.frames], second.over) == ([1], True)


async def test_what_ended_in_between_is_not_cancelled(database: Database, tenant_id: str) -> None:
    responses = Responses(database, QUICK)
    await responses.begin(running(tenant_id), [])
    assert await responses.advance(kept(tenant_id, FIRST, background=True), [])
    assert (await responses.cancel(tenant_id, FIRST)).body["status"] == "completed"


async def test_a_store_out_of_reach_is_not_tried_again_at_once(
    database: Database, tenant_id: str
) -> None:
    responses = Responses(database, QUICK)
    responses.check()
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text("ALTER TABLE stored_response RENAME TO elsewhere"))
    assert await responses.keep(kept(tenant_id, FIRST)) is False
    with pytest.raises(StoreUnavailable) as caught:
        responses.check()
    assert caught.value.retry_after_s == 1
    with pytest.raises(StoreError):
        await responses.find(tenant_id, FIRST)


def test_an_items_id_tells_its_response() -> None:
    assert response_of(item_id("fc", FIRST, 3)) == FIRST
    assert item_id("fc", FIRST, 3) != item_id("fc", FIRST, 4)


def test_stored_events_come_apart_as_they_were_put_together() -> None:
    frames = [lifecycle_frame("response.created", n, {"text": "a\n\nb é 😀"}) for n in range(3)]
    assert frames_in(b"".join(frames).decode()) == frames
    assert frames_in("") == []


class SmallRoom:
    """Room for `size` bytes; notes where the work is done."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.worked: list[int] = []

    def hold(self, size: int) -> None:
        if size > self.size:
            raise RateLimited("full")
        self.size -= size

    async def work_on(self, size: int, work: Callable[[], T]) -> T:
        self.worked.append(size)
        return work()


async def test_what_came_before_is_read_when_there_is_room_for_it(
    database: Database, tenant_id: str
) -> None:
    responses = Responses(database, QUICK)
    for one, before in ((FIRST, None), (SECOND, FIRST)):
        assert await responses.keep(kept(tenant_id, one, before))
    room, ids = SmallRoom(10**6), [item_id("msg", FIRST, 0)]
    assert len(await responses.history(tenant_id, SECOND, room)) == 4
    assert len(await responses.items(tenant_id, ids, room)) == 1
    assert 10**6 - room.size == sum(room.worked) > 0
    for read in (
        lambda: responses.history(tenant_id, SECOND, SmallRoom(100)),
        lambda: responses.items(tenant_id, ids, SmallRoom(100)),
    ):
        with pytest.raises(RateLimited):
            await read()
