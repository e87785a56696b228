"""Places that several owners share in turn; no owner can take all of them."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class NoTurnError(Exception):
    """No place became free: too many requests wait already, or the wait was too long."""


class Turns:
    """At most `places` at once in total and `per_owner` for one owner; waiting owners take turns.

    Requests of one owner are admitted in order of arrival. For one event loop.
    """

    def __init__(self, places: int, *, per_owner: int, most_waiting: int) -> None:
        """At most `most_waiting` requests of one owner wait; more are refused at once."""
        self._free = places
        self._per_owner = per_owner
        self._most_waiting = most_waiting
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, owner: str, timeout_s: float) -> AsyncIterator[None]:
        """Holds a place in the `async with` block.

        Raises: NoTurnError after `timeout_s`, or when too many wait.
        """
        await self._acquire(owner, timeout_s)
        try:
            yield
        finally:
            self._release(owner)

    async def _acquire(self, owner: str, timeout_s: float) -> None:
        if self._free and self._held[owner] < self._per_owner:
            # While a place is free, only owners that hold their max of places wait.
            self._take(owner)
            return
        waiting = self._waiting.setdefault(owner, deque())
        if len(waiting) >= self._most_waiting:
            raise NoTurnError(f"{len(waiting)} requests of one tenant wait already")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(place)
        try:
            await asyncio.wait({place}, timeout=timeout_s)
        except asyncio.CancelledError:
            if place.done():
                self._release(owner)
            raise
        finally:
            if not place.done():
                place.cancel()
                self._left(owner, place)
        if place.cancelled():
            raise NoTurnError(f"no evaluation could begin within {timeout_s:g} s")

    def _take(self, owner: str) -> None:
        self._free -= 1
        self._held[owner] += 1

    def _release(self, owner: str) -> None:
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._let_in()

    def _let_in(self) -> None:
        """Hands free places to owners below their limit, longest waiting owner first."""
        for owner in list(self._waiting):
            if not self._free:
                return
            if self._held[owner] < self._per_owner:
                place = self._waiting[owner][0]
                self._left(owner, place)
                if owner in self._waiting:
                    self._waiting.move_to_end(owner)
                self._take(owner)
                place.set_result(None)

    def _left(self, owner: str, place: asyncio.Future[None]) -> None:
        waiting = self._waiting[owner]
        waiting.remove(place)
        if not waiting:
            del self._waiting[owner]
