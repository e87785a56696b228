"""Dictionaries that hold a bounded number of values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def remember(known: dict[K, V], key: K, value: V, most: int) -> None:
    """Puts `value` in as the newest; beyond `most` entries, removes the oldest."""
    known.pop(key, None)
    known[key] = value
    while len(known) > most:
        del known[next(iter(known))]


class BoundedCache(Generic[K, V]):
    """Holds at most `most` values, always including the `most // 2` used last.

    A value that is used moves from the older half to the newer one. When the newer half is full,
    the older half is dropped. So a value that is used again soon costs one look-up, and the cache
    keeps no order. `None` cannot be stored.
    """

    __slots__ = ("_half", "_newer", "_older")

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._newer: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def get(self, key: K) -> V | None:
        """Returns the value, if it is there, and counts as a use of it."""
        value = self._newer.get(key)
        if value is None and (value := self._older.pop(key, None)) is not None:
            self._add(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Stores `value`, and counts as a use of it."""
        self._older.pop(key, None)
        self._add(key, value)

    def drop(self, key: K) -> None:
        """Removes the value, if it is there."""
        self._newer.pop(key, None)
        self._older.pop(key, None)

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries. No other method may be called during the iteration."""
        yield from self._older.items()
        yield from self._newer.items()

    def _add(self, key: K, value: V) -> None:
        self._newer[key] = value
        if len(self._newer) >= self._half:
            self._older, self._newer = self._newer, {}
