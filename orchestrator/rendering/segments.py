"""Caches the token ids of texts that repeat: earlier turns, system prompts, lists of tools."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import TypeAlias

Segment: TypeAlias = tuple[str, str, str]
"""The owner of the prompt, the twin of the special token at the start, and the text."""

_OVERHEAD_BYTES = 400
"""Bytes of the objects around the text and the ids of one segment."""


class Segments:
    """Keeps the ids of the most recently used segments, in at most `most_bytes`. Thread-safe.

    An owner finds only its own segments. Otherwise the time of a prompt would reveal which texts
    other owners have sent.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._ids: OrderedDict[Segment, array[int]] = OrderedDict()
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of all kept ids and their keys."""
        return self._bytes

    def known(self, segments: Iterable[Segment]) -> dict[Segment, array[int]]:
        """The kept ids of `segments`, where there are any. Callers must not change them."""
        kept, found = self._ids, {}
        with self._lock:
            for segment in segments:
                if (ids := kept.get(segment)) is not None:
                    kept.move_to_end(segment)
                    found[segment] = ids
        return found

    def keep(self, segment: Segment, ids: array[int]) -> None:
        """Keeps `ids` for `segment`, and removes the least recently used ones to make room."""
        kept, size_bytes = self._ids, _size_bytes(segment, ids)
        if size_bytes > self._most_bytes:
            return
        with self._lock:
            if segment not in kept:
                kept[segment] = ids
                self._bytes += size_bytes
            while self._bytes > self._most_bytes:
                self._bytes -= _size_bytes(*kept.popitem(last=False))


def _size_bytes(segment: Segment, ids: array[int]) -> int:
    return _OVERHEAD_BYTES + sys.getsizeof(segment[2]) + len(ids) * ids.itemsize
