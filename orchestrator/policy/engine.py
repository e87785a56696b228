"""The policy stage: an evaluator applies the policy in force; the recorder stores the decision."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from orchestrator.core.caches import BoundedCache
from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.evaluator import Evaluator
from orchestrator.policy.in_force import Policies
from orchestrator.policy.question import PolicyVersion, version_of
from orchestrator.policy.recorder import Recorder
from orchestrator.telemetry.instruments import Tally

_OPEN = version_of("pol_check", 0, {}, None)
"""The policy of a new tenant: it adds no restriction to what keys allow."""
_MAX_REMEMBERED = 20_000


class RegoPolicies:
    """A `PolicyEngine` over the policies of the store."""

    def __init__(
        self,
        policies: Policies,
        evaluator: Evaluator,
        recorder: Recorder | None = None,
        *,
        now: Callable[[], float] = time.time,
        tally: Tally | None = None,
        most_remembered: int = _MAX_REMEMBERED,
    ) -> None:
        """`tally` is that of the evaluator's cache."""
        self.tally = tally or Tally()
        self._policies = policies
        self._evaluator = evaluator
        self._recorder = recorder
        self._now = now
        # By the id of the question; the cache holds it too, so that no other object gets its id.
        self._constant: BoundedCache[int, tuple[PolicyInput, PolicyVersion, Decision]]
        self._constant = BoundedCache(most_remembered)

    async def decide(self, asked: PolicyInput) -> Decision:
        """Returns the decision of the policy in force. Raises: PolicyUnavailable."""
        found = await self._policies.find(asked.tenant_id, asked.policy_id)
        if (active := found.active) is None:
            return Decision(
                allow=False,
                rule="policy_missing",
                reason=f"The policy of key '{asked.key_label}' does not exist any more.",
                policy_id=asked.policy_id,
                routes=(),
            )
        if asked.at is not None:
            return await self._evaluator.decide(active, asked)
        known = self._constant.get(id(asked))
        if known is not None and known[1] is active:
            self.tally.hits += 1
            decision = known[2]
        else:
            decision = await self._decided_now(active, asked)
        if self._recorder is not None:
            self._recorder.note(asked, decision, found.shadow, self._now())
        return decision

    async def _decided_now(self, version: PolicyVersion, asked: PolicyInput) -> Decision:
        decision = await self._evaluator.decide(version, replace(asked, at=self._now()))
        if self._evaluator.is_constant(version):
            self._constant.put(id(asked), (asked, version, decision))
        return decision

    async def check(self) -> None:
        """Evaluates a test question that is not recorded. Raises: PolicyUnavailable."""
        await evaluate_open(self._evaluator, self._now())

    def forget(self, tenant_id: str, policy_id: str) -> None:
        """Drops the cached policy, so that a change applies from the next request on."""
        self._policies.forget(tenant_id, policy_id)
        self._evaluator.forget(tenant_id, policy_id)

    def problems(self) -> Sequence[str]:
        """Returns the versions that cannot be evaluated."""
        return self._evaluator.problems()

    async def close(self) -> None:
        """Writes the waiting decisions and releases everything."""
        if self._recorder is not None:
            await self._recorder.close()
        await self._policies.close()
        await self._evaluator.close()


async def evaluate_open(evaluator: Evaluator, now: float) -> None:
    """Evaluates a policy that allows all, to see that the evaluator works.

    Raises: PolicyUnavailable.
    """
    asked = PolicyInput("check", "check", "check", "generate", "local-only", at=now)
    await evaluator.decide(_OPEN, asked)
