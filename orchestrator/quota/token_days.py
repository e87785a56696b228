"""Queries about the tokens that were used on a day, and how far each journal is in them."""

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
    """What everybody used on `day`."""
    rows = (await session.exec(select(TokenDay).where(TokenDay.day == day))).all()
    return {(row.scope, row.scope_id, row.day): row.used for row in rows}


async def used(session: Session, key: DayKey) -> int:
    """What one key or tenant used on one day."""
    row = await session.get(TokenDay, key)
    return 0 if row is None else row.used


async def add_used(session: Session, used: Mapping[DayKey, int]) -> None:
    """Adds to what was used; in the order of the keys, so that no two writers wait in a circle.

    One statement, however many keys: there are as many as callers at work.
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
    """The last line of each owner's journal that is in the table already."""
    query = select(QuotaOwner).where(col(QuotaOwner.owner).in_(owners)).with_for_update()
    return {row.owner: row.applied for row in (await session.exec(query)).all()}


async def note_applied(session: Session, owner: str, line: int, now_ms: int) -> None:
    """Notes that everything up to `line` is in the table."""
    row = await session.get(QuotaOwner, owner)
    if row is None:
        session.add(QuotaOwner(owner=owner, seen_at=now_ms, applied=line))
    else:
        row.applied, row.seen_at = line, now_ms
    await session.flush()


async def forget_owners(session: Session, before_ms: int) -> None:
    """Forgets owners whose journal is long gone."""
    await session.exec(delete(QuotaOwner).where(col(QuotaOwner.seen_at) < before_ms))


def _insert(session: Session) -> Any:
    """The database's own INSERT, which can say what to do about rows that are there."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert
    # Imported where it is used: that dialect costs 5 MB.
    from sqlalchemy.dialects import postgresql

    return postgresql.insert
