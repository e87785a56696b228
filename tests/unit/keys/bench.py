"""A store, an authenticator in front of it, and ways to break the store."""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event

from orchestrator.core.errors import ModelUnavailable, StoreUnavailable, Unauthenticated
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.settings import SecuritySettings, Settings, StoreSettings
from orchestrator.store.database import Database

CACHE_S = 2.0
GRACE_S = 60.0


class Clock:
    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Bench:
    """A migrated store, an authenticator with clocks that stand still, and ways to break both."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.monotonic = Clock(1000.0)
        self.wall = Clock(1_800_000_000.0)
        self.auth = Authenticator(settings, monotonic=self.monotonic, now=self.wall)
        self.queries = 0
        """Of keys."""
        self.looks = 0
        """At what has changed."""
        engine = self.auth._database._engine.sync_engine
        event.listen(engine, "before_cursor_execute", self._count)

    @property
    def file(self) -> Path:
        """Where the store lies."""
        assert self.database.file is not None
        return self.database.file

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.queries += "virtual_key" in statement
        self.looks += "FROM key_change" in statement

    async def add(self, **more: Any) -> tuple[str, str]:
        """The id and the secret of a new key."""
        secret = new_key_secret()
        async with self.database.unit_of_work() as session:
            tenant = await tenants.ensure(session, "acme", 1)
            new = NewKey(label="quickstart", tenant_id=tenant.id, **more)
            key = await key_queries.create(session, new, secret, load_pepper(self.settings), 1)
        return key.id, secret

    async def revoke(self, key_id: str) -> None:
        async with self.database.unit_of_work() as session:
            await key_queries.revoke(session, key_id, 2)

    async def reason(self, secret: str | None) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.auth.authenticate(secret)
        assert caught.value.status == 401
        return caught.value.detail_reason

    async def is_unavailable(self, secret: str) -> bool:
        with pytest.raises(StoreUnavailable) as caught:
            await self.auth.authenticate(secret)
        assert isinstance(caught.value, ModelUnavailable)
        assert (caught.value.status, caught.value.code) == (503, "store_unavailable")
        assert caught.value.retry_after_s == 1.0
        return True

    @asynccontextmanager
    async def read_before(self, secret: str) -> AsyncIterator[None]:
        """A request with `secret` reads the store before the block, and believes it behind it."""
        read = self.auth._read
        has_read, may_go_on = asyncio.Event(), asyncio.Event()

        async def slow(digests: list[bytes]) -> object:
            found = await read(digests)
            has_read.set()
            await may_go_on.wait()
            return found

        self.auth._read = slow  # type: ignore[method-assign,assignment]  # holds the answer back
        early = asyncio.create_task(self.auth.authenticate(secret))
        await has_read.wait()
        self.auth._read = read  # type: ignore[method-assign]  # and lets later ones through
        yield
        may_go_on.set()
        await early

    @contextmanager
    def table_gone(self) -> Iterator[None]:
        """Breaks every query from outside, as a restore or a mistaken hand would."""
        other = sqlite3.connect(self.file)
        other.execute("ALTER TABLE virtual_key RENAME TO elsewhere")
        other.execute("ALTER TABLE key_change RENAME TO elsewhere_too")
        try:
            yield
        finally:
            other.execute("ALTER TABLE elsewhere RENAME TO virtual_key")
            other.execute("ALTER TABLE elsewhere_too RENAME TO key_change")
            other.close()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Takes SQLite's reader locks in the shared-memory file, so that every reader waits.

        Source: the SQLite documentation of the WAL index: byte 120 WRITE, 121 CKPT, 122 RECOVER,
        123 to 127 READ. The locks belong to a process, so another one must hold them.
        """
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD, f"{self.file}-shm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.stdin.close()
            holder.wait(timeout=60)
            holder.stdout.close()


_HOLD = f"""
import fcntl, struct, sys
file = open(sys.argv[1], "r+b")
fcntl.fcntl(file, {fcntl.F_SETLKW}, struct.pack("hhqqi", {fcntl.F_WRLCK}, 0, 120, 8, 0))
print("held", flush=True)
sys.stdin.read()
"""


def bench_settings(data_dir: Path, **store: Any) -> Settings:
    defaults = {
        "key_cache_s": CACHE_S,
        "key_grace_s": GRACE_S,
        "key_lookup_timeout_s": 5.0,
        "busy_timeout_s": 0.2,
    }
    return Settings(
        data_dir=data_dir,
        security=SecuritySettings(pepper=SecretStr("a pepper for tests only")),
        store=StoreSettings(**{**defaults, **store}),
    )
