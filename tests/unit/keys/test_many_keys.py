"""Many keys that call seldom: one question for all of them, and none of them missed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.core.errors import Unauthenticated
from orchestrator.keys import changes as key_changes
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.changes import WINDOW_S
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.settings import Settings, StoreSettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.postgresql import PostgresServer
from tests.unit.keys.bench import CACHE_S, Bench


async def _many(bench: Bench, count: int) -> list[tuple[str, str]]:
    """Ids and secrets of new keys; what asks by real clocks is stopped, so that all is counted."""
    for worker in bench.auth._workers:
        worker.cancel()
    made = []
    async with bench.database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", 1)
        for number in range(count):
            secret, new = new_key_secret(), NewKey(f"key {number}", tenant.id)
            key = await key_queries.create(session, new, secret, load_pepper(bench.settings), 1)
            made.append((key.id, secret))
    return made


async def test_keys_that_were_silent_are_asked_for_together(bench: Bench) -> None:
    made = await _many(bench, 300)
    for _, secret in made:
        await bench.auth.authenticate(secret)
    assert bench.queries == 300
    for turn in range(1, 4):
        bench.monotonic.at += CACHE_S
        for _, secret in made:
            await bench.auth.authenticate(secret)
        assert (bench.queries, bench.looks) == (300, turn)
    # Waiting together, too.
    bench.monotonic.at += CACHE_S
    await asyncio.gather(*[bench.auth.authenticate(secret) for _, secret in made])
    assert (bench.queries, bench.looks) == (300, 4)


async def test_only_what_has_changed_is_read_anew(bench: Bench) -> None:
    made = await _many(bench, 20)
    for _, secret in made:
        await bench.auth.authenticate(secret)
    await bench.revoke(made[3][0])
    bench.monotonic.at += CACHE_S
    for number, (_, secret) in enumerate(made):
        if number == 3:
            assert await bench.reason(secret) == "key_revoked"
        else:
            await bench.auth.authenticate(secret)
    assert bench.queries == 21
    # The change is seen again within the window, and costs nothing more.
    bench.monotonic.at += CACHE_S
    assert await bench.reason(made[3][1]) == "key_revoked"
    assert bench.queries == 21


async def test_a_change_of_the_tenant_is_one_of_all_its_keys(bench: Bench) -> None:
    made = await _many(bench, 5)
    for _, secret in made:
        assert not (await bench.auth.authenticate(secret)).api_disabled
    async with bench.database.unit_of_work() as session:
        tenant = await tenants.find(session, "acme")
        assert tenant is not None
        tenant.api_disabled = True
    bench.monotonic.at += CACHE_S
    for _, secret in made:
        assert (await bench.auth.authenticate(secret)).api_disabled


async def test_a_change_by_hand_counts(bench: Bench) -> None:
    (key_id, secret), (gone, lost) = await _many(bench, 2)
    for each in (secret, lost):
        await bench.auth.authenticate(each)
    with sqlite3.connect(bench.file) as other:
        other.execute("UPDATE virtual_key SET label = 'renamed' WHERE id = ?", (key_id,))
        other.execute("DELETE FROM virtual_key WHERE id = ?", (gone,))
    other.close()
    bench.monotonic.at += CACHE_S
    assert (await bench.auth.authenticate(secret)).key_label == "renamed"
    assert await bench.reason(lost) == "invalid_api_key"


async def test_the_last_use_is_no_change(bench: Bench) -> None:
    made = await _many(bench, 3)
    for _, secret in made:
        await bench.auth.authenticate(secret)
    await bench.auth.record_use()
    async with bench.database.reading() as session:
        assert await key_changes.recent(session) == []
        assert all(key.last_used_at for key in await key_queries.listed(session))


async def test_the_use_of_a_known_key_is_written_down(bench: Bench) -> None:
    ((_, secret),) = await _many(bench, 1)
    await bench.auth.authenticate(secret)
    await bench.auth.record_use()
    bench.wall.at += 1
    assert bench.auth.recall(secret) is not None
    await bench.auth.record_use()
    async with bench.database.reading() as session:
        assert [key.last_used_at for key in await key_queries.listed(session)] == [
            int(bench.wall.at)
        ]


async def test_nothing_is_believed_when_changes_may_have_been_missed(bench: Bench) -> None:
    (key_id, secret), (_, other) = await _many(bench, 2)
    for each in (secret, other):
        await bench.auth.authenticate(each)
    await bench.revoke(key_id)
    # Nobody looked, and its note has gone meanwhile.
    async with bench.database.unit_of_work() as session:
        await (await session.connection()).execute(text("DELETE FROM key_change"))
    bench.monotonic.at += WINDOW_S
    assert await bench.reason(secret) == "key_revoked"
    await bench.auth.authenticate(other)
    assert bench.queries == 4


async def test_an_answer_from_before_a_change_is_not_kept(bench: Bench) -> None:
    (key_id, secret), (_, other) = await _many(bench, 2)
    await bench.auth.authenticate(other)
    async with bench.read_before(secret):
        await bench.revoke(key_id)
        bench.monotonic.at += CACHE_S
        # This one looks at what has changed, and sees the revocation.
        await bench.auth.authenticate(other)
    assert await bench.reason(secret) == "key_revoked"


@pytest.fixture(params=["sqlite", "postgresql"])
def each_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgresql")
    return server.new_database()


async def test_another_process_follows_by_itself(tmp_path: Path, each_url: str) -> None:
    """With real clocks: one that is in use looks ahead, and no request waits for it."""
    settings = Settings(data_dir=tmp_path, store=StoreSettings(url=each_url, key_cache_s=0.2))
    await migrate(settings)
    database, pepper = Database(settings), load_pepper(settings)
    made: dict[str, str] = {}
    async with database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", 1)
        for number in range(20):
            secret, new = new_key_secret(), NewKey(f"key {number}", tenant.id)
            made[secret] = (await key_queries.create(session, new, secret, pepper, 1)).id
    authenticator = Authenticator(settings)
    await authenticator.start()
    try:
        for secret in made:
            await authenticator.authenticate(secret)
        revoked = next(iter(made))
        async with database.unit_of_work() as session:
            await key_queries.revoke(session, made[revoked], 1)

        async def is_refused() -> bool:
            try:
                await authenticator.authenticate(revoked)
            except Unauthenticated as error:
                return error.detail_reason == "key_revoked"
            return False

        await _until(is_refused)
        for secret in list(made)[1:]:
            await authenticator.authenticate(secret)
    finally:
        await authenticator.close()
        await database.close()


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await done():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.02)
