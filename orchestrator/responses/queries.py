"""Queries about stored responses. Every one names the tenant, or comes from the response's worker.

Times are milliseconds since the epoch. A response is finished when its status is not in `RUNNING`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, delete, func, literal, update
from sqlalchemy import select as sa_select
from sqlmodel import col, select

from orchestrator.store.database import Session
from orchestrator.store.tables import StoredResponse, StoredResponseEvent, metadata

RUNNING = ("queued", "in_progress")
_EVICTED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Stored:
    """A response as it is stored: `body` and `input_items` are JSON text."""

    id: str
    tenant_id: str
    created_at: int
    previous_id: str | None
    status: str
    body: str
    input_items: str
    next_sequence: int = 0
    seen_at: int = 0

    @property
    def running(self) -> bool:
        """Whether a worker must still finish it."""
        return self.status in RUNNING

    @property
    def size_bytes(self) -> int:
        """Its size in bytes, without its events."""
        return len(self.body.encode()) + len(self.input_items.encode())


@dataclass(frozen=True, slots=True)
class Quotas:
    """The max number and bytes of responses that one tenant may store."""

    most_bytes: int
    most_stored: int


async def add(session: Session, batch: Sequence[Stored]) -> None:
    """Stores new responses."""
    session.add_all(
        StoredResponse(
            id=stored.id,
            tenant_id=stored.tenant_id,
            created_at=stored.created_at,
            previous_id=stored.previous_id,
            status=stored.status,
            body=stored.body,
            input_items=stored.input_items,
            size_bytes=stored.size_bytes,
            next_sequence=stored.next_sequence,
            seen_at=stored.seen_at,
        )
        for stored in batch
    )
    await session.flush()


async def find(session: Session, tenant_id: str, response_id: str, since: int) -> Stored | None:
    """Returns the tenant's response of that id, unless it was created before `since`."""
    query = select(StoredResponse).where(
        StoredResponse.id == response_id,
        StoredResponse.tenant_id == tenant_id,
        StoredResponse.created_at >= since,
    )
    row = (await session.exec(query)).first()
    return None if row is None else _value(row)


async def progress(
    session: Session, tenant_id: str, response_id: str, since: int
) -> tuple[str, int] | None:
    """Returns status and the worker's last sign of life, if `find` would find the response."""
    query = select(StoredResponse.status, StoredResponse.seen_at).where(
        StoredResponse.id == response_id,
        StoredResponse.tenant_id == tenant_id,
        StoredResponse.created_at >= since,
    )
    return (await session.exec(query)).first()


async def chain(
    session: Session, tenant_id: str, response_id: str, since: int, *, most: int
) -> list[tuple[str, str | None, int]]:
    """Returns id, previous id and size of the response and its predecessors, the newest first.

    The chain ends where a response does not exist any more, and after `most` of them.
    """
    table = metadata().tables["stored_response"]
    before = table.alias("before")

    def links_of(rows: FromClause, depth: ColumnElement[int]) -> Select[Any]:
        chosen = (rows.c.id, rows.c.previous_id, rows.c.size_bytes, depth.label("depth"))
        return sa_select(*chosen).where(rows.c.tenant_id == tenant_id, rows.c.created_at >= since)

    links = links_of(table, literal(0)).where(table.c.id == response_id).cte(recursive=True)
    longer = links.c.depth + 1
    links = links.union_all(
        links_of(before, longer).where(before.c.id == links.c.previous_id, longer < most)
    )
    connection = await session.connection()
    query = sa_select(links).order_by(links.c.depth)
    return [(row[0], row[1], row[2]) for row in await connection.execute(query)]


async def texts(
    session: Session, tenant_id: str, ids: Sequence[str], since: int
) -> dict[str, tuple[str, str]]:
    """Returns body and input items of each of `ids` that was not created before `since`."""
    query = select(StoredResponse.id, StoredResponse.body, StoredResponse.input_items).where(
        StoredResponse.tenant_id == tenant_id,
        StoredResponse.created_at >= since,
        col(StoredResponse.id).in_(ids),
    )
    return {row[0]: (row[1], row[2]) for row in await session.exec(query)}


async def size(session: Session, tenant_id: str, ids: Sequence[str], since: int) -> int:
    """Returns the bytes of those of `ids` that `texts` would return, with their events."""
    query = select(func.coalesce(func.sum(StoredResponse.size_bytes), 0)).where(
        StoredResponse.tenant_id == tenant_id,
        StoredResponse.created_at >= since,
        col(StoredResponse.id).in_(ids),
    )
    return int((await session.exec(query)).one())


async def advance(
    session: Session,
    response_id: str,
    *,
    status: str,
    now: int,
    frames: Sequence[str] = (),
    body: str | None = None,
    idle_since: int | None = None,
) -> bool:
    """Records the progress of a running response, and a sign of life of its worker.

    Returns False and writes nothing when it is finished or deleted; or, with `idle_since`, when its
    worker gave a sign of life after that time.
    """
    row = await _running(session, response_id)
    if row is None or (idle_since is not None and row.seen_at >= idle_since):
        return False
    written = "".join(frames)
    if written:
        session.add(
            StoredResponseEvent(
                response_id=response_id, first_sequence=row.next_sequence, frames=written
            )
        )
    if body is not None:
        row.size_bytes += len(body.encode()) - len(row.body.encode())
        row.body = body
    row.size_bytes += len(written.encode())
    row.next_sequence += len(frames)
    row.status, row.seen_at = status, now
    await session.flush()
    return True


async def events(session: Session, response_id: str, after: int) -> list[tuple[int, str]]:
    """Returns the rows that hold events after number `after`, each with its first number."""
    last_before = (
        select(func.max(StoredResponseEvent.first_sequence))
        .where(
            StoredResponseEvent.response_id == response_id,
            col(StoredResponseEvent.first_sequence) <= after + 1,
        )
        .scalar_subquery()
    )
    query = (
        select(StoredResponseEvent.first_sequence, StoredResponseEvent.frames)
        .where(
            StoredResponseEvent.response_id == response_id,
            col(StoredResponseEvent.first_sequence) >= func.coalesce(last_before, 0),
        )
        .order_by(col(StoredResponseEvent.first_sequence))
    )
    return [(row[0], row[1]) for row in await session.exec(query)]


async def remove(session: Session, tenant_id: str, response_id: str) -> bool:
    """Deletes a response with its events. Returns False when the tenant has none of that id."""
    gone = await session.exec(
        delete(StoredResponse).where(
            col(StoredResponse.id) == response_id, col(StoredResponse.tenant_id) == tenant_id
        )
    )
    return gone.rowcount > 0


async def expire(session: Session, before: int) -> int:
    """Deletes every response created before `before`; returns their number."""
    gone = await session.exec(delete(StoredResponse).where(col(StoredResponse.created_at) < before))
    return gone.rowcount


async def make_room(session: Session, tenant_id: str, quotas: Quotas, keep: Sequence[str]) -> int:
    """Deletes the tenant's oldest responses until the rest fits; returns the number deleted.

    Keeps running responses and those in `keep`.
    """
    sums = select(func.count(), func.coalesce(func.sum(StoredResponse.size_bytes), 0)).where(
        StoredResponse.tenant_id == tenant_id
    )
    count, size = (await session.exec(sums)).one()
    removed = 0
    while count > quotas.most_stored or size > quotas.most_bytes:
        oldest = (
            select(StoredResponse.id, StoredResponse.size_bytes)
            .where(
                StoredResponse.tenant_id == tenant_id,
                col(StoredResponse.id).not_in(keep),
                col(StoredResponse.status).not_in(RUNNING),
            )
            .order_by(col(StoredResponse.created_at), col(StoredResponse.id))
            .limit(_EVICTED_AT_ONCE)
        )
        going = []
        for response_id, size_bytes in await session.exec(oldest):
            if count <= quotas.most_stored and size <= quotas.most_bytes:
                break
            going.append(response_id)
            count, size = count - 1, size - size_bytes
        if not going:
            break
        await session.exec(delete(StoredResponse).where(col(StoredResponse.id).in_(going)))
        removed += len(going)
    return removed


async def abandoned(session: Session, seen_before: int) -> list[Stored]:
    """Returns running responses whose workers gave no sign of life since `seen_before`."""
    query = select(StoredResponse).where(
        col(StoredResponse.status).in_(RUNNING), StoredResponse.seen_at < seen_before
    )
    return [_value(row) for row in await session.exec(query)]


async def touch(session: Session, response_id: str, now: int) -> bool:
    """Records a sign of life of a running response's worker. False if it is finished or deleted."""
    touched = await session.exec(
        update(StoredResponse)
        .where(col(StoredResponse.id) == response_id, col(StoredResponse.status).in_(RUNNING))
        .values(seen_at=now)
    )
    return touched.rowcount > 0


async def _running(session: Session, response_id: str) -> StoredResponse | None:
    """Returns the row, locked, if the response is running."""
    query = (
        select(StoredResponse)
        .where(StoredResponse.id == response_id, col(StoredResponse.status).in_(RUNNING))
        .with_for_update()
    )
    return (await session.exec(query)).first()


def _value(row: StoredResponse) -> Stored:
    return Stored(
        id=row.id,
        tenant_id=row.tenant_id,
        created_at=row.created_at,
        previous_id=row.previous_id,
        status=row.status,
        body=row.body,
        input_items=row.input_items,
        next_sequence=row.next_sequence,
        seen_at=row.seen_at,
    )
