from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from pydantic import SecretStr

from orchestrator.keys import tenants
from orchestrator.settings import ResponsesSettings, SecuritySettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate

QUICK = ResponsesSettings(poll_s=0.01, lost_after_s=5, most_running=2)


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated store."""
    settings = Settings(
        data_dir=tmp_path / "data",
        security=SecuritySettings(pepper=SecretStr("a pepper for tests only")),
    )
    await migrate(settings)
    database = Database(settings)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def tenant_id(database: Database) -> str:
    async with database.unit_of_work() as session:
        return (await tenants.ensure(session, "acme", 1)).id
