"""Derives the reasoning effort where a dialect has no parameter for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.request import ReasoningEffort
from orchestrator.http.bodies import shown

_SWITCHES = ("enable_thinking", "thinking")
"""Names of the switch in chat templates: Qwen has the first, DeepSeek and Granite the second."""
_LITTLE = 2048
_SOME = 8192


def effort_of_budget(tokens: int) -> ReasoningEffort:
    """The effort that is closest to a budget of thinking tokens."""
    if tokens <= _LITTLE:
        return "low"
    return "medium" if tokens <= _SOME else "high"


def thinking_switch(template_kwargs: Mapping[str, Any] | None) -> ReasoningEffort | None:
    """The effort for the thinking switch in vLLM's `chat_template_kwargs`; `None` without it.

    Raises: InvalidRequest if the switch is not a boolean.
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
