"""What it costs to know a caller, and how often the store is asked for it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event

from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.settings import Settings, StoreSettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate

_KEYS = 200
_ROUNDS = 200


async def report(folder: Path) -> dict[str, Any]:
    """Microseconds of a look-up of a cached key and of one that the store is asked for."""
    # Nothing is asked again meanwhile: what is measured is the cache.
    settings = Settings(data_dir=folder / "data", store=StoreSettings(key_cache_s=3600.0))
    await migrate(settings)
    secrets = await _make_keys(settings)
    authenticator = Authenticator(settings)
    await authenticator.start()
    statements = _count_statements(authenticator)
    try:
        fresh_us = [await _timed(authenticator, secret) for secret in secrets]
        asked = len(statements)
        cached_us = [
            await _timed(authenticator, secret) for _ in range(_ROUNDS) for secret in secrets
        ]
        return {
            "keys": len(secrets),
            "asked_p50_us": round(statistics.median(fresh_us), 1),
            "asked_statements_per_key": asked / len(secrets),
            "cached_lookups": len(cached_us),
            "cached_p50_us": round(statistics.median(cached_us), 2),
            "cached_p99_us": round(statistics.quantiles(cached_us, n=100)[98], 2),
            "cached_statements": len(statements) - asked,
        }
    finally:
        await authenticator.close()


async def _make_keys(settings: Settings) -> list[str]:
    secrets = [new_key_secret() for _ in range(_KEYS)]
    pepper = load_pepper(settings)
    database = Database(settings)
    async with database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "bench", 1)
        for secret in secrets:
            await key_queries.create(session, NewKey("bench", tenant.id), secret, pepper, 1)
    await database.close()
    return secrets


def _count_statements(authenticator: Authenticator) -> list[str]:
    """Grows by each statement that the authenticator sends to its store."""
    seen: list[str] = []
    engine = authenticator._database._engine.sync_engine

    @event.listens_for(engine, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    return seen


async def _timed(authenticator: Authenticator, secret: str) -> float:
    began_at = time.perf_counter()
    await authenticator.authenticate(secret)
    return 1e6 * (time.perf_counter() - began_at)
