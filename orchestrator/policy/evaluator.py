"""What evaluates a policy: the protocol of the embedded evaluator and of OPA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.question import PolicyVersion


class Evaluator(Protocol):
    """Runs the rules of one version of a policy."""

    async def decide(self, version: PolicyVersion, asked: PolicyInput) -> Decision:
        """The decision; `asked.at` is set. Raises: PolicyUnavailable."""
        ...

    def is_constant(self, version: PolicyVersion) -> bool:
        """Whether `version` always decides the same about the same facts, whatever the time is."""
        ...

    def problems(self) -> Sequence[str]:
        """What it cannot evaluate, by policy and version; requests of other policies go on."""
        ...

    def forget(self, tenant_id: str, policy_id: str) -> None:
        """Evaluates a policy that was changed again, whatever happened before."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds."""
        ...
