"""Counters of one process, in two dictionaries.

What is used of a day is in the journal before `apply` returns, and comes back from the store when
the process starts again. What is held ends with the process, as the requests do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from orchestrator.quota.counters import (
    Change,
    Claim,
    Counted,
    Counter,
    Outage,
    is_past_minute,
    utc_day,
)
from orchestrator.quota.token_journal import TokenJournal

_SWEEP_S = 30.0


class MemoryCounters:
    """Counts for this process alone. `start` before use, `close` afterwards.

    Nothing in `take` and `apply` waits, so nothing comes between looking and taking.
    """

    def __init__(self, journal: TokenJournal, *, now: Callable[[], float] = time.time) -> None:
        self._journal = journal
        self._now = now
        self._held: dict[Counter, int] = {}
        self._used: dict[Counter, int] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes over what the store knows of today. Raises: StoreError."""
        await self._journal.start()
        self._journal.forget_recovered()
        self._used = dict(await self._journal.used_on(utc_day(self._now())))
        self._sweeper = asyncio.create_task(self._sweep_forever())

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
        used, held = self._used, self._held
        counts: list[int] = []
        refused = None
        for claim in claims:
            counter, cost = claim.counter, claim.cost
            count = used.get(counter, 0) + held.get(counter, 0)
            if cost and count + cost > claim.limit and refused is None:
                refused = len(counts)
            counts.append(count)
        if refused is not None or dry:
            return Counted(refused, counts)
        for index, claim in enumerate(claims):
            if cost := claim.cost:
                counts[index] += cost
                counter = claim.counter
                part = used if counter.kind == "rpm" else held
                part[counter] = part.get(counter, 0) + cost
        return Counted(None, counts)

    def apply(self, changes: Sequence[Change]) -> None:
        """Ends what was taken; tokens used are in the journal when it returns."""
        self._journal.append(changes)
        used, held = self._used, self._held
        for change in changes:
            counter = change.counter
            if change.held:
                held[counter] = held.get(counter, 0) + change.held
                if not held[counter]:
                    del held[counter]
            # Of a minute that is over nothing is left to give back to.
            if change.used and (counter.kind != "rpm" or counter in used):
                used[counter] = used.get(counter, 0) + change.used

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._now()
            today = utc_day(now)
            for counter in list(self._used):
                is_past_day = counter.kind == "tpd" and counter.period < today
                if is_past_day or is_past_minute(counter, now):
                    del self._used[counter]
