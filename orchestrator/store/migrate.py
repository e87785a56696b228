"""Brings the store to the schema that this program needs."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection

from orchestrator.settings import Settings
from orchestrator.store.database import Database, StoreError
from orchestrator.store.private_files import exclusive


async def migrate(settings: Settings) -> bool:
    """Upgrades the store to the newest revision; returns whether there was anything to do.

    Several processes may start it at once: one works, the others wait and find it done. A
    migration that fails or is killed leaves the schema unchanged.
    Raises: SettingsError, StoreError.
    """
    database = Database(settings)
    try:
        with ExitStack() as held:
            if (file := database.file) is not None:
                # Wait for the lock here: a long migration exceeds the busy timeout.
                lock = file.with_name(f"{file.name}.migrate.lock")
                await asyncio.to_thread(held.enter_context, exclusive(lock, "store.url", 300.0))
            async with database.migrating() as connection:
                return await connection.run_sync(_upgrade)
    except CommandError as error:
        # Alembic's own message names revision scripts, which operators cannot find.
        raise StoreError(
            f"the store `{database.name}` was set up by another version of this program, "
            "whose schema this one does not know"
        ) from error
    finally:
        await database.close()


def alembic_config(connection: Connection) -> Config:
    """Returns Alembic's configuration for one connection; there is no `alembic.ini`."""
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> bool:
    before = MigrationContext.configure(connection).get_current_revision()
    command.upgrade(alembic_config(connection), "head")
    return MigrationContext.configure(connection).get_current_revision() != before
