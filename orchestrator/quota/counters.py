"""What is counted, and the protocol of a store of counters.

A counter has a part that is used for good and a part that running requests hold. Requests per
minute are used at once, concurrent requests are held, tokens are held first and used later.
The minute or day is part of a counter's identity. So a late settlement or release goes to the
period that it was taken from, and never becomes credit in a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import msgspec

from orchestrator.core.limits import COUNTS_FOR_ONE, Bucket, LimitHit, Limits
from orchestrator.quota import Caller

Kind = Literal["rpm", "tpd", "concurrency"]
ScopeName = Literal["key", "tenant"]

WINDOW_S = 60
DAY_S = 86_400
CONCURRENCY_RETRY_S = 1
"""When to retry after the limit of concurrent requests: their end is not known."""


class Counter(NamedTuple):
    """The identity of a counter.

    `period` is the bucket and the start of the minute, the UTC day, or empty.
    A tuple, because it is hashed a dozen times for each request.
    """

    kind: Kind
    scope: ScopeName
    owner: str
    period: str

    @property
    def name(self) -> str:
        """The same in every process."""
        return f"{self.kind}:{self.scope}:{self.owner}:{self.period}"


class Change(msgspec.Struct, frozen=True, gc=False):
    """An addition to the two parts of a counter.

    A struct, like the next two, because several of them are made for each request.
    """

    counter: Counter
    used: int = 0
    held: int = 0


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A request for `cost` under `limit`. A cost of 0 only reads the count.

    `reset_at` is in Unix seconds, 0 if unknown.
    """

    counter: Counter
    limit: int
    cost: int
    reset_at: int

    @property
    def taken(self) -> Change:
        """The change of the counter when the claim is taken."""
        if self.counter.kind == "rpm":
            return Change(self.counter, used=self.cost)
        return Change(self.counter, held=self.cost)

    @property
    def given_back(self) -> Change:
        """The opposite of `taken`."""
        taken = self.taken
        return Change(self.counter, used=-taken.used, held=-taken.held)

    def hit(self, count: int, now: float) -> LimitHit:
        """Describes this limit with `count` taken."""
        counter = self.counter
        remaining = max(0, self.limit - count)
        reset_at = self.reset_at or int(now) + CONCURRENCY_RETRY_S
        return LimitHit(counter.scope, counter.kind, self.limit, remaining, reset_at)


class Counted(msgspec.Struct, frozen=True):
    """The result of a step. `refused` is the index of the first claim without room.

    `counts` holds the count of each claim's counter, including the claims if they were taken.
    """

    refused: int | None
    counts: Sequence[int]


Outage = Literal["refusing", "sharing"]
"""While Redis is unreachable: callers with limits are refused, or workers grant their shares."""


class Counters(Protocol):
    """Counts for one process or for several."""

    async def take(self, claims: Sequence[Claim], *, dry: bool = False) -> Counted:
        """Takes all claims or none; `dry` takes none and returns what would happen.

        If cancelled, it has taken nothing. Raises: QuotaUnavailable.
        """
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Settles or releases claims. Does not wait for a disk or a network; never raises."""
        ...

    def outage(self) -> Outage | None:
        """Returns how callers are treated now, if the store of the counters is unreachable."""
        ...


def utc_day(now: float) -> str:
    """Returns the UTC day as `YYYYMMDD`."""
    return _day_name(int(now) // DAY_S)


def request_claims(caller: Caller, bucket: Bucket, now: float) -> list[Claim]:
    """Returns the claims of one request: in the minute of its bucket, then of concurrent requests.

    They are the same for the whole minute.
    """
    start = int(now) // WINDOW_S * WINDOW_S
    period, claims = f"{bucket}:{start}", []
    for scope, owner, limits in _scopes(caller):
        limit = _per_minute(limits, bucket)
        if limit is not None:
            counter = Counter("rpm", scope, owner, period)
            claims.append(Claim(counter, limit, 1, start + WINDOW_S))
    for scope, owner, limits in _scopes(caller) if bucket != "count" else ():
        if limits.concurrency is not None:
            counter = Counter("concurrency", scope, owner, "")
            claims.append(Claim(counter, limits.concurrency, 1, 0))
    return claims


def token_claims(caller: Caller, tokens: int, now: float) -> list[Claim]:
    """Returns the claims of `tokens` in the present UTC day; only the cost varies in a day."""
    reset_at = (int(now) // DAY_S + 1) * DAY_S
    return [
        Claim(Counter("tpd", scope, owner, utc_day(now)), limits.tpd, tokens, reset_at)
        for scope, owner, limits in _scopes(caller)
        if limits.tpd is not None
    ]


def is_past_minute(counter: Counter, now: float) -> bool:
    """Whether it counts a minute that no request uses any more."""
    if counter.kind != "rpm":
        return False
    return int(counter.period.rpartition(":")[2]) + 2 * WINDOW_S < now


def _scopes(caller: Caller) -> tuple[tuple[ScopeName, str, Limits], ...]:
    return (
        ("key", caller.key_id, caller.key_limits),
        ("tenant", caller.tenant_id, caller.tenant_limits),
    )


def _per_minute(limits: Limits, bucket: Bucket) -> int | None:
    if bucket == "count":
        return None if limits.rpm is None else limits.rpm * COUNTS_FOR_ONE
    return limits.rpm if bucket == "chat" else limits.images_rpm


@lru_cache(maxsize=4)
def _day_name(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_S, UTC).strftime("%Y%m%d")
