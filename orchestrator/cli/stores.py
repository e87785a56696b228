"""The store as commands use it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.settings import Settings
    from orchestrator.store.database import Database
    from orchestrator.store.tables import Tenant


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


async def ensured_tenant(database: Database, name: str) -> tuple[Tenant, bool]:
    """The tenant of that name or id, and whether it was made here. Raises: StoreError."""
    import time

    from orchestrator.audit import log as audit_log
    from orchestrator.keys import tenants

    async with database.unit_of_work() as session:
        known = await tenants.find(session, name)
        if known is not None:
            return known, False
        tenant = await tenants.ensure(session, name, int(time.time()))
        await audit_log.note(
            session,
            audit_log.Act(
                actor=audit_log.cli_actor(),
                action="tenant.create",
                target=tenant.id,
                tenant_id=tenant.id,
                after={"name": tenant.name},
            ),
        )
    return tenant, True


def fail(sentence: str) -> int:
    """Says why a command could not be done; its exit code."""
    sys.stderr.write(f"orchestrator: {sentence}\n")
    return 1
