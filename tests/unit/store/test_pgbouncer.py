"""The store through PgBouncer in transaction mode: the same behaviour, limits included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from orchestrator.audit import log as audit_log
from orchestrator.audit.log import Act
from orchestrator.books import queries as usage_queries
from orchestrator.books.sums import UsageFilter
from orchestrator.keys import tenants
from orchestrator.keys.bootstrap import bootstrap
from orchestrator.quota import token_days
from orchestrator.settings import Settings, StoreSettings
from orchestrator.store.database import Database, StoreError
from orchestrator.store.migrate import migrate
from tests.pgbouncer import PgBouncer
from tests.postgresql import PostgresServer


@pytest.fixture(scope="module")
def pgbouncer(postgresql: PostgresServer) -> Iterator[PgBouncer]:
    bouncer = PgBouncer(postgresql)
    yield bouncer
    bouncer.remove()


def settings_for(folder: Path, url: str, *, pgbouncer: bool = True, **limits: float) -> Settings:
    store = StoreSettings(url=url, pgbouncer=pgbouncer, connect_timeout_s=30, **limits)
    return Settings(data_dir=folder / "data", store=store)


@pytest.fixture
def settings(tmp_path: Path, postgresql: PostgresServer, pgbouncer: PgBouncer) -> Settings:
    return settings_for(tmp_path, pgbouncer.url(postgresql.new_database()))


@pytest_asyncio.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    await migrate(settings)
    database = Database(settings)
    yield database
    await database.close()


def entry(number: int) -> dict[str, object]:
    names = ("request_id", "tenant_id", "key_id", "model", "route", "dialect")
    counts = ("prompt_tokens", "completion_tokens", "cached_tokens", "duration_ms", "wasted_tokens")
    return {
        "record_id": f"use_{number}",
        "at": number,
        **dict.fromkeys(names, "x"),
        **dict.fromkeys(counts, 1),
        "first_token_ms": None,
        "outcome": "ok",
    }


async def test_many_transactions_at_once_share_few_connections(database: Database) -> None:
    async def work(number: int) -> None:
        async with database.unit_of_work() as session:
            await tenants.ensure(session, f"tenant {number % 5}", 1)
            await usage_queries.add_all(session, [entry(number), entry(number + 1000)])
            await token_days.add_used(session, {("key", "key_1", "20260525"): 2})
            await audit_log.note(session, Act("cli:x", "key.create", f"key_{number}"))
        async with database.reading() as session:
            await tenants.listed(session)

    await asyncio.gather(*[work(number) for number in range(60)])
    async with database.reading() as session:
        fault, end = await audit_log.first_fault(session)
        (total,) = await usage_queries.summed(session, UsageFilter())
        assert (fault, end.seq, total.requests) == (None, 60, 120)
        assert await token_days.used(session, ("key", "key_1", "20260525")) == 120
        assert len(await tenants.listed(session)) == 5


async def test_the_first_key_is_made(settings: Settings) -> None:
    await migrate(settings)
    first = await bootstrap(settings)
    assert first is not None
    first.shown()
    assert await bootstrap(settings) is None


async def test_limits_hold_in_each_transaction(tmp_path: Path, database: Database) -> None:
    url = str(database._url)
    database = Database(settings_for(tmp_path, url, busy_timeout_s=0.5, statement_timeout_s=1.0))
    with pytest.raises(StoreError, match="did not answer in time"):
        async with database.unit_of_work() as session:
            await (await session.connection()).execute(text("SELECT pg_sleep(30)"))
    async with database.unit_of_work() as session:
        await tenants.ensure(session, "acme", 1)
    async with database.unit_of_work() as holder:
        await (await holder.connection()).execute(text("UPDATE tenant SET name = 'held'"))
        with pytest.raises(StoreError, match="is locked by another process"):
            async with database.unit_of_work() as session:
                await (await session.connection()).execute(text("UPDATE tenant SET name = 'bolt'"))
    await database.close()


async def test_without_the_setting_the_message_says_what_pgbouncer_refused(
    tmp_path: Path, settings: Settings
) -> None:
    database = Database(settings_for(tmp_path, settings.store.url, pgbouncer=False))
    with pytest.raises(StoreError, match="unsupported startup parameter"):
        await database.check_schema()
    await database.close()
