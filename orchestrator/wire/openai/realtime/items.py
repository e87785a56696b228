"""Items of a conversation: read from events, and written into them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.core.ids import new_id
from orchestrator.core.messages import Message, TextPart, ToolCallPart
from orchestrator.http.bodies import shown
from orchestrator.wire.openai.realtime.client_events import ContentPart, ItemBody
from orchestrator.wire.openai.realtime.faults import invalid, no_audio

Dialect = Literal["ga", "beta"]
ItemRole = Literal["system", "user", "assistant"]
Status = Literal["in_progress", "completed", "incomplete"]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_AUDIO_PARTS = ("input_audio", "output_audio", "audio")
_ROLES: tuple[ItemRole, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TextItem:
    """A message."""

    id: str
    role: ItemRole
    texts: tuple[str, ...]
    status: Status = "completed"

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return _bytes(*self.texts)


@dataclass(frozen=True, slots=True)
class CallItem:
    """A call of a function by the model."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: Status = "completed"

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return _bytes(self.name, self.arguments)


@dataclass(frozen=True, slots=True)
class OutputItem:
    """What a called function gave back."""

    id: str
    call_id: str
    output: str
    status: Status = "completed"

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return _bytes(self.output)


Item = TextItem | CallItem | OutputItem


def decode_item(body: ItemBody, where: str) -> Item:
    """The checked item that stands at `where` in its event. Raises: InvalidRequest."""
    item_id = new_id("item") if body.id is None else body.id
    if not _ID.fullmatch(item_id):
        raise invalid(
            f"`{where}.id` must have 1 to 64 of the characters a-z, A-Z, 0-9, `_` and `-`; "
            f"{shown(item_id)} was given.",
            f"{where}.id",
        )
    match body.type:
        case "message":
            role = next((role for role in _ROLES if role == body.role), None)
            if role is None:
                raise invalid(
                    f"`{where}.role` must be one of {', '.join(_ROLES)}; "
                    f"{shown(body.role)} was given.",
                    f"{where}.role",
                )
            return TextItem(item_id, role, _texts(body, role, where))
        case "function_call":
            call_id = body.call_id or new_id("call")
            name = _required(body.name, f"{where}.name")
            return CallItem(item_id, call_id, name, body.arguments or "")
        case "function_call_output":
            call_id = _required(body.call_id, f"{where}.call_id")
            return OutputItem(item_id, call_id, _required(body.output, f"{where}.output"))
        case _:
            raise invalid(
                f"`{where}.type` must be message, function_call or function_call_output; "
                f"{shown(body.type)} was given.",
                f"{where}.type",
            )


def _texts(body: ItemBody, role: ItemRole, where: str) -> tuple[str, ...]:
    if body.content is None:
        raise invalid(f"`{where}.content` is required.", f"{where}.content")
    parts = enumerate(body.content)
    return tuple(_text(part, role, f"{where}.content[{index}]") for index, part in parts)


def _text(part: ContentPart, role: ItemRole, where: str) -> str:
    if part.type in _AUDIO_PARTS:
        raise no_audio(f"`{where}` of type `{part.type}`", f"{where}.type")
    if part.type == "input_image":
        raise invalid(f"`{where}` is an image; this model reads text only.", f"{where}.type")
    allowed = ("output_text" if role == "assistant" else "input_text", "text")
    if part.type not in allowed:
        raise invalid(
            f"`{where}.type` must be `{allowed[0]}` in a message of the role `{role}`; "
            f"{shown(part.type)} was given.",
            f"{where}.type",
        )
    return _required(part.text, f"{where}.text")


def _bytes(*texts: str) -> int:
    return sum(len(text.encode()) for text in texts)


def _required(value: str | None, where: str) -> str:
    if value is None:
        raise invalid(f"`{where}` is required.", where)
    return value


def item_object(item: Item, dialect: Dialect) -> dict[str, Any]:
    """The item as clients get it."""
    fixed = {"id": item.id, "object": "realtime.item"}
    match item:
        case TextItem():
            kind = "input_text" if item.role != "assistant" else text_type(dialect)
            return {
                **fixed,
                "type": "message",
                "status": item.status,
                "role": item.role,
                "content": [{"type": kind, "text": text} for text in item.texts],
            }
        case CallItem():
            return {
                **fixed,
                "type": "function_call",
                "status": item.status,
                "call_id": item.call_id,
                "name": item.name,
                "arguments": item.arguments,
            }
        case OutputItem():
            return {
                **fixed,
                "type": "function_call_output",
                "status": item.status,
                "call_id": item.call_id,
                "output": item.output,
            }


def text_type(dialect: Dialect) -> str:
    """The type of a text that the model wrote, inside an item."""
    return "output_text" if dialect == "ga" else "text"


def messages_of(instructions: str, items: tuple[Item, ...]) -> tuple[Message, ...]:
    """The conversation as models get it: calls stand in the message that they were made with."""
    messages: list[Message] = []
    if instructions:
        messages.append(Message("system", (TextPart(instructions),)))
    for item in items:
        match item:
            case TextItem():
                messages.append(Message(item.role, tuple(TextPart(text) for text in item.texts)))
            case CallItem(status="incomplete"):
                # It was cut, so it was never made and nothing answers it.
                continue
            case CallItem():
                call = ToolCallPart(item.call_id, item.name, item.arguments)
                if messages and messages[-1].role == "assistant":
                    messages[-1] = replace(messages[-1], parts=(*messages[-1].parts, call))
                else:
                    messages.append(Message("assistant", (call,)))
            case OutputItem():
                output = (TextPart(item.output),)
                messages.append(Message("tool", output, tool_call_id=item.call_id))
    return tuple(messages)
