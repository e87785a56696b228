"""The store as commands use it."""

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
    """The store, at the schema of this program. Raises: SettingsError, StoreError."""
    database = existing(settings)
    try:
        await database.check_schema()
        yield database
    finally:
        await database.close()


def existing(settings: Settings) -> Database:
    """The store, which must be there: opening an SQLite file that is not would make it.

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
    """Who works at the command line, for the audit."""
    from orchestrator.audit.log import cli_actor
    from orchestrator.core.actor import Actor

    return Actor(cli_actor())


def fail(sentence: str) -> int:
    """Says why a command could not be done; its exit code."""
    sys.stderr.write(f"orchestrator: {sentence}\n")
    return 1
