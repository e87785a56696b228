"""Records decisions: a sample of all, and every one that a candidate would change.

Requests do not wait for this. A request puts its decision into a queue of bounded length; when the
queue is full, the decision is counted as lost and the request goes on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.core.errors import PolicyUnavailable
from orchestrator.core.ids import new_id
from orchestrator.policy import Decision, PolicyInput, decisions
from orchestrator.policy.decisions import RecordedDecision
from orchestrator.policy.question import PolicyVersion, as_facts
from orchestrator.store.database import Database, StoreError

if TYPE_CHECKING:
    from orchestrator.policy.evaluator import Evaluator

logger = logging.getLogger(__name__)

_BATCH = 200
_PAUSE_S = 0.2
_RETRY_S = 1.0
_PRUNE_EVERY_S = 3600.0
_CLOSE_TIMEOUT_S = 5.0
_JUDGED_S = 5.0
"""Max seconds for which the candidates of one tenant may delay a batch."""

_Noted = tuple[PolicyInput, Decision, PolicyVersion | None, bool]


class Recorder:
    """Takes decisions, evaluates the candidate on them, and writes them in batches.

    `share` is the fraction of decisions to write, 0 to 1. Call `start` before use.
    """

    def __init__(
        self,
        database: Database,
        evaluator: Evaluator,
        *,
        share: float,
        keep_s: float,
        most_waiting: int,
    ) -> None:
        self._database = database
        self._evaluator = evaluator
        self._share = share
        self._keep_s = keep_s
        self._most_waiting = most_waiting
        self._waiting: deque[_Noted] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pruned_at = 0.0
        self._closing = False
        self.lost = 0

    def start(self) -> None:
        """Starts writing."""
        self._task = asyncio.create_task(self._work())

    def note(
        self, asked: PolicyInput, decision: Decision, shadow: PolicyVersion | None, at: float
    ) -> None:
        """Queues a decision made at `at`, in Unix seconds.

        Ignores it if it is not in the sample and there is no candidate to compare with.
        """
        sampled = self._share > 0 and random.random() < self._share
        if shadow is None and not sampled:
            return
        if len(self._waiting) >= self._most_waiting:
            self._count_lost(1, "too many wait")
            return
        self._waiting.append((replace(asked, at=at), decision, shadow, sampled))
        self._news.set()

    async def close(self) -> None:
        """Writes the waiting decisions if the store is reachable."""
        if self._task is None:
            return
        # Not cancelled: an interrupted batch might be written twice.
        self._closing = True
        self._news.set()
        await asyncio.wait({self._task}, timeout=_CLOSE_TIMEOUT_S)
        if not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self._waiting:
            logger.warning("%d recorded decisions are lost", len(self._waiting))

    async def _work(self) -> None:
        while self._waiting or not self._closing:
            await self._news.wait()
            if not self._closing:
                # A short wait collects more decisions for the same transaction.
                await asyncio.sleep(_PAUSE_S)
            batch = self._taken()
            try:
                await self._write(await self._judged(batch))
            except StoreError as error:
                logger.warning("decisions are not recorded yet: %s", error)
                self._waiting.extendleft(reversed(batch))
                self._news.set()
                if self._closing:
                    return
                await asyncio.sleep(_RETRY_S)
            except Exception:
                # A bad batch must not stop the recorder.
                logger.exception("%d decisions are not recorded", len(batch))

    def _taken(self) -> list[_Noted]:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        if not self._waiting:
            self._news.clear()
        else:
            self._news.set()
        return batch

    async def _judged(self, batch: Sequence[_Noted]) -> list[RecordedDecision]:
        """Returns the decisions to write: the sample, and those where the candidate differs.

        Tenants are evaluated concurrently, so that a slow candidate does not delay other tenants',
        and delays the batch only for a bounded time.
        """
        by_tenant: dict[str, list[_Noted]] = {}
        for noted in batch:
            by_tenant.setdefault(noted[0].tenant_id, []).append(noted)
        judged = await asyncio.gather(*(self._judged_of(ones) for ones in by_tenant.values()))
        return [record for records in judged for record in records]

    async def _judged_of(self, batch: Sequence[_Noted]) -> list[RecordedDecision]:
        """Does `_judged` for one tenant; decisions that its candidate is too slow for are lost."""
        found = []
        ends_at = time.monotonic() + _JUDGED_S
        for number, (asked, decision, shadow, sampled) in enumerate(batch):
            opinion = None
            if shadow is not None:
                if time.monotonic() > ends_at:
                    self._count_lost(len(batch) - number, "a candidate is too slow")
                    break
                try:
                    opinion = await self._evaluator.decide(shadow, asked)
                except PolicyUnavailable:
                    opinion = Decision(allow=False, rule="unavailable", version=shadow.version)
                # The evaluator may have answered without yielding; let requests run first.
                await asyncio.sleep(0)
            if sampled or (opinion is not None and differ(decision, opinion)):
                found.append(_record(asked, decision, opinion))
        return found

    def _count_lost(self, count: int, reason: str) -> None:
        """Logs a warning each time that the number of lost decisions has doubled."""
        before, self.lost = self.lost, self.lost + count
        if before.bit_length() != self.lost.bit_length():
            logger.warning("%d decisions could not be recorded: %s", self.lost, reason)

    async def _write(self, found: Sequence[RecordedDecision]) -> None:
        now = time.time()
        prunes = now - self._pruned_at > _PRUNE_EVERY_S
        if not found and not prunes:
            return
        async with self._database.unit_of_work() as session:
            if found:
                await decisions.add(session, found)
            if prunes:
                await decisions.prune(session, int((now - self._keep_s) * 1000))
        if prunes:
            self._pruned_at = now


def differ(one: Decision, other: Decision) -> bool:
    """Whether the decisions differ for a caller: in answer, rule, or routes."""
    return (one.allow, one.rule, one.routes) != (other.allow, other.rule, other.routes)


def _record(asked: PolicyInput, decision: Decision, opinion: Decision | None) -> RecordedDecision:
    assert asked.at is not None
    return RecordedDecision(
        id=new_id("dec"),
        at=int(asked.at * 1000),
        tenant_id=asked.tenant_id,
        key_id=asked.key_id,
        policy_id=decision.policy_id,
        version=decision.version,
        facts=as_facts(asked),
        allow=decision.allow,
        rule=decision.rule,
        reason=decision.reason,
        shadow_version=None if opinion is None else opinion.version,
        shadow_allow=None if opinion is None else opinion.allow,
        shadow_rule=None if opinion is None else opinion.rule,
    )
