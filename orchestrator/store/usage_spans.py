"""A stretch of time cut into whole days, whole hours, and what is left at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

Source = Literal["day", "hour", "record"]
"""Where the numbers of a piece are read: sums of days, sums of hours, or single records."""

_LENGTHS: tuple[tuple[Source, int], ...] = (("day", DAY_MS), ("hour", HOUR_MS))


@dataclass(frozen=True, slots=True)
class Piece:
    """From `start_at` up to and without `end_at`, in milliseconds; `None` has no end there."""

    source: Source
    start_at: int | None
    end_at: int | None


def pieces(start_at: int | None, end_at: int | None, *, by_hour: bool = False) -> list[Piece]:
    """The fewest pieces that cover the stretch exactly once; `by_hour` uses no sums of days."""
    if start_at is not None and end_at is not None and start_at >= end_at:
        return []
    return _cut(start_at, end_at, _LENGTHS[1:] if by_hour else _LENGTHS)


def _cut(
    start_at: int | None, end_at: int | None, lengths: Sequence[tuple[Source, int]]
) -> list[Piece]:
    if not lengths:
        return [Piece("record", start_at, end_at)]
    (source, length), *shorter = lengths
    first = None if start_at is None else -(-start_at // length) * length
    last = None if end_at is None else end_at // length * length
    if first is not None and last is not None and first >= last:
        return _cut(start_at, end_at, shorter)
    before = [] if first == start_at else _cut(start_at, first, shorter)
    behind = [] if last == end_at else _cut(last, end_at, shorter)
    return [*before, Piece(source, first, last), *behind]
