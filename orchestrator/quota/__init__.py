"""How much a key may use: the protocol of a quota, and one without limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.errors import RateLimited
from orchestrator.core.limits import Bucket, LimitHit, Limits


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of the budgets: the key and its tenant; both must have room."""

    key_id: str
    tenant_id: str
    key_limits: Limits
    tenant_limits: Limits


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would happen to a request now.

    `refusal` is the error it would get, `first` the limit with the smallest share left after it,
    `None` where there is none.
    """

    refusal: RateLimited | None
    first: LimitHit | None


class Admission(Protocol):
    """Requests of one call, counted together: all or none. Usually there is one.

    It ends exactly once: in `settle`, in `cancel`, or in `split`, whose parts then end instead. A
    request that is refused before any work was done for it costs nothing. Once the work on its
    prompt has started (`begin`), it counts as a request of its minute, however it ends.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """The rate-limit headers of the reply, as of the last step."""
        ...

    def check(self, tokens: int) -> None:
        """Checks that at least `tokens` were left when the request was counted. Does not wait.

        Raises: RateLimited. The caller must still end the request.
        """
        ...

    def begin(self) -> None:
        """Marks that the work on its prompt starts. May be called in any thread. Idempotent."""
        ...

    async def reserve(self, tokens: int) -> None:
        """Reserves `tokens`, the max cost of all its requests, in one step.

        Raises: RateLimited, QuotaUnavailable; whatever is raised, the request has ended as by
        `cancel`.
        """
        ...

    def split(self, tokens: Sequence[int]) -> Sequence[Admission]:
        """Returns one admission for each of its requests, each with its part of the reservation.

        `tokens` are the parts; their sum is the reservation. The counters do not change.
        """
        ...

    async def settle(self, tokens: int) -> None:
        """Records the tokens really used, and releases the rest of the reservation."""
        ...

    async def cancel(self) -> None:
        """Releases everything: the request was refused, or failed before its engine was asked.

        This includes its count in the minute, unless the work on its prompt had started.
        """
        ...


class Quota(Protocol):
    """Reserves before the work and settles after it."""

    async def admit(self, caller: Caller, bucket: Bucket, requests: int = 1) -> Admission:
        """Counts all `requests` in one step, or none of them.

        Raises: RateLimited, QuotaUnavailable, which cost nothing.
        """
        ...

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        """Returns what `admit` and then `reserve(tokens)` would do now, without counting anything.

        Raises: QuotaUnavailable.
        """
        ...


class Unlimited:
    """A quota that counts nothing and refuses no caller."""

    async def admit(self, caller: Caller, bucket: Bucket, requests: int = 1) -> Admission:
        """Returns an admission without a budget."""
        del caller, bucket, requests
        return NOTHING_TAKEN

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        """Returns no refusal and no limit."""
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
