"""What Anthropic's replies look like, for `/openapi.json`; a test holds replies to it.

Nothing is encoded by these structs: replies are made where their values are.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class TextReply(msgspec.Struct, tag="text"):
    """A block of text."""

    text: str


class ThinkingReply(msgspec.Struct, tag="thinking"):
    """A block of thought."""

    thinking: str
    signature: str


class ToolUseReply(msgspec.Struct, tag="tool_use"):
    """A call that the model asks for."""

    id: str
    name: str
    input: dict[str, Any]


class OutputTokensDetails(msgspec.Struct):
    """Output tokens by what they were for."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct):
    """Token counts of a message; those read from a cache are not among the input tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class MessageReply(msgspec.Struct, tag="message"):
    """An answer."""

    id: str
    role: Literal["assistant"]
    model: str
    content: list[TextReply | ThinkingReply | ToolUseReply]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
    stop_sequence: str | None
    usage: MessageUsage


class TokensCount(msgspec.Struct):
    """The tokens of a prompt."""

    input_tokens: int


class ErrorDetails(msgspec.Struct):
    """The appliance's own word for an error."""

    error_code: str


class MessageError(msgspec.Struct):
    """What went wrong."""

    type: str
    message: str
    details: ErrorDetails


class MessageErrorReply(msgspec.Struct, tag="error"):
    """An error, and in a stream the last event of one that failed."""

    error: MessageError
    request_id: str
