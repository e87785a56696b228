"""Opens the store for commands."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.core.actor import Actor
    from orchestrator.settings import Settings
    from orchestrator.store.database import Database


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """Opens the store and checks its schema. Raises: SettingsError, StoreError."""
    database = existing(settings)
    try:
        await database.check_schema()
        yield database
    finally:
        await database.close()


def existing(settings: Settings) -> Database:
    """Returns the store, which must exist: opening a missing SQLite file would create it.

    Raises: SettingsError, StoreError.
    """
    from orchestrator.store.database import Database, StoreError, checked_url

    url = checked_url(settings)
    if url.drivername.startswith("sqlite") and not Path(url.database or "").exists():
        raise StoreError(
            f"there is no store at `{url.database}` yet: the first start makes it (`make run`),"
            " or `orchestrator migrate`"
        )
    return Database(settings)


def cli_actor() -> Actor:
    """Returns the user of the command line, for the audit."""
    from orchestrator.audit.log import cli_actor
    from orchestrator.core.actor import Actor

    return Actor(cli_actor())


def fail(sentence: str) -> int:
    """Writes why a command failed; returns its exit code."""
    sys.stderr.write(f"orchestrator: {sentence}\n")
    return 1
