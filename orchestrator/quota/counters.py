"""What is counted, and the protocol of whoever counts it.

A counter has a part that is used for good and a part that is held by running requests. Requests a
minute are used at once, requests at the same time are held, tokens are held first and used later.
Counters of a minute or a day carry it in their identity, so whatever is settled or given back late
goes to the period that it was taken from and never becomes credit in a later one.
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
"""Nobody knows when a running request will end; this is when to ask again."""


class Counter(NamedTuple):
    """`period` is the bucket and the start of the minute, the UTC day, or nothing.

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
    """What is added to the two parts of a counter.

    A struct, as the next two, because several of them are made for each request.
    """

    counter: Counter
    used: int = 0
    held: int = 0


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Room for `cost` under `limit`. A cost of 0 only asks how much is taken.

    `reset_at` is Unix seconds, 0 where nobody knows.
    """

    counter: Counter
    limit: int
    cost: int
    reset_at: int

    @property
    def taken(self) -> Change:
        """What taking it does to the counter."""
        if self.counter.kind == "rpm":
            return Change(self.counter, used=self.cost)
        return Change(self.counter, held=self.cost)

    @property
    def given_back(self) -> Change:
        """The opposite of `taken`."""
        taken = self.taken
        return Change(self.counter, used=-taken.used, held=-taken.held)

    def hit(self, count: int, now: float) -> LimitHit:
        """This limit with `count` taken."""
        counter = self.counter
        remaining = max(0, self.limit - count)
        reset_at = self.reset_at or int(now) + CONCURRENCY_RETRY_S
        return LimitHit(counter.scope, counter.kind, self.limit, remaining, reset_at)


class Counted(msgspec.Struct, frozen=True):
    """`counts` has what is taken of each claim's counter, the claims themselves included if they
    were taken; `refused` is the index of the first claim without room.
    """

    refused: int | None
    counts: Sequence[int]


Outage = Literal["refusing", "sharing"]
"""While Redis is out of reach: callers with limits are refused, or workers grant their shares."""


class Counters(Protocol):
    """Counts for one process or for many."""

    async def take(self, claims: Sequence[Claim], *, dry: bool = False) -> Counted:
        """Takes all claims or none; `dry` takes none and tells what would be.

        Cancelled, it has taken nothing. Raises: QuotaUnavailable.
        """
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Ends what was taken. Returns without waiting for a disk or a network; never raises."""
        ...

    def outage(self) -> Outage | None:
        """What happens now, if what it counts in is out of reach."""
        ...


def utc_day(now: float) -> str:
    """The UTC day as `YYYYMMDD`."""
    return _day_name(int(now) // DAY_S)


def request_claims(caller: Caller, bucket: Bucket, now: float) -> list[Claim]:
    """One request: in the minute of its bucket, then among those at the same time.

    The same for the whole minute.
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
    """`tokens` of the present UTC day; the same for the whole day but for them."""
    reset_at = (int(now) // DAY_S + 1) * DAY_S
    return [
        Claim(Counter("tpd", scope, owner, utc_day(now)), limits.tpd, tokens, reset_at)
        for scope, owner, limits in _scopes(caller)
        if limits.tpd is not None
    ]


def is_past_minute(counter: Counter, now: float) -> bool:
    """Whether it counts a minute that nobody asks for any more."""
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
