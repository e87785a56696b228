"""Tools as OpenAI's chat dialect offers them, and which of them must be called."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema
from orchestrator.core.messages import Tool
from orchestrator.core.request import ToolChoice
from orchestrator.wire.bodies import shown

MOST_TOOLS = 128
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FunctionBody(msgspec.Struct):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(msgspec.Struct):
    """A tool; only functions can be offered."""

    type: str
    function: FunctionBody | None = None


class FunctionName(msgspec.Struct):
    """A function by its name."""

    name: str


class NamedTool(msgspec.Struct):
    """A tool by its name."""

    type: str = "function"
    function: FunctionName | None = None


class AllowedTools(msgspec.Struct):
    """Some of the tools, and whether one of them must be called."""

    mode: str
    tools: list[NamedTool]


class ToolChoiceBody(msgspec.Struct):
    """The tool that must be called, or those that may be."""

    type: str = "function"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


def read_tools(
    bodies: list[ToolBody] | None, choice: str | ToolChoiceBody | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools to offer, and whether they may, must or must not be called.

    Raises: InvalidRequest.
    """
    bodies = bodies or []
    if len(bodies) > MOST_TOOLS:
        raise InvalidRequest(
            f"`tools` may hold {MOST_TOOLS} at most; it holds {len(bodies)}.", param="tools"
        )
    tools = tuple(_tool(f"tools[{index}]", body) for index, body in enumerate(bodies))
    if not isinstance(choice, ToolChoiceBody):
        mode = _mode("tool_choice", choice or "auto")
        tools = () if mode.mode == "none" else tools
    elif choice.type == "allowed_tools" and choice.allowed_tools is not None:
        mode = _mode("tool_choice.allowed_tools.mode", choice.allowed_tools.mode)
        named = [_name(tool.type, tool.function) for tool in choice.allowed_tools.tools]
        tools = tuple(_find(tools, name) for name in named)
    else:
        mode = ToolChoice("named", _name(choice.type, choice.function))
        _find(tools, mode.name)
    if mode.mode == "required" and not tools:
        raise InvalidRequest(
            "`tool_choice` is `required` and `tools` has none that could be called.",
            param="tool_choice",
        )
    if mode.mode in ("required", "named"):
        _check_strict(bodies)
    return tools, mode


def _mode(where: str, word: str) -> ToolChoice:
    match word:
        case "none" | "auto" | "required":
            return ToolChoice(word)
        case _:
            raise InvalidRequest(
                f"`{where}` must be `none`, `auto`, `required` or an object;"
                f" {shown(word)} was given.",
                param=where,
            )


def _name(kind: str, function: FunctionName | None) -> str:
    if kind != "function" or function is None:
        raise InvalidRequest(
            f"`tool_choice` must name a `function`; one of type {shown(kind)} was given.",
            param="tool_choice",
        )
    return function.name


def _find(tools: tuple[Tool, ...], name: str) -> Tool:
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        raise InvalidRequest(
            f"`tool_choice` names {shown(name)}, which is not among `tools`.", param="tool_choice"
        )
    return tool


def _tool(where: str, tool: ToolBody) -> Tool:
    if tool.type != "function":
        raise InvalidRequest(
            f"`{where}.type` must be `function`; {shown(tool.type)} was given.",
            param=f"{where}.type",
        )
    function = tool.function
    if function is None:
        raise InvalidRequest(f"`{where}.function` is required.", param=f"{where}.function")
    if not _FUNCTION_NAME.fullmatch(function.name):
        raise InvalidRequest(
            f"`{where}.function.name` must have 1 to 64 of the characters a-z, A-Z, 0-9, `_` "
            f"and `-`; {shown(function.name)} was given.",
            param=f"{where}.function.name",
        )
    parameters = function.parameters or {"type": "object", "properties": {}}
    return Tool(function.name, function.description or "", parameters)


def _check_strict(bodies: list[ToolBody]) -> None:
    """Arguments of a call that must come are enforced, and strict ones promise it."""
    for index, body in enumerate(bodies):
        if body.function is not None and body.function.strict and body.function.parameters:
            where = f"tools[{index}].function.parameters"
            check_schema(body.function.parameters, where, strict=True)
