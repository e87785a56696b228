"""What has changed of keys and tenants lately, so that caches of them need not read them anew.

Triggers of the database note each change of what callers are judged by (see the migration
`20261130_2`), in any process; when a key was last used is no such change.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import TextClause, text

from orchestrator.store.database import Session

WINDOW_S = 180
"""How far back `recent` looks. A transaction on PostgreSQL that committed after one with a higher
number is seen for as long; the limits of time on transactions are far below."""
_KEEP_S = 3600

_NOW_MS = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
}
"""The database's own clock: several boxes write, and theirs may differ."""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key that has changed, or with `key_id` None all keys of a tenant."""

    seq: int
    tenant_id: str
    key_id: str | None


async def recent(session: Session) -> list[KeyChange]:
    """The changes of the last `WINDOW_S` that are committed."""
    connection = await session.connection()
    rows = await connection.execute(_RECENT[connection.dialect.name])
    return [KeyChange(*row) for row in rows]


async def forget_old(session: Session) -> None:
    """Removes what no worker reads any more."""
    connection = await session.connection()
    await connection.execute(_FORGET[connection.dialect.name])


def _statements(template: str, back_s: int) -> dict[str, TextClause]:
    return {
        name: text(template.format(begin=f"{now} - {back_s * 1000}"))
        for name, now in _NOW_MS.items()
    }


_RECENT = _statements("SELECT seq, tenant_id, key_id FROM key_change WHERE at > {begin}", WINDOW_S)
_FORGET = _statements("DELETE FROM key_change WHERE at < {begin}", _KEEP_S)
