from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.keys import tenants
from orchestrator.settings import Settings, SettingsError, StoreSettings
from orchestrator.store.database import Database, StoreError


@pytest.fixture
def nobody() -> Iterator[None]:
    """Takes the rights of the superuser away for one test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def _pragma(database: Database, name: str) -> object:
    async with database.reading() as session:
        connection = await session.connection()
        return (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()


async def test_sqlite_is_set_up_for_readers_beside_a_writer(database: Database) -> None:
    assert await _pragma(database, "journal_mode") == "wal"
    assert await _pragma(database, "synchronous") == 1
    assert await _pragma(database, "foreign_keys") == 1
    assert await _pragma(database, "busy_timeout") == 1000


async def test_folder_and_files_belong_to_their_owner_alone(
    settings: Settings, database: Database
) -> None:
    async with database.unit_of_work() as session:
        await tenants.ensure(session, "acme", 1)
        assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in settings.data_dir.iterdir()
        }
    assert {"orchestrator.db", "orchestrator.db-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}


async def test_unit_of_work_commits_at_its_end(database: Database) -> None:
    async with database.unit_of_work() as session:
        await tenants.ensure(session, "acme", 1)
    async with database.reading() as session:
        assert [tenant.name for tenant in await tenants.listed(session)] == ["acme"]


async def test_unit_of_work_that_fails_leaves_nothing(database: Database) -> None:
    async def give_up_half_way() -> None:
        async with database.unit_of_work() as session:
            await tenants.ensure(session, "acme", 1)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await give_up_half_way()
    async with database.reading() as session:
        assert await tenants.listed(session) == []


async def test_read_then_write_in_parallel_is_never_refused(
    settings: Settings, database: Database
) -> None:
    patient = Settings(
        data_dir=settings.data_dir,
        security=settings.security,
        store=StoreSettings(busy_timeout_s=30),
    )
    other = Database(patient)

    async def add(store: Database, number: int) -> None:
        async with store.unit_of_work() as session:
            await tenants.listed(session)
            await asyncio.sleep(0)
            await tenants.ensure(session, f"tenant {number}", 1)

    try:
        await asyncio.gather(*[add(other, number) for number in range(60)])
    finally:
        await other.close()
    async with database.reading() as session:
        assert len(await tenants.listed(session)) == 60


async def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    async with database.unit_of_work() as writing:
        await tenants.ensure(writing, "acme", 1)
        async with database.reading() as session:
            assert await tenants.listed(session) == []


async def test_store_locked_by_another_process_is_one_sentence(database: Database) -> None:
    assert database.file is not None
    other = sqlite3.connect(database.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StoreError, match=r"orchestrator\.db` is locked by another process$"):
            async with database.unit_of_work() as session:
                await tenants.ensure(session, "acme", 1)
    finally:
        other.close()


async def test_store_that_is_not_a_database_is_one_sentence(settings: Settings) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "orchestrator.db").write_bytes(b"not a database at all " * 500)
    database = Database(settings)
    with pytest.raises(StoreError, match=r"is damaged: it is not an SQLite file$"):
        await database.check_schema()
    await database.close()


async def test_folder_in_place_of_the_store_is_one_sentence(settings: Settings) -> None:
    (settings.data_dir / "orchestrator.db").mkdir(parents=True)
    database = Database(settings)
    with pytest.raises(StoreError, match=r"cannot be opened$"):
        await database.check_schema()
    await database.close()


async def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    # A page limit makes SQLite itself answer SQLITE_FULL, as it does when a write is refused.
    database = Database(Settings(data_dir=tmp_path / "data"))

    async def fill() -> None:
        async with database.migrating() as connection:
            await connection.execute(text("PRAGMA max_page_count = 2"))
            for number in range(4):
                await connection.execute(text(f"CREATE TABLE t{number} (x TEXT)"))

    try:
        with pytest.raises(StoreError, match=r"the disk is full$"):
            await fill()
    finally:
        await database.close()


async def test_store_without_schema_says_what_to_run(settings: Settings) -> None:
    database = Database(settings)
    with pytest.raises(StoreError, match=r"has not been set up: run `orchestrator migrate`$"):
        await database.check_schema()
    await database.close()


async def test_store_at_another_revision_says_both(database: Database) -> None:
    async with database.migrating() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'tomorrow'"))
    with pytest.raises(StoreError, match=r"at revision tomorrow and this program needs 2026"):
        await database.check_schema()


def test_folder_that_may_not_be_written_is_named(tmp_path: Path, nobody: None) -> None:
    if os.getuid() != 0:
        # The superuser's is shut to others as it is.
        tmp_path.chmod(0o555)
    try:
        with pytest.raises(SettingsError, match=r"^`data_dir`: `.*shut` cannot be written: "):
            Database(Settings(data_dir=tmp_path / "shut"))
    finally:
        if os.getuid() != 0:
            tmp_path.chmod(0o755)


def test_existing_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o755)
    if os.geteuid() == 0:
        # Open to others on the way there, and nothing closed that is open: one may be /tmp.
        for folder in (tmp_path, *list(tmp_path.parents)[:3]):
            folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
    else:
        shut.chmod(0o555)
    try:
        with pytest.raises(SettingsError, match=r"^`data_dir` is `.*shut`, and this user may not"):
            Database(Settings(data_dir=shut))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


def test_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(SettingsError, match=r"^`data_dir`: `.*data` cannot be written: "):
        Database(Settings(data_dir=tmp_path / "data"))


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite:///plain.db",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "postgresql://somewhere/store",
        "postgresql+asyncpg://somewhere",
        "mysql+aiomysql://somewhere/store",
    ],
)
def test_other_urls_are_refused_by_name(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"^`store\.url` "):
        Database(Settings(data_dir=tmp_path / "data", store=StoreSettings(url=url)))


def test_password_in_a_url_is_not_repeated(tmp_path: Path) -> None:
    url = "postgresql://user:hunter2@somewhere/store"
    with pytest.raises(SettingsError) as caught:
        Database(Settings(data_dir=tmp_path / "data", store=StoreSettings(url=url)))
    assert "hunter2" not in str(caught.value)


async def test_store_elsewhere_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "store.db"
    url = f"sqlite+aiosqlite:///{file}"
    database = Database(Settings(data_dir=tmp_path / "data", store=StoreSettings(url=url)))
    await database.close()
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shutil.rmtree(file.parent)
