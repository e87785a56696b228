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
    """What one request of `caller` claims in the minute `minute`.

    `days` are its budgets of tokens at a cost of 0: they are asked for together with the request,
    so that the headers need no question of their own.
    """

    caller: Caller
    minute: int
    requests: list[Claim]
    days: list[Claim]


class Limiter:
    """Key and tenant must both have room; a caller without limits costs nothing at all."""

    def __init__(
        self, counters: Counters, *, now: Clock = time.time, most_remembered: int = _MAX_PLANS
    ) -> None:
        self._counters = counters
        self._now = now
        self._plans: BoundedCache[tuple[int, Bucket], _Plan] = BoundedCache(most_remembered)

    def outage(self) -> Outage | None:
        """What becomes of callers with limits, if limits cannot be counted together now."""
        return self._counters.outage()

    async def admit(self, caller: Caller, bucket: Bucket, requests: int = 1) -> Admission:
        """Counts `requests` in one step, or none of them.

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
        """What `admit` and then `reserve(tokens)` would do now; nothing is spent.

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
        """Made once a minute for each caller, who is the same object from request to request."""
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
        # It keeps the caller, so that its id is nobody else's meanwhile.
        self._plans.put((id(caller), bucket), plan)
        return plan


def _costing(claim: Claim, cost: int) -> Claim:
    return Claim(claim.counter, claim.limit, cost, claim.reset_at)


class _Admission:
    """Requests that were counted. `counts` has what is taken of each of `claims`."""

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
        """Whether so many tokens of the day were left. Raises: RateLimited."""
        for claim, count in zip(self._claims, self._counts, strict=True):
            if claim.counter.kind == "tpd" and count + tokens > claim.limit:
                now = self._now()
                raise refusal(claim.hit(count, now), tokens, now, self.headers)

    def begin(self) -> None:
        """The work begins: from now on the place in the minute is used."""
        self._begun = True

    async def reserve(self, tokens: int) -> None:
        """Takes `tokens` of the day. Raises: RateLimited, QuotaUnavailable."""
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
        # The newest counts; those of a day that has ended since go.
        requests = len(self._plan.requests)
        self._claims = self._claims[:requests] + claims
        self._counts = [*self._counts[:requests], *counted.counts]
        if (refused := counted.refused) is not None:
            await self.cancel()
            hit = claims[refused].hit(counted.counts[refused], now)
            raise refusal(hit, tokens, now, self.headers)
        self._reserved = True

    def split(self, tokens: Sequence[int]) -> Sequence[Admission]:
        """One for each of the requests, which share what is known of the counts."""
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
        """Books what was really used on the day that it was reserved on."""
        self._end(tokens, request=0)

    async def cancel(self) -> None:
        """Gives everything back, the requests too where no work was done for them."""
        self._end(0, request=0 if self._begun else -1)

    def _end(self, tokens: int, *, request: int) -> None:
        """Ends what is held: `tokens` of the day are used for good, and the requests of the minute
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
