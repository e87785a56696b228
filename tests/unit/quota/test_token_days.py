"""Tokens of a day: added up by many writers, and by each of them once."""

from __future__ import annotations

import asyncio

from sqlalchemy import event

from orchestrator.quota import token_days
from orchestrator.store.database import Database, StoreError

KEY = ("key", "key_1", "20260525")
TENANT = ("tenant", "ten_1", "20260525")


async def add(database: Database, amount: int) -> None:
    async with database.unit_of_work() as session:
        await token_days.add_used(session, {TENANT: amount, KEY: amount})


async def test_writers_at_the_same_time_lose_nothing(each_database: Database) -> None:
    await add(each_database, 1)

    async def one() -> None:
        for _ in range(5):
            while True:
                try:
                    await add(each_database, 2)
                    break
                except StoreError:  # SQLite's lock was taken for longer than the time-out
                    await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(4)))
    async with each_database.reading() as session:
        assert await token_days.used(session, KEY) == 41
        assert await token_days.used_on(session, "20260525") == {KEY: 41, TENANT: 41}
        assert await token_days.used_on(session, "20260526") == {}
        assert await token_days.used(session, ("key", "key_1", "20260526")) == 0


async def test_however_many_keys_were_at_work_it_is_one_statement(
    each_database: Database,
) -> None:
    asked: list[str] = []
    async with each_database.unit_of_work() as session:

        def note(*of: object) -> None:
            asked.append(str(of[2]))

        event.listen(session.get_bind(), "before_cursor_execute", note)
        for amount in (1, 2):
            used = {("key", f"key_{number}", "20260525"): amount for number in range(300)}
            await token_days.add_used(session, used)
        event.remove(session.get_bind(), "before_cursor_execute", note)
    assert len([one for one in asked if "token_day" in one]) == 2
    async with each_database.reading() as session:
        rows = await token_days.used_on(session, "20260525")
    assert set(rows.values()) == {3}
    assert len(rows) == 300


async def test_how_far_a_journal_has_come_is_noted_with_what_it_added(
    each_database: Database,
) -> None:
    async with each_database.unit_of_work() as session:
        assert await token_days.applied(session, ["own_1"]) == {}
        await token_days.note_applied(session, "own_1", 7, 1000)
        await token_days.note_applied(session, "own_2", 1, 9000)
    async with each_database.unit_of_work() as session:
        await token_days.note_applied(session, "own_1", 9, 2000)
        assert await token_days.applied(session, ["own_1", "own_3"]) == {"own_1": 9}
    async with each_database.unit_of_work() as session:
        await token_days.forget_owners(session, 5000)
        assert await token_days.applied(session, ["own_1", "own_2"]) == {"own_2": 1}
