"""Prompts and answers in the format of the conventions, for keys that allow it.

Source: OpenTelemetry semantic conventions 1.41.1, JSON schemas of GenAI input and output messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import orjson

from orchestrator.core.messages import Message, Part, ReasoningPart, TextPart, ToolCallPart
from orchestrator.core.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt


def input_messages(prompt: Prompt) -> str:
    """Returns the prompt as `gen_ai.input.messages`."""
    match prompt:
        case ChatPrompt():
            messages = [_message(message) for message in prompt.messages]
        case TextPrompt():
            messages = [_user(prompt.text)]
        case TokenPrompt():
            messages = [_user(f"{len(prompt.token_ids)} token ids")]
        case _:
            assert_never(prompt)
    return orjson.dumps(messages).decode()


def output_messages(parts: Sequence[Part], reason: str) -> str:
    """Returns an answer as `gen_ai.output.messages`."""
    message = {
        "role": "assistant",
        "parts": [_part(part) for part in parts],
        "finish_reason": reason,
    }
    return orjson.dumps([message]).decode()


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "parts": [{"type": "text", "content": text}]}


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        response = {"type": "tool_call_response", "id": message.tool_call_id}
        return {"role": "tool", "parts": [{**response, "response": message.text}]}
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "content": part.text}
        case ReasoningPart():
            return {"type": "reasoning", "content": part.text}
        case ToolCallPart():
            called = {"type": "tool_call", "id": part.id, "name": part.name}
            return {**called, "arguments": part.arguments}
        case _:
            # A kind that has no text, such as an image.
            return {"type": type(part).__name__}
