"""The policies in force: read from the store, cached, and read again within a second.

A request does not wait for the store while the cached policy is fresh. While the store is
unreachable, the last known version stays in force; a policy that was never read refuses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.caches import remember
from orchestrator.core.errors import InvalidRequest
from orchestrator.policy import queries as policy_queries
from orchestrator.policy.question import PolicyVersion, version_of
from orchestrator.policy.verdict import unavailable
from orchestrator.store.database import Database, StoreError

logger = logging.getLogger(__name__)

_REFRESH_SHARE = 0.5
"""After this share of the time that an answer is fresh, it is read again in the background."""
_MAX_KNOWN = 10_000
_RETRY_S = 0.5

Name = tuple[str, str]
"""Ids of tenant and policy."""


@dataclass(slots=True)
class InForce:
    """A policy as it is now: `active` is `None` when the tenant has no such policy."""

    active: PolicyVersion | None
    shadow: PolicyVersion | None
    checked_at: float


class Policies:
    """A cache of the store's policies, at most `fresh_s` old while the store is reachable."""

    def __init__(
        self,
        database: Database,
        *,
        fresh_s: float,
        timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._fresh_s = fresh_s
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._known: dict[Name, InForce] = {}
        self._asking: dict[Name, asyncio.Task[InForce]] = {}
        self._down = False
        self._retry_at = 0.0

    async def find(self, tenant_id: str, policy_id: str) -> InForce:
        """Returns the current policy. Raises: PolicyUnavailable when that was never known."""
        name = (tenant_id, policy_id)
        known = self._known.get(name)
        now = self._monotonic()
        if known is not None:
            age_s = now - known.checked_at
            if age_s < self._fresh_s * _REFRESH_SHARE:
                return known
            if age_s < self._fresh_s:
                self._ask(name)
                return known
        if self._down and now < self._retry_at:
            return _or_unavailable(known)
        asking = self._ask(name)
        if not (self._down and known is not None):
            await asyncio.wait({asking}, timeout=self._timeout_s)
            if asking.done() and not asking.cancelled() and asking.exception() is None:
                return asking.result()
            if not asking.done():
                self._failed(f"no answer within {self._timeout_s:g} s")
        return _or_unavailable(known)

    def forget(self, tenant_id: str, policy_id: str) -> None:
        """Makes the next decision read the changed policy from the store again."""
        name = (tenant_id, policy_id)
        # A read that is still running may be from before the change.
        self._asking.pop(name, None)
        if (known := self._known.get(name)) is not None:
            known.checked_at = float("-inf")
        self._retry_at = 0.0

    async def close(self) -> None:
        """Waits for the running reads."""
        while self._asking:
            await asyncio.wait(list(self._asking.values()))

    def _ask(self, name: Name) -> asyncio.Task[InForce]:
        """Returns the running read; concurrent requests for the same policy share it."""
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._read(name))
            task.add_done_callback(lambda done: self._answered(name, done))
        return task

    def _answered(self, name: Name, task: asyncio.Task[InForce]) -> None:
        current = self._asking.get(name) is task
        if current:
            del self._asking[name]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            if isinstance(error, StoreError):
                self._failed(str(error))
            else:
                logger.error("policy %s cannot be read: %s", name[1], error)
            return
        if self._down:
            logger.warning("the store of policies answers again")
            self._down = False
        if current:
            remember(self._known, name, task.result(), _MAX_KNOWN)

    async def _read(self, name: Name) -> InForce:
        """Raises: StoreError, and InvalidRequest for a version that this program cannot read."""
        asked_at = self._monotonic()
        known = self._known.get(name)
        async with self._database.reading() as session:
            head = await policy_queries.head(session, *name)
            if head is None:
                return InForce(None, None, asked_at)
            found: list[PolicyVersion | None] = []
            for number in (head.active, head.candidate):
                found.append(None if number is None else _same(known, number))
                if number is not None and found[-1] is None:
                    written = await policy_queries.version(session, *name, number)
                    if written is None:
                        raise InvalidRequest(f"version {number} is missing")
                    found[-1] = version_of(name[1], number, written.document, written.module)
        return InForce(found[0], found[1], asked_at)

    def _failed(self, reason: str) -> None:
        if not self._down:
            logger.warning("policies cannot be read, the last known stay in force: %s", reason)
        self._down = True
        self._retry_at = self._monotonic() + _RETRY_S


def _same(known: InForce | None, number: int) -> PolicyVersion | None:
    """Returns the version of that number, if it is cached: versions never change."""
    if known is None:
        return None
    for version in (known.active, known.shadow):
        if version is not None and version.version == number:
            return version
    return None


def _or_unavailable(known: InForce | None) -> InForce:
    if known is None:
        raise unavailable()
    return known
