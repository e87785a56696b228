"""Tools as OpenAI's chat dialect offers them, and which of them must be called."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema
from orchestrator.core.messages import Tool
from orchestrator.core.request import ToolChoice
from orchestrator.http.bodies import shown
from orchestrator.wire.openai.custom_tools import custom_tool

MAX_TOOLS = 128
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FunctionBody(msgspec.Struct):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Grammar(msgspec.Struct):
    """What the input of a custom tool must follow; `syntax` is `lark` or `regex`."""

    definition: str
    syntax: str = ""


class CustomFormat(msgspec.Struct):
    """The input of a custom tool: `text`, or `grammar`."""

    type: str = "text"
    grammar: Grammar | None = None


class CustomBody(msgspec.Struct):
    """A tool whose input is a text. Its grammar is told to the model and not enforced."""

    name: str
    description: str | None = None
    format: CustomFormat | None = None


class ToolBody(msgspec.Struct):
    """A tool: a `function`, or a `custom` one."""

    type: str
    function: FunctionBody | None = None
    custom: CustomBody | None = None


class FunctionName(msgspec.Struct):
    """A function, or a custom tool, by its name."""

    name: str


class NamedTool(msgspec.Struct):
    """A tool by its name."""

    type: str = "function"
    function: FunctionName | None = None
    custom: FunctionName | None = None

    @property
    def named(self) -> FunctionName | None:
        """The tool of that type, if it is there."""
        return {"function": self.function, "custom": self.custom}.get(self.type)


class AllowedTools(msgspec.Struct):
    """Some of the tools, and whether one of them must be called."""

    mode: str
    tools: list[NamedTool]


class ToolChoiceBody(NamedTool):
    """The tool that must be called, or those that may be."""

    allowed_tools: AllowedTools | None = None


def read_tools(
    bodies: list[ToolBody] | None, choice: str | ToolChoiceBody | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools to offer, and whether they may, must or must not be called.

    Raises: InvalidRequest.
    """
    bodies = bodies or []
    if len(bodies) > MAX_TOOLS:
        raise InvalidRequest(
            f"`tools` may hold {MAX_TOOLS} at most; it holds {len(bodies)}.", param="tools"
        )
    tools = tuple(_tool(f"tools[{index}]", body) for index, body in enumerate(bodies))
    if not isinstance(choice, ToolChoiceBody):
        mode = _mode("tool_choice", choice or "auto")
        tools = () if mode.mode == "none" else tools
    elif choice.type == "allowed_tools" and choice.allowed_tools is not None:
        mode = _mode("tool_choice.allowed_tools.mode", choice.allowed_tools.mode)
        named = [_name(tool) for tool in choice.allowed_tools.tools]
        tools = tuple(_find(tools, name) for name in named)
    else:
        mode = ToolChoice("named", _name(choice))
        _find(tools, mode.name)
    if mode.mode == "required" and not tools:
        raise InvalidRequest(
            "`tool_choice` is `required` and `tools` has none that could be called.",
            param="tool_choice",
        )
    if mode.mode in ("required", "named"):
        _check_strict(bodies)
    return tools, mode


def custom_names(bodies: list[ToolBody] | None) -> frozenset[str]:
    """The names of custom tools. Of tools with the same name the first one counts."""
    first: dict[str, bool] = {}
    for body in bodies or ():
        if body.custom is not None and body.type == "custom":
            first.setdefault(body.custom.name, True)
        elif body.function is not None:
            first.setdefault(body.function.name, False)
    return frozenset(name for name, is_custom in first.items() if is_custom)


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


def _name(tool: NamedTool) -> str:
    if tool.named is None:
        raise InvalidRequest(
            "`tool_choice` must name a `function` or a `custom` tool;"
            f" one of type {shown(tool.type)} was given.",
            param="tool_choice",
        )
    return tool.named.name


def _find(tools: tuple[Tool, ...], name: str) -> Tool:
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        raise InvalidRequest(
            f"`tool_choice` names {shown(name)}, which is not among `tools`.", param="tool_choice"
        )
    return tool


def _tool(where: str, tool: ToolBody) -> Tool:
    match tool.type:
        case "function":
            return _function(f"{where}.function", tool.function)
        case "custom":
            return _custom(f"{where}.custom", tool.custom)
        case other:
            raise InvalidRequest(
                f"`{where}.type` must be `function` or `custom`; {shown(other)} was given.",
                param=f"{where}.type",
            )


def _function(where: str, function: FunctionBody | None) -> Tool:
    if function is None:
        raise InvalidRequest(f"`{where}` is required.", param=where)
    parameters = function.parameters or {"type": "object", "properties": {}}
    return Tool(_checked_name(where, function.name), function.description or "", parameters)


def _custom(where: str, custom: CustomBody | None) -> Tool:
    if custom is None:
        raise InvalidRequest(f"`{where}` is required.", param=where)
    grammar = custom.format.grammar if custom.format is not None else None
    return custom_tool(
        _checked_name(where, custom.name),
        custom.description or "",
        where=f"{where}.format.grammar.definition",
        syntax=grammar.syntax if grammar is not None else "",
        grammar=grammar.definition if grammar is not None else "",
    )


def _checked_name(where: str, name: str) -> str:
    if not _FUNCTION_NAME.fullmatch(name):
        raise InvalidRequest(
            f"`{where}.name` must have 1 to 64 of the characters a-z, A-Z, 0-9, `_` "
            f"and `-`; {shown(name)} was given.",
            param=f"{where}.name",
        )
    return name


def _check_strict(bodies: list[ToolBody]) -> None:
    """Arguments of a call that must come are enforced, and strict ones promise it."""
    for index, body in enumerate(bodies):
        if body.function is not None and body.function.strict and body.function.parameters:
            where = f"tools[{index}].function.parameters"
            check_schema(body.function.parameters, where, strict=True)
