"""The background of a worker: what it writes, who may stop it, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import text

from orchestrator.core.errors import Overloaded
from orchestrator.responses.runs import Runs
from orchestrator.responses.service import Responses
from orchestrator.responses.values import StoredResponse, cancelled, failed
from orchestrator.store.database import Database
from tests.unit.responses.conftest import QUICK
from tests.unit.responses.test_service import FIRST, SECOND, THIRD, running

FRAMES = [f"event: {name}\ndata: {{}}\n\n".encode() for name in ("a", "b", "c")]
LAST = b"event: end\ndata: {}\n\n"


@dataclass
class ScriptedWork:
    """Gives its frames, waits until it may go on, and has then been completed."""

    now: StoredResponse
    fault: Exception | None = None
    closings: int = 0
    interruptions: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            for frame in FRAMES:
                yield frame
            self._become({**self.now.body, "status": "in_progress"})
            self.has_begun.set()
            await self.may_end.wait()
            if self.fault is not None:
                raise self.fault
            self._become({**self.now.body, "status": "completed"})
            yield LAST
        finally:
            self.closed.set()

    def interrupt(self) -> None:
        self.interruptions += 1

    def interrupted(self) -> Sequence[bytes]:
        self._become(failed(self.now.body, "server_error", "interrupted"))
        return [LAST]

    def kept(self) -> StoredResponse:
        return self.now

    def close(self) -> None:
        self.closings += 1

    def _become(self, body: dict[str, object]) -> None:
        self.now = replace(self.now, body=body)


async def begun(responses: Responses, runs: Runs, kept: StoredResponse) -> ScriptedWork:
    work = ScriptedWork(kept)
    await responses.begin(kept, [])
    runs.start(work)
    await asyncio.wait_for(work.has_begun.wait(), 60)
    return work


async def written(responses: Responses, tenant_id: str, count: int) -> list[bytes]:
    """The stored events, once there are so many."""
    async with asyncio.timeout(60):
        while True:
            page = await responses.page(tenant_id, FIRST, -1)
            if len(page.frames) >= count:
                assert [number for number, _ in page.frames] == list(range(len(page.frames)))
                return [frame for _, frame in page.frames]


async def over(responses: Responses, tenant_id: str) -> StoredResponse:
    """The response once it is over."""
    async with asyncio.timeout(60):
        while True:
            found = await responses.find(tenant_id, FIRST)
            if not found.running:
                return found


async def test_events_are_there_before_the_end_and_the_answer_with_it(
    database: Database, tenant_id: str
) -> None:
    responses = Responses(database, QUICK)
    runs = Runs(responses, QUICK)
    work = await begun(responses, runs, running(tenant_id))
    assert await written(responses, tenant_id, 3) == FRAMES
    assert (await responses.find(tenant_id, FIRST)).body["status"] == "in_progress"
    work.may_end.set()
    assert (await over(responses, tenant_id)).body["status"] == "completed"
    assert await written(responses, tenant_id, 4) == [*FRAMES, LAST]
    await runs.close()


async def test_another_worker_cancels_what_runs_here(database: Database, tenant_id: str) -> None:
    here, elsewhere = Responses(database, QUICK), Responses(database, QUICK)
    runs = Runs(here, QUICK)
    work = await begun(here, runs, running(tenant_id))
    assert (await elsewhere.cancel(tenant_id, FIRST)).body["status"] == "cancelled"
    await asyncio.wait_for(work.closed.wait(), 60)
    await runs.close()
    found = await elsewhere.find(tenant_id, FIRST)
    assert found.body == cancelled(found.body)


async def test_stopping_here_needs_no_look_at_the_store(database: Database, tenant_id: str) -> None:
    responses = Responses(database, QUICK.model_copy(update={"poll_s": 1000.0}))
    runs = Runs(responses, QUICK.model_copy(update={"poll_s": 1000.0}))
    work = await begun(responses, runs, running(tenant_id))
    await responses.cancel(tenant_id, FIRST)
    runs.stop(FIRST)
    await asyncio.wait_for(work.closed.wait(), 60)
    await runs.close()
    assert (await responses.find(tenant_id, FIRST)).body["status"] == "cancelled"
    runs.stop(FIRST)


async def test_no_more_run_than_may(database: Database, tenant_id: str) -> None:
    responses = Responses(database, QUICK)
    runs = Runs(responses, QUICK)
    for one in (FIRST, SECOND):
        runs.check()
        await begun(responses, runs, running(tenant_id, one))
    with pytest.raises(Overloaded, match="2 responses run"):
        runs.check()
    await runs.close()
    with pytest.raises(Overloaded):
        runs.check()


async def test_what_is_about_to_run_counts_too(database: Database, tenant_id: str) -> None:
    runs = Runs(Responses(database, QUICK), QUICK)
    third = runs.place()
    with runs.place(), runs.place(), pytest.raises(Overloaded, match="2 responses run"):
        third.__enter__()
    with pytest.raises(ZeroDivisionError), runs.place():
        _ = 1 / 0
    with runs.place():
        runs.check()


async def test_what_runs_at_the_end_of_the_worker_has_failed(
    database: Database, tenant_id: str
) -> None:
    responses = Responses(database, QUICK)
    runs = Runs(responses, QUICK)
    await begun(responses, runs, running(tenant_id))
    await responses.begin(running(tenant_id, THIRD), [])
    runs.start(ScriptedWork(running(tenant_id, THIRD)))
    await runs.close()
    for one in (FIRST, THIRD):
        found = await responses.find(tenant_id, one)
        assert found.body["error"] == {"code": "server_error", "message": "interrupted"}
    assert (await written(responses, tenant_id, 1))[-1] == LAST


async def test_a_fault_in_the_work_ends_it_and_is_logged(
    database: Database, tenant_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    responses = Responses(database, QUICK)
    runs = Runs(responses, QUICK)
    work = await begun(responses, runs, running(tenant_id))
    work.fault = ValueError("nobody expected this")
    work.may_end.set()
    assert (await over(responses, tenant_id)).body["status"] == "failed"
    await runs.close()
    assert "nobody expected this" in caplog.text


async def test_an_outage_of_the_store_delays_events_and_loses_none(
    database: Database, tenant_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    responses = Responses(database, QUICK)
    runs = Runs(responses, QUICK)
    work = ScriptedWork(running(tenant_id))
    await responses.begin(work.kept(), [])
    await rename(database, "stored_response_event", "elsewhere")
    runs.start(work)
    await logged(caplog, "are not stored yet")
    work.may_end.set()
    await logged(caplog, "the end of")
    await rename(database, "elsewhere", "stored_response_event")
    await over(responses, tenant_id)
    assert await written(responses, tenant_id, 4) == [*FRAMES, LAST]
    await runs.close()


async def logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Returns when the log holds `words`."""
    async with asyncio.timeout(60):
        while True:
            if words in caplog.text:
                return
            await asyncio.sleep(0)


async def rename(database: Database, name: str, new_name: str) -> None:
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text(f"ALTER TABLE {name} RENAME TO {new_name}"))


async def test_what_a_response_held_is_free_once_when_it_is_over(
    database: Database, tenant_id: str
) -> None:
    responses = Responses(database, QUICK)
    runs = Runs(responses, QUICK)
    ended = await begun(responses, runs, running(tenant_id, FIRST))
    stopped = await begun(responses, runs, running(tenant_id, SECOND))
    assert (ended.closings, stopped.closings) == (0, 0)
    ended.may_end.set()
    runs.stop(SECOND)
    await runs.close()
    assert (ended.closings, stopped.closings) == (1, 1)
