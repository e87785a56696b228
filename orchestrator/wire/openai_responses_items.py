"""Items of the Responses API: as callers give them, as they are stored, as models get them.

Source: OpenAI API reference, responses, input items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.errors import InvalidRequest, NotFound
from orchestrator.core.messages import Message, Part, ReasoningPart, Role, TextPart, ToolCallPart
from orchestrator.responses.values import Item, item_id
from orchestrator.wire.bodies import shown

_ROLES: tuple[Role, ...] = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
_MOST_ID_CHARACTERS = 128
_MOST_REFERENCES = 1000


def input_items(given: str | Sequence[Any] | None) -> list[Item]:
    """The items of `input`, checked and in full, still without ids of ours.

    Raises: InvalidRequest.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [_message("input", {"role": "user", "content": given})]
    return [_item(f"input[{index}]", item) for index, item in enumerate(given)]


def references(items: Iterable[Item]) -> list[str]:
    """The ids of stored items that `items` refer to, each once and not too many.

    A few bytes of a request may stand for megabytes of the store. Raises: InvalidRequest.
    """
    ids = [item["id"] for item in items if item["type"] == "item_reference"]
    if len(ids) > _MOST_REFERENCES:
        raise InvalidRequest(
            f"`input` may refer to {_MOST_REFERENCES} stored items at most; {len(ids)} were given.",
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
        {"id": item_id(_PREFIXES[item["type"]], response_id, number), **item}
        for number, item in enumerate(items)
    ]


def check_calls(items: Iterable[Item]) -> None:
    """Raises: InvalidRequest where the output of a call comes without the call."""
    called = set()
    for item in items:
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in called:
            raise InvalidRequest(
                f"There is no function call with the `call_id` {shown(item['call_id'])} before its"
                " output.",
                param="input",
            )


def without_oldest(items: Sequence[Item], count: int) -> list[Item]:
    """`items` from number `count` on, without outputs of calls that went with the others."""
    rest = items[count:]
    called = {item["call_id"] for item in rest if item["type"] == "function_call"}
    return [
        item for item in rest if item["type"] != "function_call_output" or item["call_id"] in called
    ]


def messages_of(items: Iterable[Item]) -> tuple[Message, ...]:
    """The conversation that `items` add up to.

    A call belongs to the assistant's message before it, and reasoning to the one behind it, as
    they do in a chat.
    """
    # Parts of a message are collected in its list: a turn may have a hundred thousand calls.
    turns: list[tuple[Role, list[Part], str | None]] = []
    for item in items:
        match item["type"]:
            case "message":
                _add(turns, item["role"], TextPart(_text_of(item)), _takes_text)
            case "reasoning":
                if text := _reasoning_of(item):
                    turns.append(("assistant", [ReasoningPart(text)], None))
            case "function_call":
                call = ToolCallPart(item["call_id"], item["name"], item["arguments"])
                _add(turns, "assistant", call, _takes_calls)
            case _:
                output = item["output"]
                text = output if isinstance(output, str) else _joined(output)
                turns.append(("tool", [TextPart(text)], item["call_id"]))
    return tuple(Message(role, tuple(parts), None, call_id) for role, parts, call_id in turns)


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


def _reasoning_of(item: Item) -> str:
    """The reasoning itself, or what a summary tells of it."""
    return _joined(item["content"]) or "\n".join(part["text"] for part in item["summary"])


def _item(where: str, given: Any) -> Item:
    if not isinstance(given, dict):
        raise InvalidRequest(f"`{where}` must be an object.", param=where)
    kind = given.get("type")
    if kind is None:
        kind = "message" if "role" in given else "item_reference" if "id" in given else None
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise InvalidRequest(
            f"`{where}.type` is {shown(kind)}; items can be of type {', '.join(_READERS)}.",
            param=f"{where}.type",
        )
    item = reader(where, given)
    if (own_id := given.get("id")) is not None:
        item["id"] = _checked_id(where, own_id)
    return item


def _message(where: str, given: Mapping[str, Any]) -> Item:
    role = given.get("role")
    if role not in _ROLES:
        raise InvalidRequest(
            f"`{where}.role` must be one of {', '.join(_ROLES)}; {shown(role)} was given.",
            param=f"{where}.role",
        )
    content = _parts(f"{where}.content", given.get("content"))
    if role == "assistant":
        # What a model said, whoever tells it.
        content = [
            part
            if part["type"] == "refusal"
            else {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": []}
            for part in content
        ]
    return {"type": "message", "status": "completed", "role": role, "content": content}


def _call(where: str, given: Mapping[str, Any]) -> Item:
    return {
        "type": "function_call",
        "status": "completed",
        "call_id": _string(where, given, "call_id"),
        "name": _string(where, given, "name"),
        "arguments": _string(where, given, "arguments"),
    }


def _call_output(where: str, given: Mapping[str, Any]) -> Item:
    output = given.get("output")
    return {
        "type": "function_call_output",
        "status": "completed",
        "call_id": _string(where, given, "call_id"),
        "output": output if isinstance(output, str) else _parts(f"{where}.output", output),
    }


def _reasoning(where: str, given: Mapping[str, Any]) -> Item:
    item: Item = {"type": "reasoning", "status": "completed"}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = given.get(name) or []
        if not isinstance(parts, list) or not all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts
        ):
            raise InvalidRequest(
                f"`{where}.{name}` must be a list of parts with a `text`.", param=f"{where}.{name}"
            )
        item[name] = [{"type": kind, "text": part["text"]} for part in parts]
    return item


def _reference(where: str, given: Mapping[str, Any]) -> Item:
    return {"type": "item_reference", "id": _checked_id(where, given.get("id"))}


_READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Item]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _call_output,
    "reasoning": _reasoning,
    "item_reference": _reference,
}


def _parts(where: str, given: Any) -> list[Item]:
    """The parts of a message or an output: text only."""
    if isinstance(given, str):
        return [{"type": "input_text", "text": given}]
    if not isinstance(given, list):
        raise InvalidRequest(f"`{where}` must be a string or a list of parts.", param=where)
    return [_part(f"{where}[{index}]", part) for index, part in enumerate(given)]


def _part(where: str, given: Any) -> Item:
    if not isinstance(given, dict):
        raise InvalidRequest(f"`{where}` must be an object.", param=where)
    kind = given.get("type")
    if kind == "refusal":
        return {"type": "refusal", "refusal": _string(where, given, "refusal")}
    if kind not in _TEXTS:
        raise InvalidRequest(
            f"`{where}` is of type {shown(kind)}; this model takes text only.", param=where
        )
    return {"type": "input_text", "text": _string(where, given, "text")}


def _string(where: str, given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"`{where}.{name}` must be a string.", param=f"{where}.{name}")
    return value


def _checked_id(where: str, given: Any) -> str:
    if not isinstance(given, str) or not 0 < len(given) <= _MOST_ID_CHARACTERS or "\0" in given:
        raise InvalidRequest(
            f"`{where}.id` must be a string of 1 to {_MOST_ID_CHARACTERS} characters.",
            param=f"{where}.id",
        )
    return given
