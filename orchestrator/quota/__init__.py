"""How much a key may use: the protocol of a quota, and the one without limits."""

from __future__ import annotations

from collections.abc import Mapping
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
    """One request that was counted. Ends exactly once, in `settle` or in `cancel`."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The rate-limit headers of the reply, as of the last step."""
        ...

    async def reserve(self, tokens: int) -> None:
        """Takes `tokens`, the most that the request can cost.

        Raises: RateLimited, QuotaUnavailable; whatever is raised, the request itself is given back
        by then, and nothing is left to end.
        """
        ...

    async def settle(self, tokens: int) -> None:
        """Books what was really used, and gives the rest of the reservation back."""
        ...

    async def cancel(self) -> None:
        """Gives everything back, the request too: it was refused, or failed before any work."""
        ...


class Quota(Protocol):
    """Takes before the work, settles after it."""

    async def admit(self, caller: Caller, bucket: Bucket) -> Admission:
        """Counts one request. Raises: RateLimited, QuotaUnavailable, which cost nothing."""
        ...

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        """What `admit` and then `reserve(tokens)` would do now; nothing is spent.

        Raises: QuotaUnavailable.
        """
        ...


class Unlimited:
    """Takes nothing and refuses nobody."""

    async def admit(self, caller: Caller, bucket: Bucket) -> Admission:
        """An admission without a budget."""
        del caller, bucket
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

    async def reserve(self, tokens: int) -> None:
        del tokens

    async def settle(self, tokens: int) -> None:
        del tokens

    async def cancel(self) -> None:
        return


NOTHING_TAKEN: Admission = _Nothing()
