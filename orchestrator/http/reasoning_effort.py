"""How much a model is to think, where a dialect has no word for the effort."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.request import ReasoningEffort
from orchestrator.http.bodies import shown

_SWITCHES = ("enable_thinking", "thinking")
"""What chat templates call it: Qwen's the first, DeepSeek's and Granite's the second."""
_LITTLE = 2048
_SOME = 8192


def effort_of_budget(tokens: int) -> ReasoningEffort:
    """The effort that comes closest to a budget of thinking tokens."""
    if tokens <= _LITTLE:
        return "low"
    return "medium" if tokens <= _SOME else "high"


def thinking_switch(template_kwargs: Mapping[str, Any] | None) -> ReasoningEffort | None:
    """What the switch among vLLM's `chat_template_kwargs` asks for: some thinking, or none.

    Raises: InvalidRequest for one that is no truth value.
    """
    for name in _SWITCHES:
        value = (template_kwargs or {}).get(name)
        if value is None:
            continue
        if not isinstance(value, bool):
            where = f"chat_template_kwargs.{name}"
            raise InvalidRequest(
                f"`{where}` must be `true` or `false`; {shown(value)} was given.", param=where
            )
        return "medium" if value else "none"
    return None
