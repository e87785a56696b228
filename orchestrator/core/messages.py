"""The values of a conversation, independent of any dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from orchestrator.core.value import value

Role = Literal["system", "developer", "user", "assistant", "tool"]


@value
class TextPart:
    """Text of a message."""

    text: str


@value
class ReasoningPart:
    """What a model thought before it answered, separate from the answer."""

    text: str


@value
class ToolCallPart:
    """A call of a tool by the model. `arguments` is the JSON text as produced, valid or not."""

    id: str
    name: str
    arguments: str


Part = TextPart | ReasoningPart | ToolCallPart


@value
class Message:
    """One turn. `tool_call_id` names the call that a `tool` message answers."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined without a separator."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@value
class Tool:
    """A function that the model may call. `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]
