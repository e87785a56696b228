from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from orchestrator.store.migrate import migrate
from tests.unit.keys.bench import Bench, bench_settings


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    settings = bench_settings(tmp_path / "data")
    await migrate(settings)
    bench = Bench(settings)
    await bench.auth.start()
    yield bench
    await bench.auth.close()
    await bench.database.close()


@pytest_asyncio.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Bench]:
    """Waits for the store for less time than the store waits for a lock."""
    settings = bench_settings(tmp_path / "data", key_lookup_timeout_s=2.0, busy_timeout_s=60.0)
    await migrate(settings)
    bench = Bench(settings)
    await bench.auth.start()
    yield bench
    await bench.auth.close()
    await bench.database.close()
