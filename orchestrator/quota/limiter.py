"""The quota with limits: counts requests, reserves tokens, settles them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from orchestrator.core.limits import Bucket, LimitHit
from orchestrator.quota import NOTHING_TAKEN, Admission, Caller, Outlook
from orchestrator.quota.counters import (
    Change,
    Claim,
    Counted,
    Counters,
    Outage,
    request_claims,
    token_claims,
)
from orchestrator.quota.replies import refusal, reply_headers

Clock = Callable[[], float]


class Limiter:
    """Key and tenant must both have room; a caller without limits costs nothing at all."""

    def __init__(self, counters: Counters, *, now: Clock = time.time) -> None:
        self._counters = counters
        self._now = now

    def outage(self) -> Outage | None:
        """What becomes of callers with limits, if limits cannot be counted together now."""
        return self._counters.outage()

    async def admit(self, caller: Caller, bucket: Bucket) -> Admission:
        """Counts one request. Raises: RateLimited, QuotaUnavailable, which cost nothing."""
        now = self._now()
        requests = request_claims(caller, bucket, now)
        # Asked for together with the request, so that the headers need no question of their own.
        tokens = token_claims(caller, 0, now)
        if not requests and not tokens:
            return NOTHING_TAKEN
        claims = requests + tokens
        counted = await self._counters.take(claims)
        admission = _Admission(self._counters, self._now, caller, requests, claims, counted)
        if counted.refused is not None:
            hit = claims[counted.refused].hit(counted.counts[counted.refused])
            raise refusal(hit, 1, now, admission.headers)
        return admission

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        """What `admit` and then `reserve(tokens)` would do now; nothing is spent.

        Raises: QuotaUnavailable.
        """
        now = self._now()
        claims = request_claims(caller, bucket, now) + token_claims(caller, tokens, now)
        if not claims:
            return Outlook(None, None)
        counted = await self._counters.take(claims, dry=True)
        hits = _hits(claims, counted.counts)
        if counted.refused is not None:
            claim, hit = claims[counted.refused], hits[counted.refused]
            headers = reply_headers(hits, now)
            return Outlook(refusal(hit, claim.cost, now, headers), hit)
        left = [
            claim.hit(count + claim.cost)
            for claim, count in zip(claims, counted.counts, strict=True)
        ]
        return Outlook(None, min(left, key=lambda hit: hit.remaining / max(1, hit.limit)))


class _Admission:
    """One request that was counted."""

    __slots__ = ("_caller", "_claims", "_counters", "_counts", "_ended", "_held", "_now")

    def __init__(
        self,
        counters: Counters,
        now: Clock,
        caller: Caller,
        held: Sequence[Claim],
        claims: Sequence[Claim],
        counted: Counted,
    ) -> None:
        self._counters = counters
        self._now = now
        self._caller = caller
        self._held = list(held)
        self._claims = {claim.counter: claim for claim in claims}
        counts = zip(claims, counted.counts, strict=True)
        self._counts = {claim.counter: count for claim, count in counts}
        self._ended = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The rate-limit headers of the reply, as of the last step."""
        hits = [self._claims[counter].hit(count) for counter, count in self._counts.items()]
        return reply_headers(hits, self._now())

    async def reserve(self, tokens: int) -> None:
        """Takes `tokens` of the day. Raises: RateLimited, QuotaUnavailable."""
        now = self._now()
        claims = token_claims(self._caller, tokens, now)
        if not claims:
            return
        try:
            counted = await self._counters.take(claims)
        except BaseException:
            await self.cancel()
            raise
        self._show(claims, counted.counts)
        if counted.refused is not None:
            await self.cancel()
            hit = claims[counted.refused].hit(counted.counts[counted.refused])
            raise refusal(hit, tokens, now, self.headers)
        self._held += claims

    async def settle(self, tokens: int) -> None:
        """Books what was really used on the day that it was reserved on."""
        await self._end(lambda claim: claim.settled(tokens))

    async def cancel(self) -> None:
        """Gives everything back, the request too."""
        await self._end(lambda claim: claim.given_back)

    async def _end(self, change_of: Callable[[Claim], Change]) -> None:
        if self._ended:
            return
        self._ended = True
        changes = [change_of(claim) for claim in self._held]
        for change in changes:
            if change.counter in self._counts:
                self._counts[change.counter] += change.used + change.held
        await self._counters.apply([change for change in changes if change.used or change.held])

    def _show(self, claims: Sequence[Claim], counts: Sequence[int]) -> None:
        """Takes the newest counts over; those of a day that has ended since go."""
        for counter in [counter for counter in self._counts if counter.kind == "tpd"]:
            del self._counts[counter]
        for claim, count in zip(claims, counts, strict=True):
            self._claims[claim.counter] = claim
            self._counts[claim.counter] = count


def _hits(claims: Sequence[Claim], counts: Sequence[int]) -> list[LimitHit]:
    return [claim.hit(count) for claim, count in zip(claims, counts, strict=True)]
