"""The protocol of policy evaluators: the embedded one and OPA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.question import PolicyVersion


class Evaluator(Protocol):
    """Runs the rules of one version of a policy."""

    async def decide(self, version: PolicyVersion, asked: PolicyInput) -> Decision:
        """Returns the decision; `asked.at` must be set. Raises: PolicyUnavailable."""
        ...

    def is_constant(self, version: PolicyVersion) -> bool:
        """Whether `version` always decides the same for the same facts, at any time."""
        ...

    def problems(self) -> Sequence[str]:
        """Returns what it cannot evaluate, by policy and version; other policies still work."""
        ...

    def forget(self, tenant_id: str, policy_id: str) -> None:
        """Drops the faults of a changed policy, so that it is evaluated again."""
        ...

    async def close(self) -> None:
        """Releases its resources."""
        ...
