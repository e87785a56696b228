"""How much a key may use: the protocol of a quota, and the one without limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.errors import RateLimited
from orchestrator.core.limits import Bucket, LimitHit, Limits


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose budgets are used: the key's own and its tenant's, both must have room."""

    key_id: str
    tenant_id: str
    key_limits: Limits
    tenant_limits: Limits


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request would meet if it came now.

    `refusal` is the error it would get, `first` the limit with the smallest share left after it,
    `None` where there is none.
    """

    refusal: RateLimited | None
    first: LimitHit | None


class Admission(Protocol):
    """Requests of one call that were counted together: all or none. Mostly it is one.

    Ends exactly once: in `settle`, in `cancel`, or in `split`, whose parts end in its place. A
    request that is refused before any work was done for it costs nothing. Once its prompt has been
    worked on (`begin`) it has used its place in the minute, however it ends.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """The rate-limit headers of the reply, as of the last step."""
        ...

    def check(self, tokens: int) -> None:
        """Whether as many as `tokens` were left when it was counted; waits for nothing.

        Raises: RateLimited. The request still has to be ended.
        """
        ...

    def begin(self) -> None:
        """The work on its prompt begins. May be called in any thread. Idempotent."""
        ...

    async def reserve(self, tokens: int) -> None:
        """Takes `tokens`, the most that all its requests can cost, in one step.

        Raises: RateLimited, QuotaUnavailable; whatever is raised, the request has ended as by
        `cancel`.
        """
        ...

    def split(self, tokens: Sequence[int]) -> Sequence[Admission]:
        """An admission for each of its requests, with the part of its reservation in `tokens`.

        They add up to what was reserved. Takes and returns nothing.
        """
        ...

    async def settle(self, tokens: int) -> None:
        """Books what was really used, and gives the rest of the reservation back."""
        ...

    async def cancel(self) -> None:
        """Gives everything back: it was refused, or failed before its engine was asked.

        The place in the minute too, unless the work on its prompt had begun.
        """
        ...


class Quota(Protocol):
    """Takes before the work, settles after it."""

    async def admit(self, caller: Caller, bucket: Bucket, requests: int = 1) -> Admission:
        """Counts `requests` in one step, or none of them.

        Raises: RateLimited, QuotaUnavailable, which cost nothing.
        """
        ...

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        """What `admit` and then `reserve(tokens)` would do now; nothing is spent.

        Raises: QuotaUnavailable.
        """
        ...


class Unlimited:
    """Takes nothing and refuses nobody."""

    async def admit(self, caller: Caller, bucket: Bucket, requests: int = 1) -> Admission:
        """An admission without a budget."""
        del caller, bucket, requests
        return NOTHING_TAKEN

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        """No refusal and no limit."""
        del caller, bucket, tokens
        return Outlook(None, None)


class _Nothing:
    """The admission of a caller without limits."""

    __slots__ = ()

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    def check(self, tokens: int) -> None:
        del tokens

    def begin(self) -> None:
        return

    async def reserve(self, tokens: int) -> None:
        del tokens

    def split(self, tokens: Sequence[int]) -> Sequence[Admission]:
        return [self] * len(tokens)

    async def settle(self, tokens: int) -> None:
        del tokens

    async def cancel(self) -> None:
        return


NOTHING_TAKEN: Admission = _Nothing()
