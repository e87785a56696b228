"""Counters of one process: minutes in the `limits` library's memory, tokens in a ledger.

What is used of a day is in the journal before `apply` returns, and comes back from the store when
the process starts again. What is held ends with the process, as the requests do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence

from limits.aio.storage import MemoryStorage

from orchestrator.quota.counters import (
    WINDOW_S,
    Change,
    Claim,
    Counted,
    Counter,
    Outage,
    utc_day,
)
from orchestrator.quota.token_journal import TokenJournal

_SWEEP_S = 30.0


class MemoryCounters:
    """Counts for this process alone. `start` before use, `close` afterwards."""

    def __init__(self, journal: TokenJournal, *, now: Callable[[], float] = time.time) -> None:
        self._journal = journal
        self._now = now
        self._minutes = MemoryStorage()
        self._held: Tally[Counter] = Tally()
        self._used: dict[Counter, int] = {}
        # The storage's methods are coroutines; nothing may come between looking and taking.
        self._turn = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes over what the store knows of today. Raises: StoreError."""
        await self._journal.start()
        self._journal.forget_recovered()
        self._used = dict(await self._journal.used_on(utc_day(self._now())))
        self._sweeper = asyncio.create_task(self._sweep_forever())
        # Or else the storage looks at every counter after every request.
        self._minutes.timer = self._sweeper

    def outage(self) -> Outage | None:
        """Never: it counts in the process."""
        return None

    async def close(self) -> None:
        """Writes the journal to the store as far as that answers."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._journal.close()

    @property
    def held(self) -> Mapping[Counter, int]:
        """What running requests hold."""
        return self._held

    async def take(self, claims: Sequence[Claim], *, dry: bool = False) -> Counted:
        """Takes all claims or none."""
        async with self._turn:
            counts = [await self._count(claim.counter) for claim in claims]
            for index, (claim, count) in enumerate(zip(claims, counts, strict=True)):
                if claim.cost and count + claim.cost > claim.limit:
                    return Counted(index, tuple(counts))
            if dry:
                return Counted(None, tuple(counts))
            for index, claim in enumerate(claims):
                if claim.cost:
                    await self._change(claim.taken)
                    counts[index] += claim.cost
            return Counted(None, tuple(counts))

    async def apply(self, changes: Sequence[Change]) -> None:
        """Ends what was taken; tokens used are in the journal when it returns."""
        self._journal.append(changes)
        async with self._turn:
            for change in changes:
                await self._change(change)

    async def _count(self, counter: Counter) -> int:
        if counter.kind == "rpm":
            return await self._minutes.get(counter.name)
        return self._used.get(counter, 0) + self._held[counter]

    async def _change(self, change: Change) -> None:
        counter = change.counter
        if counter.kind == "rpm":
            # Of a minute that is over nothing is left to give back to.
            if change.used > 0 or await self._minutes.get(counter.name):
                await self._minutes.incr(counter.name, 2 * WINDOW_S, change.used)
            return
        if change.held:
            self._held[counter] += change.held
            if not self._held[counter]:
                del self._held[counter]
        if change.used:
            self._used[counter] = self._used.get(counter, 0) + change.used

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            for name in list(self._minutes.expirations):
                await self._minutes.get(name)
            today = utc_day(self._now())
            for counter in [counter for counter in self._used if counter.period < today]:
                del self._used[counter]
