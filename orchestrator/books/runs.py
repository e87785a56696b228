"""Runs of neighbouring groups of usage sums; a page is read one run after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement
from sqlmodel import col

from orchestrator.books.spans import DAY_MS, HOUR_MS, Piece
from orchestrator.books.sums import Grouping, UsageSum
from orchestrator.store.tables import UsageEntry, UsageSums


@dataclass(frozen=True, slots=True)
class Run:
    """What to read of the pieces: keys from `first_key` to `last_key`, and a time range."""

    first_key: str | None = None
    last_key: str | None = None
    start_at: int | None = None
    end_at: int | None = None
    model: str | None = None

    def conditions(self, table: type[UsageEntry | UsageSums]) -> list[ColumnElement[bool]]:
        """Returns the conditions on keys and model; `within` handles the time."""
        found: list[ColumnElement[bool]] = []
        if self.first_key is not None:
            found.append(col(table.key_id) >= self.first_key)
        if self.last_key is not None:
            found.append(col(table.key_id) <= self.last_key)
        if self.model is not None:
            found.append(col(table.model) == self.model)
        return found

    def within(self, piece: Piece) -> tuple[int | None, int | None]:
        """Returns the start (included) and end (excluded) of its part of `piece`."""
        return _later(piece.start_at, self.start_at), _sooner(piece.end_at, self.end_at)


EVERYTHING = Run()


def go_together(one: UsageSum, other: UsageSum) -> bool:
    """Whether both can be in one run: a run has at most one model."""
    return one.group.get("model") == other.group.get("model")


def run_of(leads: Sequence[UsageSum], name: Grouping) -> Run:
    """Returns the run of the groups `leads`, which differ only in `name`."""
    first, last = leads[0].group[name], leads[-1].group[name]
    model = leads[0].group.get("model")
    of_model = None if model is None else str(model)
    if name == "key":
        return Run(first_key=str(first), last_key=str(last), model=of_model)
    length = HOUR_MS if name == "hour" else DAY_MS
    return Run(start_at=int(first), end_at=int(last) + length, model=of_model)


def _later(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _sooner(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
