"""The books: every record once in the store, whatever happens to the store meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from orchestrator.books import queries as usage_queries
from orchestrator.books.sums import UsageFilter, UsageSum
from orchestrator.books.usage_records import StoredBooks, UsageRecord
from orchestrator.core.errors import StoreUnavailable
from orchestrator.settings import BooksSettings, Settings, StoreSettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.postgresql import PostgresServer
from tests.small_disk import run_on_small_disk

EVERYTHING = UsageFilter()


def record(
    number: int, *, completion: int = 2, outcome: str = "ok", wasted: int = 0
) -> UsageRecord:
    return UsageRecord(
        request_id=f"req_{number}",
        at=1_700_000_000 + number,
        tenant_id="ten_a",
        key_id="key_a",
        model="acme/chat",
        route="local",
        dialect="chat",
        prompt_tokens=3,
        completion_tokens=completion,
        cached_tokens=1,
        first_token_s=0.0125,
        duration_s=0.5,
        outcome=outcome,  # type: ignore[arg-type]  # one of the three words
        record_id=f"use_{number}",
        wasted_tokens=wasted,
    )


@pytest.fixture
def own_postgresql() -> Iterator[PostgresServer]:
    """A server that this test may stop."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def settings_in(folder: Path, url: str = "", **books: float | int) -> Settings:
    quick = {"commit_interval_s": 0.02, "sync_interval_s": 0.005, **books}
    return Settings(
        data_dir=folder / "data",
        store=StoreSettings(url=url, busy_timeout_s=1.0, connect_timeout_s=30),
        books=BooksSettings.model_validate(quick),
    )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[StoredBooks, Database]]:
    await migrate(settings)
    database = Database(settings)
    books = StoredBooks(settings, database)
    books.start()
    try:
        yield books, database
    finally:
        await books.close()
        await database.close()


async def total(database: Database) -> UsageSum:
    async with database.reading() as session:
        (everything,) = await usage_queries.summed(session, EVERYTHING)
    return everything


async def until(done: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await done():  # noqa: ASYNC110  # the store tells nobody
            await asyncio.sleep(0.02)


def journals(settings: Settings) -> list[Path]:
    return sorted((settings.data_dir / "journal" / "usage").glob("*.journal"))


async def test_records_reach_the_store_and_leave_no_journal(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with opened(settings) as (books, database):
        for number in range(50):
            books.record(record(number))

        async def all_there() -> bool:
            return (await total(database)).requests == 50

        await until(all_there)
        assert books.problems() == []
    assert journals(settings) == []
    async with opened(settings) as (_, database):
        sums = await total(database)
    assert (sums.prompt_tokens, sums.completion_tokens, sums.cached_tokens) == (150, 100, 50)
    assert (sums.duration_ms, sums.total_tokens) == (25_000, 250)


async def test_a_line_of_an_older_version_has_wasted_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with opened(settings) as (books, database):
        line = msgspec.to_builtins(record(1, completion=5))
        del line["wasted_tokens"]
        books._spool.record("use_1", msgspec.json.encode(line))

        async def is_there() -> bool:
            return (await total(database)).requests == 1

        await until(is_there)
        sums = await total(database)
    assert (sums.completion_tokens, sums.wasted_tokens) == (5, 0)


async def test_a_promise_counts_only_when_nothing_better_comes(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with opened(settings) as (books, database):
        books.promise(record(1, completion=5))
        books.record(record(1, completion=7))
        books.promise(record(2))
        books.record(record(2))
        # As a crash would leave it: promised, and then nothing.
        books.promise(record(3, completion=11, wasted=13))
    assert len(journals(settings)) == 1
    async with opened(settings) as (_, database):

        async def all_there() -> bool:
            return (await total(database)).requests == 3

        await until(all_there)
        sums = await total(database)
        assert (sums.completion_tokens, sums.wasted_tokens) == (7 + 2 + 11, 13)
    assert journals(settings) == []


async def test_a_record_that_comes_again_counts_once(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for _ in range(3):
        async with opened(settings) as (books, database):
            books.record(record(1))
            books.record(record(1, completion=9))
    async with opened(settings) as (_, database):
        assert (await total(database)).requests == 1


async def test_a_locked_sqlite_file_loses_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with opened(settings) as (books, database):
        locker = sqlite3.connect(settings.data_dir / "orchestrator.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        for number in range(20):
            books.record(record(number))

        async def is_told() -> bool:
            return any("is locked by another process" in line for line in books.problems())

        await until(is_told)
        assert (await total(database)).requests == 0
        locker.execute("ROLLBACK")
        locker.close()

        async def all_there() -> bool:
            return (await total(database)).requests == 20

        await until(all_there)
        assert books.problems() == []


async def test_what_the_store_does_not_take_before_the_end_waits_for_the_next_start(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    async with opened(settings) as (books, _):
        locker = sqlite3.connect(settings.data_dir / "orchestrator.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        books.record(record(1))
        await books.close()
        # A stream that ends after the shutdown is settled then.
        books.record(record(2))
        locker.execute("ROLLBACK")
        locker.close()
    content = b"".join(path.read_bytes() for path in journals(settings))
    assert b"use_1" in content
    assert b"use_2" in content


async def test_a_postgresql_that_stops_loses_nothing(
    tmp_path: Path, own_postgresql: PostgresServer
) -> None:
    settings = settings_in(tmp_path, own_postgresql.new_database())
    async with opened(settings) as (books, database):
        for number in range(10):
            books.record(record(number))
            await asyncio.sleep(0.01)
        with own_postgresql.stopped():
            for number in range(10, 200):
                books.record(record(number))
                await asyncio.sleep(0.002)

            async def is_told() -> bool:
                return any("has not reached the database" in line for line in books.problems())

            await until(is_told)
        for number in range(200, 210):
            books.record(record(number))

        async def all_there() -> bool:
            return (await total(database)).requests == 210

        await until(all_there)
        assert books.problems() == []


async def test_a_journal_over_its_bound_refuses_more_work_until_the_store_is_back(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, journal_max_bytes=4096)
    async with opened(settings) as (books, database):
        books.check()
        locker = sqlite3.connect(settings.data_dir / "orchestrator.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        for number in range(20):
            books.record(record(number))
        with pytest.raises(StoreUnavailable) as refused:
            books.check()
        assert refused.value.retry_after_s
        assert any("is full" in line for line in books.problems())
        locker.execute("ROLLBACK")
        locker.close()

        async def all_there() -> bool:
            return (await total(database)).requests == 20

        await until(all_there)

        async def is_open() -> bool:
            return books.problems() == []

        await until(is_open)
        books.check()


async def test_an_odd_name_does_not_hold_up_the_others(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    settings = settings_in(tmp_path, postgresql.new_database())
    async with opened(settings) as (books, database):
        books.record(replace(record(1), model="acme/\0" + "x" * 300))
        books.record(record(2))

        async def all_there() -> bool:
            return (await total(database)).requests == 2

        await until(all_there)


FILL_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.unit.books.test_usage_records import record, opened, settings_in
from orchestrator.core.errors import StoreUnavailable

def fill(filler):
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
    except OSError:
        pass

async def main(folder):
    settings = settings_in(folder, journal_reserve_bytes=256 * 1024)
    async with opened(settings) as (books, _):
        answered = 0

        def answer(number):
            books.promise(record(number))
            books.record(record(number, completion=5))
            return number + 1

        async def serve_until_refused(answered):
            while True:
                try:
                    books.check()
                except StoreUnavailable:
                    return answered
                answered = answer(answered)
                await asyncio.sleep(0.001)

        fill(folder / "filler")
        answered = await serve_until_refused(answered)
        (folder / "filler").unlink()
        async with asyncio.timeout(60):
            while books.problems():
                await asyncio.sleep(0.02)
        books.check()
        fill(folder / "filler")
        answered = await serve_until_refused(answered)
        for _ in range(150):
            # They had begun before, and end now.
            answered = answer(answered)
        print(answered, books.problems(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(Path(sys.argv[1])))
"""

COUNT = """
import asyncio, sys
from pathlib import Path
from tests.unit.books.test_usage_records import opened, settings_in, total, until

async def main(folder):
    async with opened(settings_in(folder)) as (books, database):
        async def is_complete():
            sums, expected = await total(database), int(sys.argv[2])
            return (sums.requests, sums.completion_tokens) == (expected, 5 * expected)
        try:
            await until(is_complete, 30)
        except TimeoutError:
            pass
        print((await total(database)).requests)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_full_disk_and_a_kill_lose_no_record_of_what_was_let_in(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    for name, script in (("fill.py", FILL_AND_DIE), ("count.py", COUNT)):
        (tmp_path / name).write_text(script)
    output = run_on_small_disk(
        disk,
        "8m",
        f'said=$("$python" {tmp_path}/fill.py {disk}); echo "$said"',
        f"rm {disk}/filler",
        f'"$python" {tmp_path}/count.py {disk} "${{said%% *}}"',
    )
    said, _, counted = output.strip().rpartition("\n")
    answered, _, problems = said.partition(" ")
    assert int(answered) >= 150
    assert "No space left on device" in problems
    assert counted == answered


async def test_a_disk_without_room_for_what_is_to_be_reserved_takes_no_work(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, journal_reserve_bytes=2**50)
    async with opened(settings) as (books, _):
        with pytest.raises(StoreUnavailable):
            books.check()
        assert "no disk space can be reserved" in books.problems()[0]
        # What has begun is written down all the same.
        books.record(record(1))
        assert b'"use_1"' in b"".join(path.read_bytes() for path in journals(settings))
    async with opened(settings_in(tmp_path)) as (books, database):
        books.check()
        assert (await total(database)).requests == 1
    assert journals(settings) == []
