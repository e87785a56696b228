"""Counters of several workers or machines, in Redis, and the behaviour while it is unreachable.

One request that Redis does not answer in time opens the breaker: from then on no request waits for
Redis, and all callers are treated as the settings say, until the keeper finds that Redis answers
again. The worker then registers under a new name with what its requests hold, because it is unknown
which of the unanswered steps were done: those count for the old name, which no longer counts.

Finished requests are sent in the background; each line is applied once, however often it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence

from orchestrator.core.errors import QuotaUnavailable
from orchestrator.quota.counters import Change, Claim, Counted, Counter, Outage
from orchestrator.quota.line_queue import LineQueue
from orchestrator.quota.redis_calls import RedisDownError
from orchestrator.quota.redis_store import RedisStore, UnknownWorkerError, UnseededError
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import Settings
from orchestrator.store.database import StoreError

_log = logging.getLogger(__name__)

_RETRY_AFTER_S = 1.0
_SEED_AGAIN_S = 5.0
_CLOCK_KEPT_S = 60.0


class SharedCounters:
    """Counts for every worker that uses the same Redis. Call `start` before use, then `close`."""

    def __init__(
        self,
        redis: RedisStore,
        journal: TokenJournal,
        settings: Settings,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._journal = journal
        self._settings = settings.redis
        self._fail_closed = settings.quota.on_outage == "fail_closed"
        self._shares = settings.quota.shares or settings.server.workers
        self._now = now
        self._me = journal.owner
        self._former: list[str] = []
        self._held: Tally[Counter] = Tally()
        self._lines = LineQueue()
        self._recovered = 0
        self._known: dict[Counter, tuple[int, int]] = {}
        """The counts of the last answer, and until when they are of use."""
        self._granted: Tally[Counter] = Tally()
        """What this worker granted by itself in the current outage."""
        self._down = True
        self._forgotten: asyncio.Future[None] | None = None
        """Set while Redis answers but does not know this worker; done after a try to register."""
        self._told = False
        self._clock_ms = 0.0
        self._clock_took_s = math.inf
        self._clock_until = 0.0
        self._seed_at = 0.0
        self._beat_at = 0.0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._undoing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Waits for at most one answer of Redis. Raises: StoreError."""
        await self._journal.start()
        recovered = self._journal.recovered
        self._lines, self._recovered = LineQueue(recovered), len(recovered)
        self._journal.may_forget = lambda: not self._lines
        self._forget_recovered()
        await self._come_back()
        self._keeper = asyncio.create_task(self._keep_forever())

    async def close(self) -> None:
        """Sends the remaining lines, as far as Redis answers; the journal keeps the rest."""
        while self._undoing:
            await asyncio.wait(self._undoing)
        self._closing.set()
        self._wake.set()
        if self._keeper is not None:
            await self._keeper
        with contextlib.suppress(RedisDownError):
            if not self._down:
                await self._send()
                await self._redis.leave(self._me)
        await self._journal.close()
        await self._redis.close()

    @property
    def held(self) -> Mapping[Counter, int]:
        """The counts that running requests of this worker hold."""
        return self._held

    def outage(self) -> Outage | None:
        """Returns how callers are treated now, if Redis is unreachable."""
        if not self._down:
            return None
        return "refusing" if self._fail_closed else "sharing"

    async def take(self, claims: Sequence[Claim], *, dry: bool = False) -> Counted:
        """Takes all claims or none. Raises: QuotaUnavailable."""
        if self._down and not await self._registered_again():
            return self._without_redis(claims, dry=dry)
        if dry:
            return await self._ask(claims, dry=True)
        # A cancelled step may have been done: let it finish, then undo it.
        taking = asyncio.create_task(self._ask(claims, dry=False))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            undoing = asyncio.create_task(self._undo(taking, claims))
            self._undoing.add(undoing)
            undoing.add_done_callback(self._undoing.discard)
            raise

    def apply(self, changes: Sequence[Change]) -> None:
        """Settles or releases claims; used tokens are in the journal when it returns."""
        for change in changes:
            self._hold(change)
            moved = change.used + change.held
            if self._down:
                self._granted[change.counter] += moved
            elif change.counter in self._known:
                count, until = self._known[change.counter]
                self._known[change.counter] = (count + moved, until)
        self._lines.append(self._journal.append(changes))
        self._wake.set()

    async def _ask(self, claims: Sequence[Claim], *, dry: bool) -> Counted:
        me = self._me
        try:
            try:
                refused, counts = await self._counted(me, claims, dry=dry)
            except UnknownWorkerError as error:
                # Redis lost its data, or this worker was silent for too long. Nothing is taken.
                if me == self._me:
                    self._fail(error)
                if not await self._registered_again():
                    raise
                me = self._me
                refused, counts = await self._counted(me, claims, dry=dry)
        except (RedisDownError, UnknownWorkerError) as error:
            if me == self._me:
                self._fail(error)
            return self._without_redis(claims, dry=dry)
        for claim, count in zip(claims, counts, strict=True):
            if claim.counter.kind != "concurrency":
                self._known[claim.counter] = (count, claim.reset_at)
        if refused is None and not dry:
            self._hold_claims(me, claims)
        return Counted(refused, tuple(counts))

    def _hold_claims(self, me: str, claims: Sequence[Claim]) -> None:
        """Records what was taken under the name `me`."""
        changes = [claim.taken for claim in claims if claim.taken.held]
        for change in changes:
            self._hold(change)
        if changes and me != self._me:
            # Taken under a name that this worker gave up meanwhile.
            self._lines.append(self._journal.append(changes))
            self._wake.set()

    async def _counted(
        self, me: str, claims: Sequence[Claim], *, dry: bool
    ) -> tuple[int | None, list[int]]:
        """See `RedisStore.take`. Raises: RedisDownError, UnknownWorkerError."""
        seeded = True
        while True:
            try:
                return await self._redis.take(
                    me, claims, dry=dry, seeded=seeded, latest_ms=self._latest_ms()
                )
            except UnseededError as error:
                seeded = await self._seed(error.counters)

    async def _registered_again(self) -> bool:
        """Whether this worker, unknown to Redis before, is registered now.

        Waits for the keeper, for at most one answer; does not wait while Redis is unreachable.
        """
        if self._forgotten is None:
            return not self._down
        done, _ = await asyncio.wait({self._forgotten}, timeout=self._settings.timeout_s)
        return bool(done) and not self._down

    async def _undo(self, taking: asyncio.Task[Counted], claims: Sequence[Claim]) -> None:
        with contextlib.suppress(QuotaUnavailable):
            if (await taking).refused is None:
                self.apply([claim.given_back for claim in claims if claim.cost])

    async def _seed(self, counters: Sequence[Counter]) -> bool:
        """Sends the store's used tokens to Redis; returns whether the store was readable."""
        if self._now() < self._seed_at:
            return False
        try:
            for counter in counters:
                await self._redis.seed(counter, await self._journal.used(counter))
        except StoreError as error:
            _log.warning("Redis cannot be told what was used today: %s", error)
            self._seed_at = self._now() + _SEED_AGAIN_S
            return False
        return True

    def _without_redis(self, claims: Sequence[Claim], *, dry: bool) -> Counted:
        if self._fail_closed:
            raise QuotaUnavailable(
                "The limits of this key cannot be counted at the moment.",
                retry_after_s=_RETRY_AFTER_S,
                retryable=True,
            )
        shares = [self._share(claim) for claim in claims]
        refused = next(
            (
                index
                for index, (claim, (share, granted)) in enumerate(zip(claims, shares, strict=True))
                if claim.cost and granted + claim.cost > share
            ),
            None,
        )
        taken = refused is None and not dry
        if taken:
            self._grant([claim.taken for claim in claims if claim.cost])
        # Computed so that the rest of the limit equals the rest of the share.
        counts = [
            claim.limit - share + granted + (claim.cost if taken else 0)
            for claim, (share, granted) in zip(claims, shares, strict=True)
        ]
        return Counted(refused, tuple(counts))

    def _share(self, claim: Claim) -> tuple[int, int]:
        """Returns this worker's share of a limit, and how much of it was granted."""
        counter = claim.counter
        if counter.kind == "concurrency":
            return claim.limit // self._shares, self._held[counter]
        taken, _ = self._known.get(counter, (0, 0))
        return max(0, claim.limit - taken) // self._shares, self._granted[counter]

    def _grant(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._hold(change)
            self._granted[change.counter] += change.used + change.held
        self._lines.append(self._journal.append(changes))

    def _hold(self, change: Change) -> None:
        if change.held:
            self._held[change.counter] += change.held
            if not self._held[change.counter]:
                del self._held[change.counter]

    def _latest_ms(self) -> int:
        """The deadline after which Redis must skip a queued step, by Redis's clock."""
        timeout_s = self._settings.timeout_s
        # The comparison of the clocks is wrong by at most half of its round trip.
        allowed_s = max(timeout_s / 2, timeout_s - self._clock_took_s / 2)
        return int((time.monotonic() + allowed_s) * 1000 + self._clock_ms)

    def _note_time(self, redis_ms: int, began_at: float) -> None:
        """Compares the clocks; within a minute, the comparison with the fastest answer counts."""
        ended_at = time.monotonic()
        took_s = ended_at - began_at
        if took_s <= self._clock_took_s or ended_at > self._clock_until:
            self._clock_ms = redis_ms - (began_at + ended_at) / 2 * 1000
            self._clock_took_s, self._clock_until = took_s, ended_at + _CLOCK_KEPT_S

    def _fail(self, error: Exception) -> None:
        if self._down:
            return
        self._down = True
        self._granted.clear()
        self._wake.set()
        if isinstance(error, UnknownWorkerError):
            self._forgotten = asyncio.get_running_loop().create_future()
        else:
            self._told = True
            _log.warning("Redis is out of reach: %s", error)

    async def _keep_forever(self) -> None:
        """Sends lines, keeps this worker registered, and registers it again after an outage."""
        while not self._closing.is_set():
            if self._down and not await self._come_back():
                self._lines.shorten(self._now())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._settings.retry_s)
                continue
            pause_s = max(0.0, self._beat_at - time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)
            self._wake.clear()
            try:
                await self._send()
                await self._beat()
            except (RedisDownError, UnknownWorkerError) as error:
                self._fail(error)

    async def _send(self) -> None:
        while self._lines:
            group = self._lines.send()
            await self._redis.apply(group)
            self._lines.arrived(len(group))
            self._recovered = max(0, self._recovered - len(group))
            self._forget_recovered()

    async def _beat(self) -> None:
        if time.monotonic() < self._beat_at:
            return
        began_at = time.monotonic()
        self._note_time(await self._redis.beat(self._me), began_at)
        self._beat_at = time.monotonic() + self._settings.worker_ttl_s / 4
        now = self._now()
        for counter in [one for one, (_, until) in self._known.items() if until < now]:
            del self._known[counter]

    async def _come_back(self) -> bool:
        """Registers under a new name; returns whether Redis answers again and accepted it."""
        try:
            return await self._register()
        finally:
            if self._forgotten is not None:
                self._forgotten.set_result(None)
                self._forgotten = None

    async def _register(self) -> bool:
        try:
            await self._send()
            self._former = [*self._former, self._me][-20:]
            self._me = self._journal.new_owner()
            began_at = time.monotonic()
            at_ms = await self._redis.register(self._me, self._former, dict(self._held))
            # The cause may have been a wrong clock.
            self._clock_took_s = math.inf
            self._note_time(at_ms, began_at)
        except RedisDownError as error:
            if not self._told:
                _log.warning("Redis is out of reach: %s", error)
                self._told = True
            return False
        if self._told:
            _log.warning("Redis answers again")
        self._down, self._told, self._former = False, False, []
        self._beat_at = time.monotonic() + self._settings.worker_ttl_s / 4
        return True

    def _forget_recovered(self) -> None:
        if not self._recovered:
            self._journal.forget_recovered()
