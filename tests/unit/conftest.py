from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from orchestrator.settings import SecuritySettings, Settings, StoreSettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.postgresql import PostgresServer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return _settings(tmp_path, "")


@pytest.fixture(params=["sqlite", "postgresql"])
def each_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings for an empty store of either kind."""
    if request.param == "sqlite":
        return _settings(tmp_path, "")
    server: PostgresServer = request.getfixturevalue("postgresql")
    return _settings(tmp_path, server.new_database())


def _settings(folder: Path, url: str) -> Settings:
    return Settings(
        data_dir=folder / "data",
        security=SecuritySettings(pepper=SecretStr("a pepper for tests only")),
        store=StoreSettings(url=url, busy_timeout_s=1.0, connect_timeout_s=30),
    )


@pytest_asyncio.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    await migrate(settings)
    database = Database(settings)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def each_database(each_settings: Settings) -> AsyncIterator[Database]:
    """A migrated store of either kind."""
    await migrate(each_settings)
    database = Database(each_settings)
    yield database
    await database.close()
