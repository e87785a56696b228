"""What a client of Anthropic's messages sends. Source: Anthropic API reference, messages.

Members that are not listed are ignored: `cache_control`, `metadata`, `service_tier` and their like
change nothing about an answer that is made here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.core.errors import InvalidRequest


class TextBlock(msgspec.Struct):
    """A block of content. Only `text` can be taken where nothing else is said."""

    type: str
    text: str | None = None


class ShownBlock(TextBlock):
    """A block of which at least something can be said."""

    tool_name: str | None = None
    title: str | None = None
    source: Any = None


class ResultBlock(ShownBlock):
    """A block of a tool's result."""

    content: str | list[TextBlock] | None = None


class Block(ShownBlock):
    """A block of a turn, whatever its type: each type uses some of the members."""

    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[ResultBlock] | dict[str, Any] | None = None
    is_error: bool | None = None
    thinking: str | None = None


class TurnBody(msgspec.Struct):
    """One turn."""

    role: str
    content: str | list[Block]


class ToolBody(msgspec.Struct):
    """A tool. One with a type of its own has been defined by Anthropic."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoiceBody(msgspec.Struct):
    """Whether tools may, must or must not be used."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingBody(msgspec.Struct):
    """Whether the model is to think before it answers, and whether to show it."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct):
    """The shape of the answer."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct):
    """The shape of the answer and the effort to spend on it."""

    effort: str | None = None
    format: OutputFormat | None = None


class PromptFields(msgspec.Struct, kw_only=True):
    """What makes the prompt: all that a count of tokens needs."""

    model: str
    messages: list[TurnBody]
    system: str | list[TextBlock] | None = None
    tools: list[ToolBody] | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The older place of `output_config.format`."""
    mcp_servers: list[Any] | None = None


class CountBody(PromptFields, kw_only=True):
    """A request to count the tokens of a prompt."""


class MessagesBody(PromptFields, kw_only=True):
    """A request for a message."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    """Not Anthropic's."""


def required(name: str, value: str | None) -> str:
    """`value`, which must have been given. Raises: InvalidRequest."""
    if value is None:
        raise InvalidRequest(f"`{name}` is required.", param=name)
    return value
