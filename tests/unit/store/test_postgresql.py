"""What is PostgreSQL's own: limits of time, locks, and errors in sentences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from orchestrator.settings import Settings, StoreSettings
from orchestrator.store import tenants
from orchestrator.store.database import Database, StoreError, turn
from orchestrator.store.migrate import migrate
from tests.postgresql import PostgresServer, database_of


def _settings(tmp_path: Path, url: str, **more: float) -> Settings:
    return Settings(data_dir=tmp_path / "data", store=StoreSettings(url=url, **more))


@pytest.fixture
def url(postgresql: PostgresServer) -> str:
    return postgresql.new_database()


@pytest_asyncio.fixture
async def database(tmp_path: Path, url: str) -> AsyncIterator[Database]:
    settings = _settings(tmp_path, url, busy_timeout_s=0.2, statement_timeout_s=0.3)
    await migrate(settings)
    database = Database(settings)
    yield database
    await database.close()


async def _sentence(database: Database, statement: str) -> str:
    async def run() -> None:
        async with database.unit_of_work() as session:
            await (await session.connection()).execute(text(statement))

    with pytest.raises(StoreError) as caught:
        await run()
    prefix = f"the store `{database.name}` "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


async def test_statement_that_takes_too_long_is_ended(database: Database) -> None:
    assert await _sentence(database, "SELECT pg_sleep(30)") == "did not answer in time"
    async with database.reading() as session:
        assert await tenants.listed(session) == []


async def test_row_locked_by_another_is_waited_for_and_then_said(database: Database) -> None:
    async with database.unit_of_work() as session:
        await tenants.ensure(session, "acme", 1)
    async with database.unit_of_work() as session:
        tenant = await tenants.find(session, "acme")
        assert tenant is not None
        await tenants.get(session, tenant.id, to_write=True)
        assert (
            await _sentence(database, "UPDATE tenant SET name = 'bolt'")
            == "is locked by another process"
        )


async def test_reading_sees_one_moment_and_writes_nothing(database: Database) -> None:
    async with database.reading() as session:
        assert await tenants.listed(session) == []
        async with database.unit_of_work() as writing:
            await tenants.ensure(writing, "acme", 1)
        assert await tenants.listed(session) == []

    async def write() -> None:
        async with database.reading() as session:
            await tenants.ensure(session, "bolt", 1)

    with pytest.raises(StoreError, match="it is read-only"):
        await write()


async def test_turns_are_taken_one_after_the_other(tmp_path: Path, url: str) -> None:
    settings = _settings(tmp_path, url)
    await migrate(settings)
    database = Database(settings)
    inside = 0

    async def count(name: str) -> None:
        nonlocal inside
        async with database.unit_of_work() as session:
            await turn(session, name)
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*[count("audit") for _ in range(20)])
    await database.close()


async def test_tenants_made_at_the_same_time_are_one(tmp_path: Path, url: str) -> None:
    settings = _settings(tmp_path, url)
    await migrate(settings)
    database = Database(settings)

    async def ensure() -> str:
        async with database.unit_of_work() as session:
            return (await tenants.ensure(session, "acme", 1)).id

    assert len(set(await asyncio.gather(*[ensure() for _ in range(20)]))) == 1
    await database.close()


async def test_store_without_schema_says_what_to_run(tmp_path: Path, url: str) -> None:
    database = Database(_settings(tmp_path, url))
    with pytest.raises(StoreError, match=r"has not been set up: run `orchestrator migrate`$"):
        await database.check_schema()
    await database.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("{database}", "nowhere"), "cannot be opened: there is no such database"),
        (("{port}", "1"), "cannot be reached"),
        (("postgres@", "nobody@"), "cannot be opened: the server refuses this user or password"),
        (("127.0.0.1", "nowhere.invalid"), "cannot be reached"),
    ],
)
async def test_server_that_lets_nobody_in_is_one_sentence(
    tmp_path: Path, url: str, postgresql: PostgresServer, change: tuple[str, str], sentence: str
) -> None:
    old = change[0].format(database=database_of(url), port=postgresql.port)
    database = Database(_settings(tmp_path, url.replace(old, change[1])))
    with pytest.raises(StoreError) as caught:
        await database.check_schema()
    assert str(caught.value) == f"the store `{database.name}` {sentence}"
    await database.close()


async def test_password_is_in_no_message(tmp_path: Path, url: str) -> None:
    database = Database(_settings(tmp_path, url.replace("postgres@", "nobody:hunter2@")))
    with pytest.raises(StoreError) as caught:
        await database.check_schema()
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
    await database.close()


async def test_more_work_than_connections_waits_its_turn(tmp_path: Path, url: str) -> None:
    settings = _settings(tmp_path, url, pool_size=2)
    await migrate(settings)
    database = Database(settings)

    async def add(number: int) -> None:
        async with database.unit_of_work() as session:
            await tenants.ensure(session, f"tenant {number}", 1)

    await asyncio.gather(*[add(number) for number in range(40)])
    async with database.reading() as session:
        assert len(await tenants.listed(session)) == 40
    await database.close()


async def test_connections_that_were_cut_are_replaced_unseen(
    database: Database, postgresql: PostgresServer, url: str
) -> None:
    async with database.reading() as session:
        await tenants.listed(session)
    cut = postgresql.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE datname = '{database_of(url)}'",
        database="postgres",
    )
    assert int(cut) >= 1
    async with database.reading() as session:
        assert await tenants.listed(session) == []
