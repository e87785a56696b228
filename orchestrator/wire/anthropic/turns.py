"""Turns of Anthropic's messages as messages. Source: Anthropic API reference, messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, Part, ReasoningPart, Role, TextPart, ToolCallPart
from orchestrator.http.bodies import json_text, shown
from orchestrator.http.text_only import NotText, instead_of
from orchestrator.wire.anthropic.request import (
    Block,
    ResultBlock,
    ShownBlock,
    TextBlock,
    TurnBody,
    required,
)

_ROLES: tuple[Role, ...] = ("user", "assistant", "system")
_ELSEWHERE = ("server_tool_use", "mcp_tool_use", "container_upload", "fallback")
"""With the results of those tools: what Anthropic's servers did for another model."""


def joined(messages: list[Message]) -> tuple[Message, ...]:
    """Turns of one role that follow each other are one turn, as Anthropic takes them."""
    # A turn's parts are collected in its list: a hundred thousand turns may become one.
    joined: list[tuple[Message, list[Part]]] = []
    has_text = False
    for message in messages:
        speaks = message.role in ("user", "assistant")
        if speaks and joined and joined[-1][0].role == message.role:
            parts, says = joined[-1][1], bool(message.text)
            if has_text and says:
                parts.append(TextPart("\n\n"))
            parts += message.parts
            has_text = has_text or says
        else:
            joined.append((message, list(message.parts)))
            has_text = bool(message.text)
    return tuple(replace(message, parts=tuple(parts)) for message, parts in joined)


def read_turn(where: str, turn: TurnBody) -> list[Message]:
    """The messages of a turn, each result of a tool one of its own. Raises: InvalidRequest."""
    match turn.role:
        case "user":
            return _user_turn(where, turn)
        case "assistant":
            if isinstance(turn.content, str):
                return [Message("assistant", (TextPart(turn.content),))]
            parts = [
                part
                for index, block in enumerate(turn.content)
                for part in _assistant_parts(f"{where}.content[{index}]", block)
            ]
            return [Message("assistant", tuple(parts))]
        case "system":
            return [Message("system", texts(f"{where}.content", turn.content))]
        case _:
            raise InvalidRequest(
                f"`{where}.role` must be one of {', '.join(_ROLES)}; {shown(turn.role)} was given.",
                param=f"{where}.role",
            )


def _user_turn(where: str, turn: TurnBody) -> list[Message]:
    if isinstance(turn.content, str):
        return [Message("user", (TextPart(turn.content),))]
    messages: list[Message] = []
    said: list[Part] = []
    # What stands beside a result belongs to it: a file that was read, say.
    of_result = any(block.type == "tool_result" for block in turn.content)
    for index, block in enumerate(turn.content):
        place = f"{where}.content[{index}]"
        if block.type != "tool_result":
            said.append(_shown_text(place, block) if of_result else _text(place, block))
            continue
        if said:
            messages.append(Message("user", tuple(said)))
            said = []
        messages.append(_tool_result(place, block))
    if said or not messages:
        messages.append(Message("user", tuple(said)))
    return messages


def _assistant_parts(where: str, block: Block) -> tuple[Part, ...]:
    match block.type:
        case "thinking":
            return (ReasoningPart(block.thinking or ""),) if block.thinking else ()
        case "redacted_thinking":
            # Only Anthropic could read what is in it.
            return ()
        case "compaction" if isinstance(block.content, str):
            return (TextPart(block.content),)
        case kind if kind in _ELSEWHERE or kind.endswith("_tool_result"):
            return ()
        case "tool_use":
            call_id = required(f"{where}.id", block.id)
            name = required(f"{where}.name", block.name)
            return (ToolCallPart(call_id, name, json_text(block.input or {}, f"{where}.input")),)
        case _:
            return (_text(where, block),)


def _tool_result(where: str, block: Block) -> Message:
    call_id = required(f"{where}.tool_use_id", block.tool_use_id)
    parts = _result_parts(f"{where}.content", block.content)
    if block.is_error:
        parts = (TextPart("Error: "), *parts)
    return Message("tool", parts, tool_call_id=call_id)


def _result_parts(
    where: str, content: str | Sequence[TextBlock] | dict[str, Any] | None
) -> tuple[Part, ...]:
    match content:
        case None:
            return ()
        case str():
            return (TextPart(content),)
        case dict():
            raise InvalidRequest(f"`{where}` must be a string or a list of blocks.", param=where)
        case _:
            blocks = enumerate(content)
            return tuple(_shown_text(f"{where}[{index}]", block) for index, block in blocks)


def texts(where: str, content: str | Sequence[TextBlock]) -> tuple[Part, ...]:
    """Content that can be text only. Raises: InvalidRequest."""
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_text(f"{where}[{index}]", block) for index, block in enumerate(content))


def _text(where: str, block: TextBlock) -> TextPart:
    if block.type != "text":
        raise NotText(where, block.type)
    return TextPart(required(f"{where}.text", block.text))


def _shown_text(where: str, block: TextBlock) -> TextPart:
    """The text of a block of a result, or what stands for a block that has none."""
    match block:
        case TextBlock(type="text", text=text):
            return TextPart(required(f"{where}.text", text))
        case ShownBlock(type="tool_reference", tool_name=str(name)):
            return TextPart(f"[The tool {name} can be called.]")
        case ResultBlock(type="search_result", title=title, content=list(blocks)):
            found = [_text(f"{where}.content[{index}]", one) for index, one in enumerate(blocks)]
            return TextPart(f"{title or 'Result'}: " + "".join(part.text for part in found))
        case ShownBlock(type="document", source={"type": "text", "data": str(text)}):
            return TextPart(text)
        case ShownBlock(type="document", source={"type": "content", "content": str(text)}):
            return TextPart(text)
        case _:
            return TextPart(instead_of(block.type))
