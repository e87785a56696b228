"""Items of the Responses API: as callers give them, as they are stored, as models get them.

Source: OpenAI API reference, responses, input items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.errors import InvalidRequest, NotFound
from orchestrator.core.messages import Message, Part, ReasoningPart, Role, TextPart, ToolCallPart
from orchestrator.http.bodies import json_text, shown
from orchestrator.responses.values import Item, item_id
from orchestrator.wire.openai.custom_tools import input_arguments
from orchestrator.wire.openai.responses.item_readers import CALLS, OUTPUTS, message_item, read_item
from orchestrator.wire.openai.responses.reasoning import ReasoningSeal
from orchestrator.wire.openai.responses.tools import NO_TOOLS, Toolbox

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "reasoning": "rs",
}
_MAX_REFERENCES = 1000


def input_items(given: str | Sequence[Any] | None) -> list[Item]:
    """The items of `input`, checked and in full, still without ids of ours.

    Raises: InvalidRequest.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [message_item("input", {"role": "user", "content": given})]
    return [read_item(f"input[{index}]", item) for index, item in enumerate(given)]


def references(items: Iterable[Item]) -> list[str]:
    """The ids of stored items that `items` refer to, each once and not too many.

    A few bytes of a request may stand for megabytes of the store. Raises: InvalidRequest.
    """
    ids = [item["id"] for item in items if item["type"] == "item_reference"]
    if len(ids) > _MAX_REFERENCES:
        raise InvalidRequest(
            f"`input` may refer to {_MAX_REFERENCES} stored items at most; {len(ids)} were given.",
            param="input",
        )
    if len(set(ids)) < len(ids):
        raise InvalidRequest("`input` refers to the same stored item twice.", param="input")
    return ids


def resolved(items: Sequence[Item], found: Mapping[str, Item]) -> list[Item]:
    """`items` with what they refer to in its place. Raises: NotFound."""
    whole = []
    for item in items:
        if item["type"] == "item_reference":
            if item["id"] not in found:
                raise NotFound(
                    f"There is no stored item with the id `{item['id'][:80]}`.",
                    param="input",
                    reason="item_not_found",
                )
            whole.append(found[item["id"]])
        else:
            whole.append(item)
    return whole


def with_ids(items: Sequence[Item], response_id: str) -> list[Item]:
    """`items` of that response, each with an id: its own, or one that tells of the response."""
    return [
        {"id": item_id(_PREFIXES.get(item["type"], "item"), response_id, number), **item}
        for number, item in enumerate(items)
    ]


def check_calls(items: Iterable[Item]) -> None:
    """Raises: InvalidRequest where the output of a call comes without the call."""
    called = set()
    for item in items:
        if item["type"] in CALLS:
            called.add(item["call_id"])
        elif item["type"] in OUTPUTS and item["call_id"] not in called:
            raise InvalidRequest(
                f"There is no call with the `call_id` {shown(item['call_id'])} before its output.",
                param="input",
            )


def without_oldest(items: Sequence[Item], count: int) -> list[Item]:
    """`items` from number `count` on, without outputs of calls that went with the others."""
    rest = items[count:]
    called = {item["call_id"] for item in rest if item["type"] in CALLS}
    return [item for item in rest if item["type"] not in OUTPUTS or item["call_id"] in called]


def messages_of(
    items: Iterable[Item], tools: Toolbox = NO_TOOLS, seal: ReasoningSeal | None = None
) -> tuple[Message, ...]:
    """The conversation that `items` add up to, calls by the names that the model knows.

    A call belongs to the assistant's message before it, and reasoning to the one behind it, as
    they do in a chat. What a server of OpenAI's did for another model is left out: nothing of it
    is here. `seal` reads encrypted reasoning. Raises: InvalidRequest where it cannot.
    """
    # Parts of a message are collected in its list: a turn may have a hundred thousand calls.
    turns: list[tuple[Role, list[Part], str | None]] = []
    for item in items:
        match item["type"]:
            case "message":
                _add(turns, item["role"], TextPart(_text_of(item)), _takes_text)
            case "reasoning":
                if text := _reasoning_of(item, seal):
                    turns.append(("assistant", [ReasoningPart(text)], None))
            case kind if kind in CALLS:
                _add(turns, "assistant", _call_of(item, tools), _takes_calls)
            case kind if kind in OUTPUTS:
                output = item["output"]
                text = output if isinstance(output, str) else _joined(output)
                turns.append(("tool", [TextPart(text)], item["call_id"]))
    return tuple(Message(role, tuple(parts), None, call_id) for role, parts, call_id in turns)


def _call_of(item: Item, tools: Toolbox) -> ToolCallPart:
    match item["type"]:
        case "function_call":
            name, arguments = item["name"], item["arguments"]
        case "custom_tool_call":
            name = item["name"]
            arguments = input_arguments(item["input"])
        case _:
            return ToolCallPart(
                item["call_id"], "local_shell", json_text(item["action"], "input.action")
            )
    return ToolCallPart(item["call_id"], tools.name_of(name, item.get("namespace", "")), arguments)


def _takes_text(before: Sequence[Part]) -> bool:
    return all(isinstance(part, ReasoningPart) for part in before)


def _takes_calls(before: Sequence[Part]) -> bool:
    del before
    return True


def _add(
    turns: list[tuple[Role, list[Part], str | None]],
    role: Role,
    part: Part,
    takes: Callable[[Sequence[Part]], bool],
) -> None:
    """Adds to the last message of the assistant if that `takes` it, else as one of its own."""
    if role == "assistant" and turns and turns[-1][0] == role and takes(turns[-1][1]):
        turns[-1][1].append(part)
    else:
        turns.append((role, [part], None))


def _text_of(item: Item) -> str:
    return _joined(item["content"])


def _joined(parts: Iterable[Mapping[str, Any]]) -> str:
    return "".join(part.get("text", part.get("refusal", "")) for part in parts)


def _reasoning_of(item: Item, seal: ReasoningSeal | None) -> str:
    """The reasoning itself, or what a summary tells of it."""
    text = _joined(item["content"])
    if not text and seal is not None and (sealed := item.get("encrypted_content")):
        text = seal.open(sealed)
    return text or "\n".join(part["text"] for part in item["summary"])
