"""Queries about the books.

A record is added together with its part of four sums: those of its tenant, key and model in its
hour and in its day, and those of its tenant alone. What is asked for is read from days, then hours,
and only at the edges of a stretch that does not begin or end with an hour from single records, so
an answer costs as much as there are groups and not as many calls as there were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import orjson
from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    case,
    delete,
    func,
    literal,
    literal_column,
    tuple_,
    union_all,
)
from sqlalchemy import select as select_columns
from sqlalchemy.dialects import sqlite
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from orchestrator.store.tables import UsageEntry, UsageTotal
from orchestrator.store.usage_spans import DAY_MS, HOUR_MS, Piece, pieces

Grouping = Literal["hour", "day", "key", "model"]
GroupValue = str | int

_COUNTED = (
    "requests",
    "failed",
    "cancelled",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "duration_ms",
    "wasted_tokens",
)


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which records count. Times in milliseconds; `end_at` is the first moment that does not."""

    tenant_id: str | None = None
    start_at: int | None = None
    end_at: int | None = None
    key_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What the records of one group add up to.

    `group` has a value for each grouping asked for; those of `hour` and `day` are the milliseconds
    at which it begins, in UTC.
    """

    group: Mapping[Grouping, GroupValue]
    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    duration_ms: int
    wasted_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together: what was charged."""
        return self.prompt_tokens + self.completion_tokens


class RecordsGoneError(Exception):
    """The single records of the hour that begins at `hour_at` (ms) are no longer kept."""

    def __init__(self, hour_at: int) -> None:
        super().__init__(f"the records of the hour at {hour_at} are gone")
        self.hour_at = hour_at


async def add_all(session: AsyncSession, entries: Sequence[Mapping[str, Any]]) -> None:
    """Adds `entries`, the columns of `UsageEntry`, and counts them in the sums.

    Those that are there already stay as they are and are not counted again. Each request has one,
    so they are never made into objects.
    """
    if not entries:
        return
    # Of an id that comes twice in one batch the first counts.
    by_id = {entry["record_id"]: entry for entry in reversed(entries)}
    connection = await session.connection()
    statements = _statements(connection.dialect.name)
    if statements.known is not None:
        # Nothing else writes meanwhile. Asking costs a tenth of having each id returned.
        given = {"ids": orjson.dumps(list(by_id)).decode()}
        for record_id in (await connection.execute(statements.known, given)).scalars().all():
            del by_id[record_id]
        added: Iterable[Mapping[str, Any]] = by_id.values()
        if by_id:
            await connection.execute(statements.add, list(by_id.values()))
    else:
        returned = await connection.execute(statements.add, list(by_id.values()))
        added = [by_id[record_id] for record_id in returned.scalars()]
    if sums := _sums_of(added):
        await connection.execute(statements.count, sums)


@dataclass(frozen=True, slots=True)
class _Statements:
    """Made once for a database, as making them costs more than running them.

    `known` selects those of `ids`, a JSON list, that are there; without it `add` returns which
    are new.
    """

    known: Select[Any] | None
    add: Any
    count: Any


@cache
def _statements(dialect: str) -> _Statements:
    if dialect == "postgresql":
        # Imported where it is used: that dialect costs 5 MB.
        from sqlalchemy.dialects.postgresql import insert

        new: Any = insert
        known = None
        add = new(UsageEntry).on_conflict_do_nothing(index_elements=["record_id"])
        add = add.returning(col(UsageEntry.record_id))
    else:
        new = sqlite.insert
        ids = func.json_each(bindparam("ids")).table_valued("value")
        record_id = col(UsageEntry.record_id)
        known = select_columns(record_id).where(record_id.in_(select_columns(ids.c.value)))
        add = new(UsageEntry)
    count = new(UsageTotal)
    counted = {name: getattr(UsageTotal, name) + count.excluded[name] for name in _COUNTED}
    names = ["tenant_id", "span", "at", "key_id", "model"]
    return _Statements(known, add, count.on_conflict_do_update(index_elements=names, set_=counted))


def _sums_of(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows to add to the sums, in the order of their keys: no two writers wait in a circle."""
    hours: dict[tuple[Any, ...], list[int]] = {}
    for entry in entries:
        at: int = entry["at"]
        key = (entry["tenant_id"], at - at % HOUR_MS, entry["key_id"], entry["model"])
        so_far = hours.get(key)
        if so_far is None:
            so_far = hours[key] = [0] * len(_COUNTED)
        so_far[0] += 1
        so_far[1] += entry["outcome"] == "failed"
        so_far[2] += entry["outcome"] == "cancelled"
        so_far[3] += entry["prompt_tokens"]
        so_far[4] += entry["completion_tokens"]
        so_far[5] += entry["cached_tokens"]
        so_far[6] += entry["duration_ms"]
        so_far[7] += entry["wasted_tokens"]
    sums: dict[tuple[Any, ...], list[int]] = {}
    for (tenant_id, hour, key_id, model), numbers in hours.items():
        day = hour - hour % DAY_MS
        for part in (
            (tenant_id, "day", day, key_id, model),
            (tenant_id, "hour", hour, key_id, model),
            (tenant_id, "all_day", day, "", ""),
            (tenant_id, "all_hour", hour, "", ""),
        ):
            total = sums.setdefault(part, [0] * len(_COUNTED))
            sums[part] = [old + new for old, new in zip(total, numbers, strict=True)]
    names = ("tenant_id", "span", "at", "key_id", "model", *_COUNTED)
    return [dict(zip(names, (*part, *sums[part]), strict=True)) for part in sorted(sums)]


async def forget_records(session: AsyncSession, before_at: int, most: int) -> int:
    """Removes at most `most` records that began before `before_at`; the sums keep them.

    Returns how many went. `before_at` begins an hour, so that each hour is kept whole or not.
    """
    assert before_at % HOUR_MS == 0
    old = select_columns(col(UsageEntry.record_id)).where(col(UsageEntry.at) < before_at)
    connection = await session.connection()
    gone = await connection.execute(
        delete(UsageEntry).where(col(UsageEntry.record_id).in_(old.limit(most).scalar_subquery()))
    )
    return int(gone.rowcount)


async def summed(
    session: AsyncSession,
    which: UsageFilter,
    by: Sequence[Grouping] = (),
    *,
    limit: int | None = None,
    offset: int = 0,
    after: Sequence[GroupValue] | None = None,
) -> list[UsageSum]:
    """The sums by `by`, in the order of the groups; without `by` one sum of everything.

    `after` are the values of the group behind which to begin. Raises: RecordsGoneError.
    """
    parts = pieces(which.start_at, which.end_at, by_hour="hour" in by)
    for piece in parts:
        if piece.source == "record":
            await _check_kept(session, which.tenant_id, piece)
    if not parts:
        return [] if by else [UsageSum({}, *[0] * len(_COUNTED))]
    query = _query(which, by, parts, after)
    if by:
        query = query.limit(limit).offset(offset)
    rows = (await (await session.connection()).execute(query)).all()
    return [_sum(tuple(row), by) for row in rows]


async def _check_kept(session: AsyncSession, tenant_id: str | None, piece: Piece) -> None:
    """Raises: RecordsGoneError unless every record of the hours of `piece` is there."""
    assert piece.start_at is not None
    assert piece.end_at is not None
    connection = await session.connection()
    first = piece.start_at // HOUR_MS * HOUR_MS
    for hour_at in range(first, piece.end_at, HOUR_MS):
        whole = UsageFilter(tenant_id, hour_at, hour_at + HOUR_MS)
        counts = [
            _selected(whole, (), Piece(source, whole.start_at, whole.end_at)).with_only_columns(
                func.count() if source == "record" else func.sum(col(UsageTotal.requests))
            )
            for source in ("record", "hour")
        ]
        there, counted = [(await connection.execute(one)).scalar_one() or 0 for one in counts]
        if there < counted:
            raise RecordsGoneError(hour_at)


def _query(
    which: UsageFilter,
    by: Sequence[Grouping],
    parts: Sequence[Piece],
    after: Sequence[GroupValue] | None,
) -> Select[Any]:
    if len(parts) == 1:
        # By itself, so that the order of the table's key can be the order of the groups.
        groups = [_group(name, parts[0]) for name in by]
        query = _selected(which, by, parts[0])
    else:
        together = union_all(*[_selected(which, by, piece) for piece in parts]).subquery()
        groups = [together.c[name] for name in by]
        sums = [func.sum(together.c[name]).label(name) for name in _COUNTED]
        query = select_columns(*groups, *sums).group_by(*groups)
    if after is not None:
        query = query.where(tuple_(*groups) > tuple_(*[literal(value) for value in after]))
    return query.order_by(*groups)


def _selected(which: UsageFilter, by: Sequence[Grouping], piece: Piece) -> Select[Any]:
    """The sums of one piece, by group."""
    groups = [_group(name, piece) for name in by]
    labelled = [group.label(name) for group, name in zip(groups, by, strict=True)]
    query = select_columns(*labelled, *_counts(piece)).group_by(*groups)
    table = _table(piece)
    conditions: list[ColumnElement[bool]] = []
    if which.tenant_id is not None:
        conditions.append(col(table.tenant_id) == which.tenant_id)
    if piece.source != "record":
        is_of_all = which.key_id is None and which.model is None and not {"key", "model"} & set(by)
        span = f"all_{piece.source}" if is_of_all else piece.source
        conditions.append(col(UsageTotal.span) == span)
    if piece.start_at is not None:
        conditions.append(col(table.at) >= piece.start_at)
    if piece.end_at is not None:
        conditions.append(col(table.at) < piece.end_at)
    if which.key_id is not None:
        conditions.append(col(table.key_id) == which.key_id)
    if which.model is not None:
        conditions.append(col(table.model) == which.model)
    return query.where(*conditions)


def _table(piece: Piece) -> type[UsageEntry] | type[UsageTotal]:
    return UsageEntry if piece.source == "record" else UsageTotal


def _group(name: Grouping, piece: Piece) -> ColumnElement[Any]:
    table = _table(piece)
    columns: Mapping[str, Any] = {"key": col(table.key_id), "model": col(table.model)}
    at: Any = col(table.at)
    found: ColumnElement[Any]
    if name in {"key", "model"}:
        found = columns[name]
    elif name == piece.source:
        found = at
    else:
        # Not a parameter: PostgreSQL must see the same expression in SELECT and GROUP BY.
        step: ColumnElement[int] = literal_column(str(HOUR_MS if name == "hour" else DAY_MS))
        found = at - at % step
    return found


def _counts(piece: Piece) -> list[ColumnElement[Any]]:
    if piece.source != "record":
        return [func.sum(getattr(UsageTotal, name)).label(name) for name in _COUNTED]
    outcome = col(UsageEntry.outcome)
    return [
        func.count().label("requests"),
        *(
            func.sum(case((outcome == word, 1), else_=0)).label(word)
            for word in ("failed", "cancelled")
        ),
        *(func.sum(getattr(UsageEntry, name)).label(name) for name in _COUNTED[3:]),
    ]


def _sum(row: Sequence[Any], by: Sequence[Grouping]) -> UsageSum:
    # PostgreSQL adds integers up to decimals; the sum of nothing is null.
    numbers = [int(value or 0) for value in row[len(by) :]]
    return UsageSum(dict(zip(by, row, strict=False)), *numbers)
