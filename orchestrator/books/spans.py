"""Cuts a time range into periods of days, days, hours, and the rest at its edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PERIOD_MS = 16 * DAY_MS
"""A year has 23 of them, and the edges of a time range take at most 30 days."""

Source = Literal["period", "day", "hour", "record"]
"""Where the numbers of a piece are read: from sums of this span, or from single records."""

_LENGTHS: Mapping[Source, int] = {"period": PERIOD_MS, "day": DAY_MS, "hour": HOUR_MS}


@dataclass(frozen=True, slots=True)
class Piece:
    """From `start_at` (included) to `end_at` (excluded), in milliseconds; `None` is unbounded."""

    source: Source
    start_at: int | None
    end_at: int | None


def pieces(start_at: int | None, end_at: int | None, longest: Source) -> list[Piece]:
    """Returns the fewest pieces that cover the range exactly once, with no span above `longest`."""
    if start_at is not None and end_at is not None and start_at >= end_at:
        return []
    sources = list(_LENGTHS)
    lengths = [(source, _LENGTHS[source]) for source in sources[sources.index(longest) :]]
    return _cut(start_at, end_at, lengths)


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
