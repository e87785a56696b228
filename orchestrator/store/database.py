"""The connection to the store: one engine, units of work, and driver errors in plain sentences.

SQLite runs in WAL mode: readers never wait for a writer. A writing transaction takes the write
lock at its start (`BEGIN IMMEDIATE`), because one that reads first and writes later fails with
SQLITE_BUSY at once, whatever the busy timeout.

PostgreSQL runs writing transactions at READ COMMITTED: a row that is read in order to write it is
locked (`with_for_update`), and work that must not run concurrently waits for `turn`. Every wait
has a timeout on both sides of the connection, so a server that hangs causes an error, not a hang.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from orchestrator.settings import Settings, SettingsError, StoreSettings
from orchestrator.store.failures import TRANSLATED, sentence
from orchestrator.store.postgresql import postgresql_engine
from orchestrator.store.private_files import prepare_folder
from orchestrator.store.tables import SCHEMA_REVISION

_SQLITE = "sqlite+aiosqlite"
_POSTGRESQL = "postgresql+asyncpg"
_READING: dict[str, dict[str, Any]] = {
    _SQLITE: {"sqlite_begin": "BEGIN DEFERRED"},
    # One snapshot for the whole transaction, as in SQLite.
    _POSTGRESQL: {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
_MIGRATION_LOCK_TIMEOUT_S = 300

Session = AsyncSession
"""A transaction that queries run in. The alias keeps SQLModel out of the callers."""


class StoreError(Exception):
    """The store cannot be used; the message is for the operator and names the store."""


class Database:
    """The store of one process. Call `close` at the end, or its threads keep the process alive."""

    def __init__(self, settings: Settings) -> None:
        """Creates the folder of an SQLite file; opens no connection yet. Raises: SettingsError."""
        self._url = checked_url(settings)
        self._settings = settings.store
        self.file: Path | None = None
        if self._url.drivername == _SQLITE:
            self.file = Path(self._url.database or "")
            if self.file.parent == settings.data_dir:
                prepare_folder(settings.data_dir, "data_dir")
            else:
                prepare_folder(self.file.parent, "store.url")
            _create_private(self.file)
        self._engine = _engine(self._url, settings.store)
        self._reader = self._engine.execution_options(**_READING[self._url.drivername])

    @property
    def kind(self) -> Literal["sqlite", "postgresql"]:
        """The kind of database."""
        return "postgresql" if self.file is None else "sqlite"

    @property
    def name(self) -> str:
        """The store's name in messages: the file, or the server and the database."""
        if self.file is not None:
            return str(self.file)
        several = self._url.query.get("host")
        if several is not None:
            at = several if isinstance(several, str) else ",".join(several)
        else:
            port = f":{self._url.port}" if self._url.port else ""
            at = f"{self._url.host or 'localhost'}{port}"
        return f"postgresql://{at}/{self._url.database}"

    async def close(self) -> None:
        """Closes every connection."""
        await self._engine.dispose()

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[AsyncSession]:
        """Runs a writing transaction: committed at the end of the block, rolled back on an error.

        Raises: StoreError.
        """
        with self._translated():
            async with (
                AsyncSession(self._engine, expire_on_commit=False) as session,
                session.begin(),
            ):
                yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Runs a reading transaction, which waits for no writer. Raises: StoreError."""
        with self._translated():
            async with AsyncSession(self._reader, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """Opens a plain connection inside a writing transaction. Raises: StoreError.

        On PostgreSQL its statements have no time limit, and only one runs at a time.
        """
        if self.kind == "sqlite":
            with self._translated():
                async with self._engine.begin() as connection:
                    yield connection
            return
        patient = postgresql_engine(self._url, self._settings, patient=True)
        try:
            with self._translated():
                async with patient.begin() as connection:
                    wait_ms = _MIGRATION_LOCK_TIMEOUT_S * 1000
                    await connection.execute(text(f"SET LOCAL lock_timeout = {wait_ms}"))
                    await connection.execute(_TURN, {"number": _number("migrate")})
                    yield connection
        finally:
            await patient.dispose()

    async def check_schema(self) -> None:
        """Raises: StoreError unless the store is at the revision that this program needs."""
        async with self.reading() as session:
            connection = await session.connection()
            rows = await connection.execute(text("SELECT version_num FROM alembic_version"))
            revision = rows.scalar_one_or_none()
        if revision != SCHEMA_REVISION:
            raise StoreError(
                f"the store `{self.name}` is at revision {revision or 'none'} and this program "
                f"needs {SCHEMA_REVISION}: run `orchestrator migrate`"
            )

    async def check_writable(self) -> None:
        """Raises: StoreError when the server takes no writes, as a standby after a fail-over.

        Then its connections are dropped, so that new ones can reach the server that accepts writes.
        An SQLite file is not checked.
        """
        if self.kind == "sqlite":
            return
        async with self.reading() as session:
            rows = await (await session.connection()).execute(_IS_READ_ONLY)
            is_read_only = bool(rows.scalar_one())
        if is_read_only:
            await self._engine.dispose()
            raise StoreError(f"the store `{self.name}` cannot be written: it is read-only")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns the driver's errors into StoreError."""
        try:
            yield
        except TRANSLATED as error:
            raise StoreError(sentence(self.name, error)) from error


async def turn(session: AsyncSession, name: str) -> None:
    """Waits until no other writing transaction holds the lock `name`, and holds it to the end.

    For what PostgreSQL cannot lock by a row: the next number of a chain, the first row of its kind.
    SQLite has one writer at a time anyway.
    """
    connection = await session.connection()
    if connection.dialect.name == "postgresql":
        await connection.execute(_TURN, {"number": _number(name)})


_IS_READ_ONLY = text(
    "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'"
)
_TURN = text("SELECT pg_advisory_xact_lock(:number)")


def _number(name: str) -> int:
    """The number of an advisory lock; other programs' locks have another upper half."""
    return 0x6F706572 << 32 | zlib.crc32(name.encode())


def checked_url(settings: Settings) -> URL:
    """Returns the store's URL. Raises: SettingsError, never with the URL's password in it."""
    try:
        url = make_url(settings.store_url)
    except (ArgumentError, ValueError):
        # SQLAlchemy's message may contain a part of the password.
        raise SettingsError("`store.url` is not an SQLAlchemy URL") from None
    is_file = url.drivername == _SQLITE and url.database not in (None, "", ":memory:")
    if not is_file and not (url.drivername == _POSTGRESQL and url.database):
        raise SettingsError(
            f"`store.url` must be `{_SQLITE}:///<path of a file>` or "
            f"`{_POSTGRESQL}://<user>@<host>/<database>`; "
            f"`{url.drivername}` with database `{url.database or ''}` is not supported"
        )
    return url


def _create_private(file: Path) -> None:
    """Creates the file for its owner only: SQLite would make it readable by all users.

    The WAL file gets the same mode.
    """
    if file.exists():
        return
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"the store `{file}` cannot be written: {error.strerror}") from error


def _engine(url: URL, settings: StoreSettings) -> AsyncEngine:
    if url.drivername == _POSTGRESQL:
        return postgresql_engine(url, settings)
    return _sqlite_engine(url, settings)


def _sqlite_engine(url: URL, settings: StoreSettings) -> AsyncEngine:
    engine = create_async_engine(url, connect_args={"timeout": settings.busy_timeout_s})

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        # Otherwise the driver begins transactions by itself, and deferred ones.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get("sqlite_begin", "BEGIN IMMEDIATE"))

    return engine
