"""Conversation values, free of any dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What a model thought before it answered; kept apart from the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call of a tool by the model. `arguments` is the JSON text as produced, valid or not."""

    id: str
    name: str
    arguments: str


Part = TextPart | ReasoningPart | ToolCallPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `tool_call_id` names the call that a `tool` message answers."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined as they stand."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]
