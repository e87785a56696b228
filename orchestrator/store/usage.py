"""Queries about the books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, assert_never

from sqlalchemy import ColumnElement, Select, case, func, literal_column
from sqlalchemy import select as select_columns
from sqlalchemy.dialects import sqlite
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from orchestrator.core.moments import format_moment
from orchestrator.store.tables import UsageEntry

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

Grouping = Literal["hour", "day", "key", "model"]

_COLUMNS: Mapping[str, Any] = {"key": col(UsageEntry.key_id), "model": col(UsageEntry.model)}
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


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

    group: Mapping[Grouping, str | int]
    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    duration_ms: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


async def add_all(session: AsyncSession, entries: Sequence[Mapping[str, Any]]) -> None:
    """Adds `entries`, the columns of `UsageEntry`; those that are there already stay as they are.

    Each request has one, so they are never made into objects.
    """
    if not entries:
        return
    insert = _insert(session.get_bind().dialect.name)
    statement = insert.on_conflict_do_nothing(index_elements=["record_id"])
    connection = await session.connection()
    await connection.execute(statement, entries)


def _insert(dialect: str) -> sqlite.Insert | postgresql.Insert:
    if dialect != "postgresql":
        return sqlite.insert(UsageEntry)
    # Imported where it is used: that dialect costs 5 MB.
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(UsageEntry)


async def summed(
    session: AsyncSession,
    which: UsageFilter,
    by: Sequence[Grouping] = (),
    *,
    limit: int | None = None,
    offset: int = 0,
) -> list[UsageSum]:
    """The sums by `by`, in the order of the groups; without `by` one sum of everything."""
    groups = [_group(name) for name in by]
    query = _filtered(select_columns(*groups, *_sums()), which)
    if groups:
        query = query.group_by(*groups).order_by(*groups).limit(limit).offset(offset)
    rows = (await (await session.connection()).execute(query)).all()
    return [_sum(tuple(row), by) for row in rows]


def _group(name: Grouping) -> ColumnElement[Any]:
    match name:
        case "hour" | "day":
            length = HOUR_MS if name == "hour" else DAY_MS
            # Not a parameter: PostgreSQL must see the same expression in SELECT and GROUP BY.
            step: ColumnElement[int] = literal_column(str(length))
            return col(UsageEntry.at) - col(UsageEntry.at) % step
        case "key" | "model":
            column: ColumnElement[Any] = _COLUMNS[name]
            return column
        case _:
            assert_never(name)


def _sums() -> list[ColumnElement[Any]]:
    outcome = col(UsageEntry.outcome)
    added = [
        UsageEntry.prompt_tokens,
        UsageEntry.completion_tokens,
        UsageEntry.cached_tokens,
        UsageEntry.duration_ms,
    ]
    return [
        func.count(),
        *(func.sum(case((outcome == word, 1), else_=0)) for word in ("failed", "cancelled")),
        *(func.sum(column) for column in added),
    ]


def _filtered(query: Select[Any], which: UsageFilter) -> Select[Any]:
    at = col(UsageEntry.at)
    conditions: list[ColumnElement[bool]] = []
    if which.tenant_id is not None:
        conditions.append(col(UsageEntry.tenant_id) == which.tenant_id)
    if which.key_id is not None:
        conditions.append(col(UsageEntry.key_id) == which.key_id)
    if which.model is not None:
        conditions.append(col(UsageEntry.model) == which.model)
    if which.start_at is not None:
        conditions.append(at >= which.start_at)
    if which.end_at is not None:
        conditions.append(at < which.end_at)
    return query.where(*conditions)


def _sum(row: Sequence[Any], by: Sequence[Grouping]) -> UsageSum:
    # PostgreSQL adds integers up to decimals; the sum of nothing is null.
    numbers = [int(value or 0) for value in row[len(by) :]]
    return UsageSum(dict(zip(by, row, strict=False)), *numbers)


def parse_groupings(text: str) -> tuple[Grouping, ...]:
    """The groupings in `day,key`, each once. Raises: ValueError that names the wrong one."""
    found: list[Grouping] = []
    for name in text.split(","):
        match name.strip():
            case ("hour" | "day" | "key" | "model") as grouping:
                if grouping not in found:
                    found.append(grouping)
            case "":
                continue
            case unknown:
                raise ValueError(f"`{unknown}` is not one of hour, day, key, model")
    return tuple(found)


def cells(sums: UsageSum) -> dict[str, str | int]:
    """One sum as it is written down, by column: groups first, moments as RFC 3339 in UTC."""
    groups: dict[str, str | int] = {}
    for name, value in sums.group.items():
        match name:
            case "hour" | "day":
                groups[name] = format_moment(int(value))
            case "key":
                groups["key_id"] = value
            case "model":
                groups["model"] = value
            case _:
                assert_never(name)
    return {
        **groups,
        "requests": sums.requests,
        "failed": sums.failed,
        "cancelled": sums.cancelled,
        "prompt_tokens": sums.prompt_tokens,
        "completion_tokens": sums.completion_tokens,
        "cached_tokens": sums.cached_tokens,
        "total_tokens": sums.total_tokens,
        "duration_ms": sums.duration_ms,
    }


def columns(by: Sequence[Grouping]) -> list[str]:
    """The names of the columns of `cells`."""
    return list(cells(UsageSum(dict.fromkeys(by, 0), 0, 0, 0, 0, 0, 0, 0)))
