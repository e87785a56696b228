"""What the engine does, whoever asked for it."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from functools import lru_cache

PACED, SLOW, BURST, EMBED = "paced", "slow", "burst", "embed"
PACES_S = {PACED: 0.01, SLOW: 1.0}
DIMENSION = 1024

Emit = Callable[[int, bool], None]
"""Takes how many tokens there are now, and whether these are the last."""


class Tokens:
    """The tokens of one answer, at the pace of its model, the first after one step."""

    __slots__ = ("_due_at", "_emit", "_handle", "_left", "_loop", "_pace_s")

    def __init__(self, model: str, count: int, emit: Emit) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = count
        self._emit = emit
        self._due_at = self._loop.time()
        self._handle: asyncio.Handle | None = None
        self._pace_s = PACES_S.get(model, 0.0)
        if self._pace_s:
            self._wait()
        else:
            self._handle = self._loop.call_soon(self._all)

    def stop(self) -> None:
        """No more tokens are made."""
        if self._handle is not None:
            self._handle.cancel()

    def _wait(self) -> None:
        self._due_at += self._pace_s
        self._handle = self._loop.call_at(self._due_at, self._one)

    def _one(self) -> None:
        self._left -= 1
        if self._left > 0:
            self._wait()
        self._emit(1, self._left <= 0)

    def _all(self) -> None:
        self._emit(self._left, True)


@lru_cache(maxsize=64)
def vectors(rows: int) -> bytes:
    """`rows` vectors of float32, little endian, like those of a model: between -1 and 1."""
    numbers = random.Random(rows)  # nothing secret
    return b"".join(
        struct.pack(f"<{DIMENSION}f", *(numbers.uniform(-1, 1) for _ in range(DIMENSION)))
        for _ in range(rows)
    )
