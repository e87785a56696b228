"""What callers see while the store is broken, locked, hanging or gone."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from orchestrator.keys import queries as key_queries
from orchestrator.keys.secret import new_key_secret
from tests.unit.keys.bench import CACHE_S, GRACE_S, Bench


async def test_broken_store_leaves_verified_keys_working_for_the_grace_time(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = await bench.add()
    key_id, revoked = await bench.add()
    await bench.revoke(key_id)
    await bench.auth.authenticate(secret)
    assert await bench.reason(revoked) == "key_revoked"
    with bench.table_gone():
        bench.monotonic.at += CACHE_S
        for _ in range(5):
            assert (await bench.auth.authenticate(secret)).key_label == "quickstart"
            assert await bench.reason(revoked) == "key_revoked"
        assert await bench.is_unavailable(new_key_secret())
        bench.monotonic.at += GRACE_S - CACHE_S - 0.1
        await bench.auth.authenticate(secret)
        bench.monotonic.at += 0.1
        assert await bench.is_unavailable(secret)
        assert await bench.is_unavailable(revoked)
    bench.monotonic.at += 1.0
    assert (await bench.auth.authenticate(secret)).key_label == "quickstart"
    assert await bench.reason(new_key_secret()) == "invalid_api_key"
    said = [
        record.message
        for record in caplog.records
        if record.name == "orchestrator.keys.authenticator"
    ]
    assert len(said) == 2
    assert said[0].startswith("the store of keys cannot be asked: ")
    assert said[1] == "the store of keys answers again"


async def test_broken_store_is_asked_once_a_second_not_by_every_request(bench: Bench) -> None:
    _, secret = await bench.add()
    await bench.auth.authenticate(secret)
    with bench.table_gone():
        bench.monotonic.at += CACHE_S
        asked = bench.queries + bench.looks
        for _ in range(50):
            await bench.auth.authenticate(secret)
            assert await bench.is_unavailable(new_key_secret())
        assert bench.queries + bench.looks == asked + 1
        bench.monotonic.at += 1.0
        await bench.auth.authenticate(secret)
        await asyncio.gather(*bench.auth._lookups.values(), return_exceptions=True)
        assert bench.queries + bench.looks == asked + 2


async def test_hanging_store_delays_verified_keys_once(impatient: Bench) -> None:
    bench = impatient
    _, secret = await bench.add()
    await bench.auth.authenticate(secret)
    with bench.hanging():
        bench.monotonic.at += CACHE_S
        async with asyncio.timeout(60):
            await bench.auth.authenticate(secret)
        asked = bench.queries + bench.looks
        # Half of what they would take if each of them waited.
        async with asyncio.timeout(50):
            for _ in range(500):
                await bench.auth.authenticate(secret)
                assert await bench.is_unavailable(new_key_secret())
        assert bench.queries + bench.looks == asked
    await asyncio.gather(*bench.auth._lookups.values(), return_exceptions=True)
    bench.monotonic.at += 1.0
    await bench.auth.authenticate(secret)
    await asyncio.gather(*bench.auth._lookups.values(), return_exceptions=True)
    assert await bench.reason(new_key_secret()) == "invalid_api_key"


async def test_revocation_is_seen_by_itself_when_the_store_is_back(bench: Bench) -> None:
    key_id, secret = await bench.add()
    await bench.auth.authenticate(secret)
    with bench.table_gone():
        bench.monotonic.at += CACHE_S
        await bench.auth.authenticate(secret)
    await bench.revoke(key_id)
    bench.monotonic.at += 1.0
    # This one is answered from memory while the store is asked again in the background.
    await bench.auth.authenticate(secret)
    await asyncio.gather(*bench.auth._lookups.values(), return_exceptions=True)
    assert await bench.reason(secret) == "key_revoked"


async def test_store_locked_by_another_process_is_503_and_never_401(bench: Bench) -> None:
    _, secret = await bench.add()
    await bench.database.close()
    await bench.auth._database.close()
    other = sqlite3.connect(bench.file, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert await bench.is_unavailable(secret)
        assert await bench.is_unavailable(new_key_secret())
    finally:
        other.close()
    bench.monotonic.at += 1.0
    await bench.auth.authenticate(secret)


async def test_folder_in_place_of_the_store_is_503_and_never_401(bench: Bench) -> None:
    _, secret = await bench.add()
    await bench.database.close()
    await bench.auth._database.close()
    file = bench.file
    kept = file.rename(file.with_name("kept"))
    file.mkdir()
    assert await bench.is_unavailable(secret)
    file.rmdir()
    kept.rename(file)
    bench.monotonic.at += 1.0
    await bench.auth.authenticate(secret)


async def test_last_use_that_cannot_be_written_waits(bench: Bench) -> None:
    _, secret = await bench.add()
    await bench.auth.authenticate(secret)
    with bench.table_gone():
        await bench.auth.record_use()
    await bench.auth.record_use()
    async with bench.database.reading() as session:
        assert [key.last_used_at for key in await key_queries.listed(session)] == [
            int(bench.wall.at)
        ]
