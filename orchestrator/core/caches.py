"""Dictionaries that remember a bounded number of things."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def remember(known: dict[K, V], key: K, value: V, most: int) -> None:
    """Puts `value` in as the newest; beyond `most`, what was put in longest ago goes."""
    known.pop(key, None)
    known[key] = value
    while len(known) > most:
        del known[next(iter(known))]


class BoundedCache(Generic[K, V]):
    """At most `most` values, and always the half of them that were used last. `None` is no value.

    What is used moves from the older half to the newer one; when that is full the older half goes.
    So a value that is used again soon costs one look-up, and no order has to be kept.
    """

    __slots__ = ("_half", "_newer", "_older")

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._newer: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def get(self, key: K) -> V | None:
        """The value, used now."""
        value = self._newer.get(key)
        if value is None and (value := self._older.pop(key, None)) is not None:
            self._add(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remembers `value`, used now."""
        self._older.pop(key, None)
        self._add(key, value)

    def drop(self, key: K) -> None:
        """Forgets the value, if it is there."""
        self._newer.pop(key, None)
        self._older.pop(key, None)

    def items(self) -> Iterator[tuple[K, V]]:
        """All that is there; nothing may be put in or used meanwhile."""
        yield from self._older.items()
        yield from self._newer.items()

    def _add(self, key: K, value: V) -> None:
        self._newer[key] = value
        if len(self._newer) >= self._half:
            self._older, self._newer = self._newer, {}
