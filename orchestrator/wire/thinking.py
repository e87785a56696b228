"""How much a model is to think, where a dialect counts it in tokens."""

from __future__ import annotations

from orchestrator.core.request import ReasoningEffort

_LITTLE = 2048
_SOME = 8192


def effort_of_budget(tokens: int) -> ReasoningEffort:
    """The effort that comes closest to a budget of thinking tokens."""
    if tokens <= _LITTLE:
        return "low"
    return "medium" if tokens <= _SOME else "high"
