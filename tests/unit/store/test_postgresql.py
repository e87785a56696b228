"""What is PostgreSQL's own: limits of time, locks, and errors in sentences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from orchestrator.keys import tenants
from orchestrator.settings import Settings, StoreSettings
from orchestrator.store.database import Database, StoreError, turn
from orchestrator.store.migrate import migrate
from tests.postgresql import PostgresServer, database_of


def _settings(tmp_path: Path, url: str, **more: float) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        store=StoreSettings(url=url, **{"connect_timeout_s": 30, **more}),
    )


@pytest.fixture
def url(postgresql: PostgresServer) -> str:
    return postgresql.new_database()


@pytest_asyncio.fixture
async def database(tmp_path: Path, url: str) -> AsyncIterator[Database]:
    settings = _settings(tmp_path, url, busy_timeout_s=1.0, statement_timeout_s=2.0)
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
    said = await _sentence(database, "SELECT pg_sleep(30)")
    assert said == (
        "did not answer in time (canceling statement due to statement timeout, SQLSTATE 57014)"
    )
    async with database.reading() as session:
        assert await tenants.listed(session) == []


async def test_row_locked_by_another_is_waited_for_and_then_said(database: Database) -> None:
    async with database.unit_of_work() as session:
        await tenants.ensure(session, "acme", 1)
    async with database.unit_of_work() as session:
        tenant = await tenants.find(session, "acme")
        assert tenant is not None
        await tenants.get(session, tenant.id, to_write=True)
        said = await _sentence(database, "UPDATE tenant SET name = 'bolt'")
        assert said.startswith("is locked by another process (")


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
    with pytest.raises(StoreError, match=r"has not been set up: run `orchestrator migrate` \("):
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
    assert str(caught.value).startswith(f"the store `{database.name}` {sentence} (")
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


async def test_connections_to_a_server_that_was_demoted_are_replaced(
    tmp_path: Path, url: str
) -> None:
    """Its sessions stay read-only, as those that a fail-over left on the old server."""
    settings = _settings(tmp_path, url, pool_size=3)
    await migrate(settings)
    database = Database(settings)
    at_once = asyncio.Barrier(3)

    async def demote() -> None:
        async with database._engine.connect() as connection:
            await at_once.wait()
            await connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            await connection.commit()

    await asyncio.gather(*[demote() for _ in range(3)])
    with pytest.raises(StoreError, match=r"it is read-only .*, SQLSTATE 25006"):
        async with database.unit_of_work() as session:
            await tenants.ensure(session, "acme", 1)
    for number in range(6):
        async with database.unit_of_work() as session:
            await tenants.ensure(session, f"tenant {number}", 1)
    await database.close()


async def test_server_that_takes_no_writes_is_a_fault_of_its_own(
    tmp_path: Path, url: str, postgresql: PostgresServer
) -> None:
    settings = _settings(tmp_path, url)
    await migrate(settings)
    database = Database(settings)
    await database.check_writable()
    name = database_of(url)
    postgresql.sql(
        f"ALTER DATABASE {name} SET default_transaction_read_only = on", database="postgres"
    )
    await database._engine.dispose()
    # What is read is there.
    await database.check_schema()
    with pytest.raises(StoreError, match="cannot be written: it is read-only"):
        await database.check_writable()
    postgresql.sql(
        f"ALTER DATABASE {name} RESET default_transaction_read_only", database="postgres"
    )
    # The pool has been given up: it needs no restart.
    await database.check_writable()
    await database.close()


async def test_of_several_servers_the_one_that_takes_writes_is_used(
    tmp_path: Path, url: str, postgresql: PostgresServer
) -> None:
    name = database_of(url)
    await migrate(_settings(tmp_path, url))
    other = PostgresServer()
    try:
        other.start()
        other.sql(f"CREATE DATABASE {name}", database="postgres")
        read_only = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
        other.sql(read_only, database="postgres")
        hosts = f"host=127.0.0.1:{other.port}&host=127.0.0.1:{postgresql.port}"
        both = _settings(tmp_path, f"postgresql+asyncpg://postgres@/{name}?{hosts}")
        database = Database(both)
        assert str(other.port) in database.name
        assert str(postgresql.port) in database.name
        async with database.unit_of_work() as session:
            await tenants.ensure(session, "acme", 1)
        await database.close()
        postgresql.sql(read_only, database="postgres")
        database = Database(both)
        with pytest.raises(StoreError, match="no server of it takes writes"):
            await database.check_schema()
        await database.close()
    finally:
        other.remove()
        reset = f"ALTER DATABASE {name} RESET default_transaction_read_only"
        postgresql.sql(reset, database="postgres")


async def test_what_could_repeat_a_value_is_not_said(database: Database) -> None:
    said = await _sentence(database, "SELECT CAST('a secret' AS integer)")
    assert "secret" not in said
