"""Items of the Responses API as callers give them: checked, and in full.

Source: OpenAI API reference, responses, input items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Role
from orchestrator.http.bodies import json_text, shown
from orchestrator.http.text_only import NotText, instead_of
from orchestrator.responses.values import Item

CALLS = ("function_call", "custom_tool_call", "local_shell_call")
OUTPUTS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output")
_ROLES: tuple[Role, ...] = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")
_MAX_ID_CHARACTERS = 128


def read_item(where: str, given: Any) -> Item:
    """The item at `where`, without an id of ours. Raises: InvalidRequest."""
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


def message_item(where: str, given: Mapping[str, Any]) -> Item:
    """A message. Raises: InvalidRequest."""
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
    return _called(where, given, "function_call", "arguments")


def _custom_call(where: str, given: Mapping[str, Any]) -> Item:
    return _called(where, given, "custom_tool_call", "input")


def _called(where: str, given: Mapping[str, Any], kind: str, text: str) -> Item:
    item: Item = {
        "type": kind,
        "status": "completed",
        "call_id": _string(where, given, "call_id"),
        "name": _string(where, given, "name"),
        text: _string(where, given, text),
    }
    if given.get("namespace") is not None:
        item["namespace"] = _string(where, given, "namespace")
    return item


def _shell_call(where: str, given: Mapping[str, Any]) -> Item:
    action = given.get("action")
    if not isinstance(action, dict):
        raise InvalidRequest(f"`{where}.action` must be an object.", param=f"{where}.action")
    # What cannot be written as JSON could not be stored and listed either, as deep as this.
    json_text({"data": [{"action": action}]}, f"{where}.action")
    call_id = given.get("call_id")
    return {
        "type": "local_shell_call",
        "status": "completed",
        "call_id": call_id if isinstance(call_id, str) else _string(where, given, "id"),
        "action": action,
    }


def _call_output(where: str, given: Mapping[str, Any]) -> Item:
    return _output(where, given, "function_call_output")


def _custom_output(where: str, given: Mapping[str, Any]) -> Item:
    return _output(where, given, "custom_tool_call_output")


def _shell_output(where: str, given: Mapping[str, Any]) -> Item:
    call_id = given.get("call_id", given.get("id"))
    return _output(where, {**given, "call_id": call_id}, "local_shell_call_output")


def _output(where: str, given: Mapping[str, Any], kind: str) -> Item:
    output = given.get("output")
    if output is None and "output" in given:
        # As in a tool's message of a chat: the tool said nothing. What is missing is a mistake.
        output = ""
    return {
        "type": kind,
        "status": "completed",
        "call_id": _string(where, given, "call_id"),
        "output": output if isinstance(output, str) else _results(f"{where}.output", output),
    }


def _results(where: str, given: Any) -> list[Item]:
    """The parts of an output: what is no text is named in its place, so that work goes on."""
    if not isinstance(given, list):
        return _parts(where, given)
    return [
        {"type": "input_text", "text": instead_of(part.get("type"))}
        if isinstance(part, dict) and part.get("type") not in (*_TEXTS, "refusal")
        else _part(f"{where}[{index}]", part)
        for index, part in enumerate(given)
    ]


def _elsewhere(where: str, given: Mapping[str, Any]) -> Item:
    """What a server of OpenAI's did, or made unreadable: kept as far as it is texts."""
    del where
    return {name: text for name, text in given.items() if isinstance(text, str)}


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
    if isinstance(packed := given.get("encrypted_content"), str):
        item["encrypted_content"] = packed
    return item


def _reference(where: str, given: Mapping[str, Any]) -> Item:
    return {"type": "item_reference", "id": _checked_id(where, given.get("id"))}


_READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Item]] = {
    "message": message_item,
    "function_call": _call,
    "function_call_output": _call_output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _custom_output,
    "local_shell_call": _shell_call,
    "local_shell_call_output": _shell_output,
    "reasoning": _reasoning,
    "item_reference": _reference,
    **dict.fromkeys(
        (
            "web_search_call", "file_search_call", "code_interpreter_call", "computer_call",
            "computer_call_output", "image_generation_call", "mcp_list_tools", "mcp_call",
            "mcp_approval_request", "mcp_approval_response", "tool_search_call",
            "tool_search_output", "compaction", "compaction_summary", "compaction_trigger",
        ),
        _elsewhere,
    ),
}  # fmt: skip


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
        raise NotText(where, kind)
    return {"type": "input_text", "text": _string(where, given, "text")}


def _string(where: str, given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"`{where}.{name}` must be a string.", param=f"{where}.{name}")
    return value


def _checked_id(where: str, given: Any) -> str:
    if not isinstance(given, str) or not 0 < len(given) <= _MAX_ID_CHARACTERS or "\0" in given:
        raise InvalidRequest(
            f"`{where}.id` must be a string of 1 to {_MAX_ID_CHARACTERS} characters.",
            param=f"{where}.id",
        )
    return given
