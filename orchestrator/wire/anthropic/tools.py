"""Tools as Anthropic's clients offer them: their own, and those that Anthropic has defined.

Some of Anthropic's tools are run by the client, like `bash`: only their names and arguments are
known to Anthropic's models by heart, so they are written out here. The others run on Anthropic's
servers and are left out. Source: Anthropic API reference, messages, tools.
"""

from __future__ import annotations

import re
from typing import Any

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Tool
from orchestrator.core.request import ToolChoice
from orchestrator.http.bodies import shown
from orchestrator.wire.anthropic.request import PromptFields, ToolBody, required
from orchestrator.wire.openai.tools import MAX_TOOLS

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DATED = re.compile(r"(?P<kind>[a-z_]+?)_\d{8}")
_HOSTED = frozenset(
    {
        "web_search", "web_fetch", "code_execution", "advisor", "mcp_toolset",
        "tool_search_tool_regex", "tool_search_tool_bm25",
    }
)  # fmt: skip
_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_NUMBERS = {"type": "array", "items": _NUMBER}
_FILE_MEMBERS: dict[str, Any] = {
    "path": _TEXT,
    "file_text": _TEXT,
    "old_str": _TEXT,
    "new_str": _TEXT,
    "insert_line": _NUMBER,
    "insert_text": _TEXT,
    "view_range": _NUMBERS,
}
_RUN_BY_CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bash": (
        "Runs a command in a bash shell that stays open. `restart` starts it anew.",
        {"properties": {"command": _TEXT, "restart": {"type": "boolean"}}},
    ),
    "text_editor": (
        "Views, creates and edits files.",
        {
            "properties": {
                "command": {"enum": ["view", "create", "str_replace", "insert", "undo_edit"]},
                **_FILE_MEMBERS,
            },
            "required": ["command", "path"],
        },
    ),
    "memory": (
        "Keeps notes between conversations, as files below /memories.",
        {
            "properties": {
                "command": {
                    "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]
                },
                **_FILE_MEMBERS,
                "old_path": _TEXT,
                "new_path": _TEXT,
            },
            "required": ["command"],
        },
    ),
    "computer": (
        "Uses mouse, keyboard and screen of a computer.",
        {
            "properties": {
                "action": _TEXT,
                "coordinate": _NUMBERS,
                "start_coordinate": _NUMBERS,
                "text": _TEXT,
                "duration": {"type": "number"},
                "scroll_direction": {"enum": ["up", "down", "left", "right"]},
                "scroll_amount": _NUMBER,
                "region": _NUMBERS,
            },
            "required": ["action"],
        },
    ),
}


def left_out(body: PromptFields) -> list[str]:
    """The types of those tools that run at Anthropic."""
    return [tool.type for tool in body.tools or () if tool.type and _is_hosted(tool.type)]


def read_tools(body: PromptFields) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools to offer, and whether they may, must or must not be called.

    Raises: InvalidRequest.
    """
    given = body.tools or []
    if len(given) > MAX_TOOLS:
        raise InvalidRequest(
            f"`tools` may hold {MAX_TOOLS} at most; it holds {len(given)}.", param="tools"
        )
    tools = tuple(
        _tool(f"tools[{index}]", tool)
        for index, tool in enumerate(given)
        if not _is_hosted(tool.type)
    )
    wanted = body.tool_choice
    match wanted.type if wanted is not None else "auto":
        case "auto":
            return tools, ToolChoice()
        case "none":
            return (), ToolChoice("none")
        case "any":
            choice = ToolChoice("required")
        case "tool":
            assert wanted is not None
            choice = ToolChoice("named", required("tool_choice.name", wanted.name))
        case other:
            raise InvalidRequest(
                "`tool_choice.type` must be `auto`, `any`, `tool` or `none`; "
                f"{shown(other)} was given.",
                param="tool_choice.type",
            )
    if not tools:
        raise InvalidRequest("`tool_choice` needs `tools` to choose from.", param="tool_choice")
    if choice.name and choice.name not in {tool.name for tool in tools}:
        raise InvalidRequest(
            f"`tool_choice.name` is {shown(choice.name)}, which none of the `tools` is called.",
            param="tool_choice.name",
        )
    return tools, choice


def _tool(where: str, tool: ToolBody) -> Tool:
    description, schema = tool.description or "", tool.input_schema
    if tool.type not in (None, "custom"):
        known = _RUN_BY_CLIENTS.get(_kind(tool.type))
        if known is None:
            raise InvalidRequest(
                f"`{where}.type` must be `custom` or one of Anthropic's tools;"
                f" {shown(tool.type)} was given.",
                param=f"{where}.type",
            )
        description, schema = known[0], {"type": "object", **known[1]}
    name = required(f"{where}.name", tool.name)
    if not _TOOL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"`{where}.name` must have 1 to 128 of the characters a-z, A-Z, 0-9, `_` and `-`; "
            f"{shown(name)} was given.",
            param=f"{where}.name",
        )
    if schema is None:
        raise InvalidRequest(f"`{where}.input_schema` is required.", param=f"{where}.input_schema")
    return Tool(name, description, schema)


def _is_hosted(given: str | None) -> bool:
    return given is not None and _kind(given) in _HOSTED


def _kind(given: str) -> str:
    """The type without the date of its version."""
    dated = _DATED.fullmatch(given)
    return given if dated is None else dated["kind"]
