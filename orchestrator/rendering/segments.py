"""The token ids of texts that come again: earlier turns, system prompts, lists of tools."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import TypeAlias

Segment: TypeAlias = tuple[str, str, str]
"""Whose prompt it is part of, the twin of the special token that it begins with, its text."""

_OVERHEAD_BYTES = 400
"""Of the objects around the text and the ids of one segment."""


class Segments:
    """The ids of the segments that were asked for last, in at most `most_bytes`. Thread-safe.

    An owner finds only what was kept for that owner: how long a prompt takes would tell others
    which texts have been here before.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._ids: OrderedDict[Segment, array[int]] = OrderedDict()
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """What is kept, with its keys."""
        return self._bytes

    def known(self, segments: Iterable[Segment]) -> dict[Segment, array[int]]:
        """Those of `segments` that are kept; their ids are not to be changed."""
        kept, found = self._ids, {}
        with self._lock:
            for segment in segments:
                if (ids := kept.get(segment)) is not None:
                    kept.move_to_end(segment)
                    found[segment] = ids
        return found

    def keep(self, segment: Segment, ids: array[int]) -> None:
        """`ids` are those of `segment`; what was asked for longest ago makes room for it."""
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
