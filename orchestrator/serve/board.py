"""How many connections each worker has open, in memory that all of them share.

All workers accept from one kernel queue, which gives a connection to the worker that asks first.
So a worker with more open connections leaves a new one to the others for a moment (`Acceptor`).
No connection waits in a worker that dies, because the queue is shared.
"""

from __future__ import annotations

import mmap
import os
import time

_ABSENT = 0
_FIELDS = 2
"""Per worker: open connections plus 1, or `_ABSENT`; and when it wrote that, in nanoseconds."""
_STALE_NS = 3_000_000_000
"""After so long without a write, a worker is not waited for. It writes once a second."""


class Board:
    """Each worker's number of connections. One process writes a number, any may read it.

    Numbers are aligned words of 8 bytes, which the processor writes whole.
    """

    def __init__(self, descriptor: int, workers: int) -> None:
        """Maps the memory behind `descriptor`, which the caller keeps and closes."""
        self._map = mmap.mmap(descriptor, workers * _FIELDS * 8)
        self._words = memoryview(self._map).cast("Q")
        self._workers = workers

    @staticmethod
    def memory(workers: int) -> int:
        """Returns a descriptor of memory for `workers`. The caller closes it. Raises: OSError."""
        descriptor = os.memfd_create("operayde-connections")
        os.ftruncate(descriptor, workers * _FIELDS * 8)
        return descriptor

    def write(self, number: int, count: int) -> None:
        """Records that worker `number` has `count` connections open and accepts more."""
        self._words[_FIELDS * number + 1] = time.monotonic_ns()
        self._words[_FIELDS * number] = count + 1

    def leave(self, number: int) -> None:
        """Records that worker `number` accepts no more: it is ending, or has ended."""
        self._words[_FIELDS * number] = _ABSENT

    def fewest_of_others(self, number: int) -> int | None:
        """Returns the lowest count of the workers other than `number`; None if it is alone."""
        words, since = self._words, time.monotonic_ns() - _STALE_NS
        counts = [
            words[_FIELDS * other] - 1
            for other in range(self._workers)
            if other != number
            and words[_FIELDS * other] != _ABSENT
            and words[_FIELDS * other + 1] >= since
        ]
        return min(counts, default=None)


class Seat:
    """One worker's place on the board."""

    def __init__(self, board: Board, number: int) -> None:
        self._board = board
        self._number = number

    def write(self, count: int) -> None:
        """Records that this worker has `count` connections open."""
        self._board.write(self._number, count)

    def leave(self) -> None:
        """Records that this worker accepts no more."""
        self._board.leave(self._number)

    def is_ahead(self, count: int) -> bool:
        """Whether another worker has fewer than `count` connections."""
        fewest = self._board.fewest_of_others(self._number)
        return fewest is not None and fewest < count
