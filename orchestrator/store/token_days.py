"""Queries about the tokens that were used on a day, and how far each journal is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from orchestrator.store.tables import QuotaOwner, TokenDay

DayKey = tuple[str, str, str]
"""Scope, its id, UTC day as `YYYYMMDD`."""


async def used_on(session: AsyncSession, day: str) -> dict[DayKey, int]:
    """What everybody used on `day`."""
    rows = (await session.exec(select(TokenDay).where(TokenDay.day == day))).all()
    return {(row.scope, row.scope_id, row.day): row.used for row in rows}


async def used(session: AsyncSession, key: DayKey) -> int:
    """What one key or tenant used on one day."""
    row = await session.get(TokenDay, key)
    return 0 if row is None else row.used


async def add_used(session: AsyncSession, used: Mapping[DayKey, int]) -> None:
    """Adds to what was used; in the order of the keys, so that no two writers wait in a circle."""
    for key, tokens in sorted(used.items()):
        scope, scope_id, day = key
        changed = await session.exec(
            update(TokenDay)
            .where(
                col(TokenDay.scope) == scope,
                col(TokenDay.scope_id) == scope_id,
                col(TokenDay.day) == day,
            )
            .values(used=col(TokenDay.used) + tokens)
        )
        if changed.rowcount == 0:
            session.add(TokenDay(scope=scope, scope_id=scope_id, day=day, used=tokens))
            await session.flush()


async def applied(session: AsyncSession, owners: Sequence[str]) -> dict[str, int]:
    """The last line of each owner's journal that is in the table already."""
    query = select(QuotaOwner).where(col(QuotaOwner.owner).in_(owners)).with_for_update()
    return {row.owner: row.applied for row in (await session.exec(query)).all()}


async def note_applied(session: AsyncSession, owner: str, line: int, now_ms: int) -> None:
    """Notes that everything up to `line` is in the table."""
    row = await session.get(QuotaOwner, owner)
    if row is None:
        session.add(QuotaOwner(owner=owner, seen_at=now_ms, applied=line))
    else:
        row.applied, row.seen_at = line, now_ms
    await session.flush()


async def forget_owners(session: AsyncSession, before_ms: int) -> None:
    """Forgets owners whose journal is long gone."""
    await session.exec(delete(QuotaOwner).where(col(QuotaOwner.seen_at) < before_ms))
