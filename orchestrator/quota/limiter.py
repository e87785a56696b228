"""The quota with limits: counts requests, reserves tokens, settles them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from orchestrator.core.caches import BoundedCache
from orchestrator.core.limits import Bucket
from orchestrator.quota import NOTHING_TAKEN, Admission, Caller, Outlook
from orchestrator.quota.counters import (
    WINDOW_S,
    Change,
    Claim,
    Counters,
    Outage,
    request_claims,
    token_claims,
)
from orchestrator.quota.replies import refusal, reply_headers

Clock = Callable[[], float]

_MAX_PLANS = 20_000


class _Plan(msgspec.Struct, frozen=True):
    """The claims of one request of `caller` in the minute `minute`.

    `days` are its token budgets at a cost of 0: they are read together with the request, so that
    the headers need no separate step.
    """

    caller: Caller
    minute: int
    requests: list[Claim]
    days: list[Claim]


class Limiter:
    """Applies limits: key and tenant must both have room; a caller without limits costs nothing."""

    def __init__(
        self, counters: Counters, *, now: Clock = time.time, most_remembered: int = _MAX_PLANS
    ) -> None:
        self._counters = counters
        self._now = now
        self._plans: BoundedCache[tuple[int, Bucket], _Plan] = BoundedCache(most_remembered)

    def outage(self) -> Outage | None:
        """Returns how callers with limits are treated, if shared counters are unreachable now."""
        return self._counters.outage()

    async def admit(self, caller: Caller, bucket: Bucket, requests: int = 1) -> Admission:
        """Counts all `requests` in one step, or none of them.

        Raises: RateLimited, QuotaUnavailable, which cost nothing.
        """
        now = self._now()
        plan = self._plan(caller, bucket, now)
        claims = plan.requests + plan.days
        if requests > 1:
            claims = [_costing(claim, requests) for claim in plan.requests] + plan.days
        if not claims:
            return NOTHING_TAKEN
        counted = await self._counters.take(claims)
        counts = list(counted.counts)
        if (refused := counted.refused) is not None:
            hit = claims[refused].hit(counts[refused], now)
            headers = reply_headers(claims, counts, now)
            raise refusal(hit, claims[refused].cost, now, headers)
        return _Admission(self._counters, self._now, plan, claims, counts)

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        """Returns what `admit` and then `reserve(tokens)` would do now, without counting anything.

        Raises: QuotaUnavailable.
        """
        now = self._now()
        claims = request_claims(caller, bucket, now)
        if bucket != "count":
            claims += token_claims(caller, tokens, now)
        if not claims:
            return Outlook(None, None)
        counted = await self._counters.take(claims, dry=True)
        counts = counted.counts
        if (refused := counted.refused) is not None:
            hit = claims[refused].hit(counts[refused], now)
            headers = reply_headers(claims, counts, now)
            return Outlook(refusal(hit, claims[refused].cost, now, headers), hit)
        left = [
            claim.hit(count + claim.cost, now) for claim, count in zip(claims, counts, strict=True)
        ]
        return Outlook(None, min(left, key=lambda hit: hit.remaining / max(1, hit.limit)))

    def _plan(self, caller: Caller, bucket: Bucket, now: float) -> _Plan:
        """Returns the caller's plan, made once a minute; a caller is always the same object."""
        minute = int(now) // WINDOW_S
        known = self._plans.get((id(caller), bucket))
        if known is not None and known.caller is caller and known.minute == minute:
            return known
        plan = _Plan(
            caller,
            minute,
            request_claims(caller, bucket, now),
            [] if bucket == "count" else token_claims(caller, 0, now),
        )
        # The plan holds the caller, so that no other object can get its id.
        self._plans.put((id(caller), bucket), plan)
        return plan


def _costing(claim: Claim, cost: int) -> Claim:
    return Claim(claim.counter, claim.limit, cost, claim.reset_at)


class _Admission:
    """Counted requests. `counts` holds the count of each of `claims`."""

    __slots__ = (
        "_begun",
        "_claims",
        "_counters",
        "_counts",
        "_ended",
        "_now",
        "_plan",
        "_reserved",
    )

    def __init__(
        self, counters: Counters, now: Clock, plan: _Plan, claims: list[Claim], counts: list[int]
    ) -> None:
        self._counters = counters
        self._now = now
        self._plan = plan
        self._claims = claims
        self._counts = counts
        self._begun = False
        self._reserved = False
        self._ended = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The rate-limit headers of the reply, as of the last step."""
        return reply_headers(self._claims, self._counts, self._now())

    def check(self, tokens: int) -> None:
        """Checks that this many tokens of the day were left. Raises: RateLimited."""
        for claim, count in zip(self._claims, self._counts, strict=True):
            if claim.counter.kind == "tpd" and count + tokens > claim.limit:
                now = self._now()
                raise refusal(claim.hit(count, now), tokens, now, self.headers)

    def begin(self) -> None:
        """Marks that the work starts: from now on the request counts in its minute."""
        self._begun = True

    async def reserve(self, tokens: int) -> None:
        """Reserves `tokens` of the day. Raises: RateLimited, QuotaUnavailable."""
        days = self._plan.days
        if not days:
            return
        now = self._now()
        if int(now) // WINDOW_S == self._plan.minute:
            claims = [_costing(day, tokens) for day in days]
        else:
            claims = token_claims(self._plan.caller, tokens, now)
        try:
            counted = await self._counters.take(claims)
        except BaseException:
            await self.cancel()
            raise
        # Keep the newest counts; drop those of a day that has ended meanwhile.
        requests = len(self._plan.requests)
        self._claims = self._claims[:requests] + claims
        self._counts = [*self._counts[:requests], *counted.counts]
        if (refused := counted.refused) is not None:
            await self.cancel()
            hit = claims[refused].hit(counted.counts[refused], now)
            raise refusal(hit, tokens, now, self.headers)
        self._reserved = True

    def split(self, tokens: Sequence[int]) -> Sequence[Admission]:
        """Returns one admission for each request; they share the known counts."""
        self._ended = True
        requests = len(self._plan.requests)
        parts = []
        for part in tokens:
            claims = [_costing(claim, 1) for claim in self._claims[:requests]]
            claims += [
                _costing(claim, part if self._reserved else 0) for claim in self._claims[requests:]
            ]
            made = _Admission(self._counters, self._now, self._plan, claims, self._counts)
            made._begun, made._reserved = self._begun, self._reserved
            parts.append(made)
        return parts

    async def settle(self, tokens: int) -> None:
        """Records the tokens really used, on the day on which they were reserved."""
        self._end(tokens, request=0)

    async def cancel(self) -> None:
        """Releases everything, also the requests if no work was done for them."""
        self._end(0, request=0 if self._begun else -1)

    def _end(self, tokens: int, *, request: int) -> None:
        """Ends the reservation: records `tokens` of the day as used, and the requests of the minute
        unless `request` is -1.
        """
        if self._ended:
            return
        self._ended = True
        changes = []
        held = len(self._claims) if self._reserved else len(self._plan.requests)
        for index in range(held):
            claim = self._claims[index]
            counter = claim.counter
            kind = counter.kind
            if kind == "tpd":
                change = Change(counter, tokens, -claim.cost)
            elif kind == "concurrency":
                change = Change(counter, 0, -claim.cost)
            else:
                change = Change(counter, request * claim.cost, 0)
            moved = change.used + change.held
            self._counts[index] += moved
            if change.used or change.held:
                changes.append(change)
        self._counters.apply(changes)
