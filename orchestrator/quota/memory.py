"""Counters of one process: minutes in the `limits` library's memory, the others in dictionaries.

The used tokens of a day are in the journal before `apply` returns, and are read from the store
when the process starts again. What requests hold ends with the process, as the requests do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from limits.storage import MemoryStorage

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
_KEEP_MINUTES_S = 2 * WINDOW_S


class MemoryCounters:
    """Counts for this process alone. Call `start` before use, `close` afterwards.

    `take` and `apply` do not wait, so no other task runs between the check and the change.
    """

    def __init__(self, journal: TokenJournal, *, now: Callable[[], float] = time.time) -> None:
        self._journal = journal
        self._now = now
        self._minutes = MemoryStorage()
        # Otherwise a thread of the storage checks every counter again and again.
        self._minutes.timer.cancel()
        self._minutes.timer = _Running(0, _nothing)
        self._held: dict[Counter, int] = {}
        self._used: dict[Counter, int] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads today's used tokens from the store. Raises: StoreError."""
        await self._journal.start()
        self._journal.forget_recovered()
        self._used = dict(await self._journal.used_on(utc_day(self._now())))
        self._sweeper = asyncio.create_task(self._sweep_forever())

    def outage(self) -> Outage | None:
        """Returns `None`: it counts in the process."""
        return None

    async def close(self) -> None:
        """Writes the journal to the store as far as the store answers."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._journal.close()

    @property
    def held(self) -> Mapping[Counter, int]:
        """The counts that running requests hold."""
        return self._held

    async def take(self, claims: Sequence[Claim], *, dry: bool = False) -> Counted:
        """Takes all claims or none."""
        used, held, minutes = self._used, self._held, self._minutes
        # Without the expiry check of `get`: no request claims in a minute that has ended.
        requests = minutes.storage
        counts: list[int] = []
        refused = None
        for claim in claims:
            counter, cost = claim.counter, claim.cost
            if counter.kind == "rpm":
                count = requests.get(counter.name, 0)
            else:
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
                if counter.kind == "rpm":
                    minutes.incr(counter.name, _KEEP_MINUTES_S, cost)
                else:
                    held[counter] = held.get(counter, 0) + cost
        return Counted(None, counts)

    def apply(self, changes: Sequence[Change]) -> None:
        """Settles or releases claims; used tokens are in the journal when it returns."""
        self._journal.append(changes)
        used, held = self._used, self._held
        for change in changes:
            counter = change.counter
            if change.held:
                held[counter] = held.get(counter, 0) + change.held
                if not held[counter]:
                    del held[counter]
            if not change.used:
                continue
            if counter.kind != "rpm":
                used[counter] = used.get(counter, 0) + change.used
            # For a minute that has ended, there is no counter to release to.
            elif self._minutes.get(counter.name):
                self._minutes.incr(counter.name, _KEEP_MINUTES_S, change.used)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            for name in list(self._minutes.expirations):
                self._minutes.get(name)  # which forgets one that is over
            today = utc_day(self._now())
            for counter in [counter for counter in self._used if counter.period < today]:
                del self._used[counter]


class _Running(threading.Timer):
    """Replaces the storage's sweeper thread; it never runs."""

    def is_alive(self) -> bool:
        """Returns true, so that the storage starts no other thread."""
        return True


def _nothing() -> None:
    pass
