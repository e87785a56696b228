"""Recent changes of keys and tenants, so that caches need not read unchanged ones again.

Database triggers record every change that affects authentication, made by any process (see the
migration `20261130_2`). The last use of a key is not recorded as a change.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import TextClause, text

from orchestrator.store.database import Session

WINDOW_S = 180
"""How far back `recent` looks. On PostgreSQL, a transaction may commit after one with a higher
number; it is still seen within this time, far above the time limits of transactions.
"""
_KEEP_S = 3600

_NOW_MS = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
}
"""The database's own clock: several machines write, and their clocks may differ."""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A changed key, or all keys of a tenant when `key_id` is None."""

    seq: int
    tenant_id: str
    key_id: str | None


async def recent(session: Session) -> list[KeyChange]:
    """Returns the committed changes of the last `WINDOW_S`."""
    connection = await session.connection()
    rows = await connection.execute(_RECENT[connection.dialect.name])
    return [KeyChange(*row) for row in rows]


async def forget_old(session: Session) -> None:
    """Removes changes that are too old for any worker to read."""
    connection = await session.connection()
    await connection.execute(_FORGET[connection.dialect.name])


def _statements(template: str, back_s: int) -> dict[str, TextClause]:
    return {
        name: text(template.format(begin=f"{now} - {back_s * 1000}"))
        for name, now in _NOW_MS.items()
    }


_RECENT = _statements("SELECT seq, tenant_id, key_id FROM key_change WHERE at > {begin}", WINDOW_S)
_FORGET = _statements("DELETE FROM key_change WHERE at < {begin}", _KEEP_S)
