"""Queries about usage records.

A record is added together with its part of seven sums: per tenant, key and model in its hour, day
and period of days; per tenant and model in its hour and day; and per tenant alone. A query reads
the longest spans possible. It reads single records only at the edges of a time range that does not
begin or end on an hour. So the cost of an answer grows with the number of groups, not of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

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
from sqlalchemy.orm import aliased
from sqlmodel import col

from orchestrator.books.runs import EVERYTHING, Run, go_together, run_of
from orchestrator.books.spans import DAY_MS, HOUR_MS, PERIOD_MS, Piece, Source, pieces
from orchestrator.books.sums import Grouping, GroupValue, UsageFilter, UsageSum
from orchestrator.store.database import Session
from orchestrator.store.tables import UsageEntry, UsageSummary, UsageSums, UsageTotal

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


class RecordsGoneError(Exception):
    """The single records of the hour that begins at `hour_at` (ms) were deleted."""

    def __init__(self, hour_at: int) -> None:
        super().__init__(f"the records of the hour at {hour_at} are gone")
        self.hour_at = hour_at


async def add_all(session: Session, entries: Sequence[Mapping[str, Any]]) -> None:
    """Adds `entries`, the columns of `UsageEntry`, and counts them in the sums. Idempotent.

    Existing records stay unchanged and are not counted again. There is one for each request, so for
    speed no objects are made of them.
    """
    if not entries:
        return
    # If an id comes twice in one batch, the first one counts.
    by_id = {entry["record_id"]: entry for entry in reversed(entries)}
    connection = await session.connection()
    statements = _statements(connection.dialect.name)
    if statements.known is not None:
        # SQLite has no other writer meanwhile. This query costs a tenth of returning each new id.
        given = {"ids": orjson.dumps(list(by_id)).decode()}
        for record_id in (await connection.execute(statements.known, given)).scalars().all():
            del by_id[record_id]
        added: Iterable[Mapping[str, Any]] = by_id.values()
        if by_id:
            await connection.execute(statements.add, list(by_id.values()))
    else:
        returned = await connection.execute(statements.add, list(by_id.values()))
        added = [by_id[record_id] for record_id in returned.scalars()]
    totals, summaries = _sums_of(added)
    if totals:
        await connection.execute(statements.total, totals)
        await connection.execute(statements.summarise, summaries)


@dataclass(frozen=True, slots=True)
class _Statements:
    """Statements, built once for a database, because building them costs more than running them.

    `known` selects the existing ones of `ids`, a JSON list; without it, `add` returns new ones.
    """

    known: Select[Any] | None
    add: Any
    total: Any
    summarise: Any


@cache
def _statements(dialect: str) -> _Statements:
    if dialect == "postgresql":
        # Imported only where it is used: that dialect takes 5 MB.
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
    return _Statements(known, add, _counting(new, UsageTotal), _counting(new, UsageSummary))


def _counting(new: Any, table: type[UsageSums]) -> Any:
    """Builds a statement that adds rows to `table`, or their numbers to existing rows."""
    count = new(table)
    counted = {name: getattr(table, name) + count.excluded[name] for name in _COUNTED}
    names = ["tenant_id", "span", "at", "key_id", "model"]
    return count.on_conflict_do_update(index_elements=names, set_=counted)


def _sums_of(
    entries: Iterable[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns rows to add to totals and to summaries, in the order of their keys, so that two
    writers cannot deadlock.
    """
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
    totals: dict[tuple[Any, ...], list[int]] = {}
    summaries: dict[tuple[Any, ...], list[int]] = {}
    for (tenant_id, hour, key_id, model), numbers in hours.items():
        day, period = hour - hour % DAY_MS, hour - hour % PERIOD_MS
        for sums, part in (
            (totals, (tenant_id, "day", day, key_id, model)),
            (totals, (tenant_id, "hour", hour, key_id, model)),
            (totals, (tenant_id, "all_day", day, "", "")),
            (totals, (tenant_id, "all_hour", hour, "", "")),
            (summaries, (tenant_id, "period", period, key_id, model)),
            (summaries, (tenant_id, "day", day, "", model)),
            (summaries, (tenant_id, "hour", hour, "", model)),
        ):
            total = sums.setdefault(part, [0] * len(_COUNTED))
            sums[part] = [old + new for old, new in zip(total, numbers, strict=True)]
    return _rows(totals), _rows(summaries)


def _rows(sums: Mapping[tuple[Any, ...], list[int]]) -> list[dict[str, Any]]:
    names = ("tenant_id", "span", "at", "key_id", "model", *_COUNTED)
    return [dict(zip(names, (*part, *sums[part]), strict=True)) for part in sorted(sums)]


async def forget_records(session: Session, before_at: int, most: int) -> int:
    """Deletes at most `most` records that started before `before_at`; the sums still include them.

    Returns the number deleted. `before_at` is the start of an hour, so that no hour is kept partly.
    """
    assert before_at % HOUR_MS == 0
    old = select_columns(col(UsageEntry.record_id)).where(col(UsageEntry.at) < before_at)
    connection = await session.connection()
    gone = await connection.execute(
        delete(UsageEntry).where(col(UsageEntry.record_id).in_(old.limit(most).scalar_subquery()))
    )
    return int(gone.rowcount)


async def summed(
    session: Session,
    which: UsageFilter,
    by: Sequence[Grouping] = (),
    *,
    limit: int | None = None,
    offset: int = 0,
    after: Sequence[GroupValue] | None = None,
) -> list[UsageSum]:
    """Returns the sums by `by`, in the order of the groups; without `by`, one sum of everything.

    The result begins after the group with the values `after`. Raises: RecordsGoneError.
    """
    parts = pieces(which.start_at, which.end_at, _longest(which, by))
    for piece in parts:
        if piece.source == "record":
            await _check_kept(session, which.tenant_id, piece)
    if not parts:
        return [] if by else [UsageSum({}, *[0] * len(_COUNTED))]
    if limit is not None and not offset and _has_many_groups(which, by):
        return await _summed_in_runs(session, which, by, parts, limit, after)
    query = _query(which, by, parts, after)
    if by:
        query = query.limit(limit).offset(offset)
    return await _read(session, query, by)


async def _read(session: Session, query: Select[Any], by: Sequence[Grouping]) -> list[UsageSum]:
    rows = (await (await session.connection()).execute(query)).all()
    return [_sum(tuple(row), by) for row in rows]


def _named(which: UsageFilter, by: Sequence[Grouping]) -> set[str]:
    """Which of key and model the sums must distinguish."""
    asked = {name for name in ("key", "model") if name in by}
    asked |= {"key"} if which.key_id is not None else set()
    return asked | ({"model"} if which.model is not None else set())


def _longest(which: UsageFilter, by: Sequence[Grouping]) -> Source:
    """Returns the longest usable spans. Without keys, the sums of days are few already."""
    if "hour" in by:
        return "hour"
    return "period" if "key" in _named(which, by) and "day" not in by else "day"


def _has_many_groups(which: UsageFilter, by: Sequence[Grouping]) -> bool:
    """Whether there may be a group for each key and each hour or day of a tenant."""
    is_of_keys = "key" in by and which.key_id is None
    return is_of_keys and bool({"hour", "day"} & set(by)) and which.tenant_id is not None


async def _summed_in_runs(
    session: Session,
    which: UsageFilter,
    by: Sequence[Grouping],
    parts: Sequence[Piece],
    limit: int,
    after: Sequence[GroupValue] | None,
) -> list[UsageSum]:
    """Reads one page of groups in parts; one query would sum every group of the whole range.

    There are few groups by the first names of `by`; the groups of one run of them are summed at a
    time. A group has at least one request, so a run needs at least as many requests as lines.
    """
    last = next(number for number, name in enumerate(by) if name != "model")
    lead = tuple(by[: last + 1])
    start = None if after is None else after[: last + 1]
    # Each of them has at least one line, but the first may have none after `after`.
    leads = await _read(
        session,
        _query(which, lead, _lead_parts(which, lead), start, behind=False).limit(limit + 1),
        lead,
    )
    found: list[UsageSum] = []
    enough = limit
    while leads and len(found) < limit:
        count, requests = 0, 0
        while count < len(leads) and requests < enough and go_together(leads[0], leads[count]):
            requests += leads[count].requests
            count += 1
        run, leads = run_of(leads[:count], lead[-1]), leads[count:]
        query = _query(which, by, parts, after, run).limit(limit - len(found))
        found += await _read(session, query, by)
        enough *= 4
    return found


def _lead_parts(which: UsageFilter, lead: Sequence[Grouping]) -> list[Piece]:
    return pieces(which.start_at, which.end_at, _longest(which, lead))


async def _check_kept(session: Session, tenant_id: str | None, piece: Piece) -> None:
    """Raises: RecordsGoneError unless every record of the hours of `piece` is there."""
    assert piece.start_at is not None
    assert piece.end_at is not None
    connection = await session.connection()
    first = piece.start_at // HOUR_MS * HOUR_MS
    for hour_at in range(first, piece.end_at, HOUR_MS):
        whole = UsageFilter(tenant_id, hour_at, hour_at + HOUR_MS)
        counts = [
            _selected(
                whole, (), Piece(source, hour_at, hour_at + HOUR_MS), EVERYTHING
            ).with_only_columns(
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
    run: Run = EVERYTHING,
    *,
    behind: bool = True,
) -> Select[Any]:
    """Builds the query of the sums. `behind` excludes the group `after` itself."""
    if len(parts) == 1:
        # Without a union, so that the database can use the table's key for the order of the groups.
        groups = [_group(name, which, by, parts[0]) for name in by]
        query = _selected(which, by, parts[0], run)
    else:
        together = union_all(*[_selected(which, by, piece, run) for piece in parts]).subquery()
        groups = [together.c[name] for name in by]
        sums = [func.sum(together.c[name]).label(name) for name in _COUNTED]
        query = select_columns(*groups, *sums).group_by(*groups)
    if after is not None:
        place = tuple_(*[literal(value) for value in after])
        query = query.where(tuple_(*groups) > place if behind else tuple_(*groups) >= place)
    return query.order_by(*groups)


def _selected(which: UsageFilter, by: Sequence[Grouping], piece: Piece, run: Run) -> Select[Any]:
    """Selects the sums of one piece, by group, restricted to `run`."""
    groups = [_group(name, which, by, piece) for name in by]
    labelled = [group.label(name) for group, name in zip(groups, by, strict=True)]
    table = _table(which, by, piece)
    query = select_columns(*labelled, *_counts(table)).group_by(*groups)
    conditions: list[ColumnElement[bool]] = []
    if which.tenant_id is not None:
        conditions.append(col(table.tenant_id) == which.tenant_id)
    conditions += run.conditions(table)
    if which.key_id is not None:
        conditions.append(col(table.key_id) == which.key_id)
    if which.model is not None:
        conditions.append(col(table.model) == which.model)
    if not issubclass(table, UsageEntry):
        span = piece.source if _named(which, by) else f"all_{piece.source}"
        conditions.append(col(table.span) == span)
    start_at, end_at = run.within(piece)
    is_of_few_keys = which.key_id is not None or run.first_key is not None
    if table is UsageTotal and is_of_few_keys and which.tenant_id is not None:
        conditions.append(_at_its_moments(which.tenant_id, f"all_{piece.source}", start_at, end_at))
    else:
        conditions += _within(table, start_at, end_at)
    return query.where(*conditions)


def _at_its_moments(
    tenant_id: str, span: str, start_at: int | None, end_at: int | None
) -> ColumnElement[bool]:
    """Returns a condition on the times of a tenant, as a list of the existing ones.

    The table's key has the time before the key's id: a look-up for each time skips other keys.
    """
    there = aliased(UsageTotal)
    moments = select_columns(col(there.at)).where(
        col(there.tenant_id) == tenant_id,
        col(there.span) == span,
        *_within(there, start_at, end_at),
    )
    return col(UsageTotal.at).in_(moments)


def _within(table: Any, start_at: int | None, end_at: int | None) -> list[ColumnElement[bool]]:
    """Returns the conditions for times from `start_at` (included) to `end_at` (excluded)."""
    conditions: list[ColumnElement[bool]] = []
    if start_at is not None:
        conditions.append(col(table.at) >= start_at)
    if end_at is not None:
        conditions.append(col(table.at) < end_at)
    return conditions


def _table(
    which: UsageFilter, by: Sequence[Grouping], piece: Piece
) -> type[UsageEntry | UsageSums]:
    if piece.source == "record":
        return UsageEntry
    if piece.source == "period" or _named(which, by) == {"model"}:
        return UsageSummary
    return UsageTotal


def _group(
    name: Grouping, which: UsageFilter, by: Sequence[Grouping], piece: Piece
) -> ColumnElement[Any]:
    table = _table(which, by, piece)
    columns: Mapping[str, Any] = {"key": col(table.key_id), "model": col(table.model)}
    at: Any = col(table.at)
    found: ColumnElement[Any]
    if name in {"key", "model"}:
        found = columns[name]
    elif name == piece.source:
        found = at
    else:
        # Not a parameter: PostgreSQL needs the same expression in SELECT and GROUP BY.
        step: ColumnElement[int] = literal_column(str(HOUR_MS if name == "hour" else DAY_MS))
        found = at - at % step
    return found


def _counts(table: type[UsageEntry | UsageSums]) -> list[Any]:
    if not issubclass(table, UsageEntry):
        return [func.sum(getattr(table, name)).label(name) for name in _COUNTED]
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
    # PostgreSQL returns decimals for sums of integers; an empty sum is null.
    numbers = [int(value or 0) for value in row[len(by) :]]
    return UsageSum(dict(zip(by, row, strict=False)), *numbers)
