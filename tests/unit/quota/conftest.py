from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from orchestrator.settings import SecuritySettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.unit.quota.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        security=SecuritySettings(pepper=SecretStr("a pepper for tests only")),
    )


@pytest_asyncio.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    await migrate(settings)
    database = Database(settings)
    yield database
    await database.close()
