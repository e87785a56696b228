"""Queries about the tokens used on a day, and how far each journal is applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete
from sqlalchemy.dialects import sqlite
from sqlmodel import col, select

from orchestrator.store.database import Session
from orchestrator.store.tables import QuotaOwner, TokenDay

DayKey = tuple[str, str, str]
"""Scope, its id, UTC day as `YYYYMMDD`."""


async def used_on(session: Session, day: str) -> dict[DayKey, int]:
    """Returns what all keys and tenants used on `day`."""
    rows = (await session.exec(select(TokenDay).where(TokenDay.day == day))).all()
    return {(row.scope, row.scope_id, row.day): row.used for row in rows}


async def used(session: Session, key: DayKey) -> int:
    """Returns what one key or tenant used on one day."""
    row = await session.get(TokenDay, key)
    return 0 if row is None else row.used


async def add_used(session: Session, used: Mapping[DayKey, int]) -> None:
    """Adds used tokens, in the order of the keys, so that two writers cannot deadlock.

    It is one statement for all keys: there are as many as active callers.
    """
    if not used:
        return
    statement = _insert(session)(TokenDay)
    connection = await session.connection()
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["scope", "scope_id", "day"],
            set_={"used": col(TokenDay.used) + statement.excluded.used},
        ),
        [
            {"scope": scope, "scope_id": scope_id, "day": day, "used": tokens}
            for (scope, scope_id, day), tokens in sorted(used.items())
        ],
    )


async def applied(session: Session, owners: Sequence[str]) -> dict[str, int]:
    """Returns the last line of each owner's journal that is already in the table."""
    query = select(QuotaOwner).where(col(QuotaOwner.owner).in_(owners)).with_for_update()
    return {row.owner: row.applied for row in (await session.exec(query)).all()}


async def note_applied(session: Session, owner: str, line: int, now_ms: int) -> None:
    """Records that all lines up to `line` are in the table."""
    row = await session.get(QuotaOwner, owner)
    if row is None:
        session.add(QuotaOwner(owner=owner, seen_at=now_ms, applied=line))
    else:
        row.applied, row.seen_at = line, now_ms
    await session.flush()


async def forget_owners(session: Session, before_ms: int) -> None:
    """Deletes owners whose journal was removed long ago."""
    await session.exec(delete(QuotaOwner).where(col(QuotaOwner.seen_at) < before_ms))


def _insert(session: Session) -> Any:
    """Returns the database's own INSERT, which can handle existing rows."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert
    # Imported only where it is used: that dialect takes 5 MB.
    from sqlalchemy.dialects import postgresql

    return postgresql.insert
