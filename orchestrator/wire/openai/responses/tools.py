"""Tools of the Responses API: those that a model can be offered, and how they come back.

A model knows functions only. A function inside a namespace is a function whose name begins with
the namespace's; a `custom` tool is a function of one text; a tool that OpenAI's servers run is
left out. Source: OpenAI API reference, responses, tools.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Tool
from orchestrator.core.request import ToolChoice
from orchestrator.core.value import value
from orchestrator.http.bodies import shown
from orchestrator.wire.openai.custom_tools import custom_tool

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_HOSTED = re.compile(
    r"(web_search|file_search|code_interpreter|image_generation|mcp|computer|local_shell|shell"
    r"|apply_patch|tool_search)(_preview|_use|_use_preview)?(_\d{4}_\d{2}_\d{2})?"
)
"""Tools that OpenAI's servers run, or that only models trained for them can call."""

Kind = Literal["function", "custom"]
Key = tuple[str, str]


@value
class Offered:
    """A tool as its caller knows it. `namespace` is empty for one outside of any."""

    kind: Kind
    name: str
    namespace: str = ""


@value
class Toolbox:
    """The tools of one request.

    `tools` are what the model is offered; `offered` maps their names to the caller's own tools, and
    `names` the other way; `left_out` holds the types of the tools that are not here.
    """

    tools: tuple[Tool, ...]
    offered: Mapping[str, Offered]
    names: Mapping[Key, str]
    left_out: tuple[str, ...]

    def name_of(self, name: str, namespace: str = "") -> str:
        """How the model knows the caller's tool of that name, offered now or not."""
        return self.names.get((namespace, name)) or _joined(namespace, name)


NO_TOOLS = Toolbox((), {}, {}, ())


def read_tools(given: Sequence[Mapping[str, Any]]) -> Toolbox:
    """The tools of a request. Raises: InvalidRequest."""
    tools: list[Tool] = []
    offered: dict[str, Offered] = {}
    names: dict[Key, str] = {}
    left_out: list[str] = []
    every = _flat(given)
    plain = {str(tool.get("name")) for _, namespace, tool in every if not namespace}
    for where, namespace, tool in every:
        kind = tool.get("type")
        if kind == "function":
            made = _function(where, tool)
        elif kind == "custom":
            made = _custom(where, tool)
        elif isinstance(kind, str) and _HOSTED.fullmatch(kind):
            left_out.append(kind)
            continue
        else:
            raise InvalidRequest(
                f"`{where}.type` must be `function`, `custom` or `namespace`; {shown(kind)} was"
                " given.",
                param=f"{where}.type",
            )
        name = _joined(namespace, made.name)
        while namespace and (name in offered or name in plain):
            name += "_"
        names.setdefault((namespace, made.name), name)
        offered.setdefault(name, Offered(kind, made.name, namespace))
        tools.append(Tool(name, made.description, made.parameters))
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(
            f"`tools` may hold {MAX_TOOLS} tools at most; it holds {len(tools)}.", param="tools"
        )
    return Toolbox(tuple(tools), offered, names, tuple(dict.fromkeys(left_out)))


def read_choice(
    given: str | Mapping[str, Any] | None, box: Toolbox
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """Whether tools are to be called, and those that may be. Raises: InvalidRequest."""
    match given:
        case None | "auto":
            return ToolChoice(), box.tools
        case "none":
            return ToolChoice("none"), ()
        case "required":
            return ToolChoice("required"), _chosen(given, box, [tool.name for tool in box.tools])
        case {"type": "function" | "custom", "name": str()}:
            name = _named(given, box)
            _chosen(given, box, [name])
            return ToolChoice("named", name or ""), box.tools
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(allowed)}:
            wanted = [tool for tool in allowed if not _is_hosted(tool)]
            if mode == "auto" and allowed and not wanted:
                return ToolChoice(), ()
            names = [_named(tool, box) for tool in wanted]
            return ToolChoice(mode), _chosen(allowed, box, names)
        case _:
            raise InvalidRequest(
                "`tool_choice` must be `none`, `auto`, `required`, a function, a custom tool or"
                f" allowed tools; {shown(given)} was given.",
                param="tool_choice",
            )


def tool_objects(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a Response object lists them, without those that were left out."""
    return [_tool_object(tool) for tool in given if not _is_hosted(tool)]


def _flat(given: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Every tool with its place in the body and its namespace."""
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        if tool.get("type") != "namespace":
            found.append((where, "", tool))
            continue
        name, inside = tool.get("name"), tool.get("tools")
        if not isinstance(name, str) or not _NAMESPACE.fullmatch(name):
            raise InvalidRequest(
                f"`{where}.name` must have 1 to 128 of the characters a-z, A-Z, 0-9, `_`, `.` and"
                f" `-`; {shown(name)} was given.",
                param=f"{where}.name",
            )
        if not isinstance(inside, list) or not all(isinstance(one, dict) for one in inside):
            raise InvalidRequest(
                f"`{where}.tools` must be a list of tools.", param=f"{where}.tools"
            )
        found += [(f"{where}.tools[{place}]", name, one) for place, one in enumerate(inside)]
    return found


def _joined(namespace: str, name: str) -> str:
    """A name that shows its namespace, of the characters that names of functions have."""
    if not namespace:
        return name
    plain = namespace.replace(".", "_")
    return plain + name if plain.endswith("__") else f"{plain}__{name}"


def _function(where: str, given: Mapping[str, Any]) -> Tool:
    parameters = given.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest(
            f"`{where}.parameters` must be a JSON schema.", param=f"{where}.parameters"
        )
    return Tool(
        _name(where, given),
        _description(where, given),
        parameters or {"type": "object", "properties": {}},
    )


def _custom(where: str, given: Mapping[str, Any]) -> Tool:
    form = given.get("format")
    members = form if isinstance(form, dict) else {}
    grammar, syntax = members.get("definition"), members.get("syntax")
    return custom_tool(
        _name(where, given),
        _description(where, given),
        where=f"{where}.format.definition",
        syntax=syntax if isinstance(syntax, str) else "",
        grammar=grammar if isinstance(grammar, str) else "",
    )


def _name(where: str, given: Mapping[str, Any]) -> str:
    name = given.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"`{where}.name` must have 1 to 64 of the characters a-z, A-Z, 0-9, `_` and `-`;"
            f" {shown(name)} was given.",
            param=f"{where}.name",
        )
    return name


def _description(where: str, given: Mapping[str, Any]) -> str:
    description = given.get("description")
    if description is not None and not isinstance(description, str):
        raise InvalidRequest(
            f"`{where}.description` must be a string.", param=f"{where}.description"
        )
    return description or ""


def _is_hosted(tool: object) -> bool:
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    return isinstance(kind, str) and _HOSTED.fullmatch(kind) is not None


def _named(tool: object, box: Toolbox) -> str | None:
    """How the model knows the tool of a choice, which may also be named as the model knows it."""
    if not isinstance(tool, Mapping) or not isinstance(name := tool.get("name"), str):
        return None
    namespace = tool.get("namespace")
    return box.names.get((namespace if isinstance(namespace, str) else "", name), name)


def _chosen(given: object, box: Toolbox, names: Sequence[str | None]) -> tuple[Tool, ...]:
    """The tools of those names. Raises: InvalidRequest unless all are there, and one at least."""
    if not names or not box.offered.keys() >= set(names):
        hosted = f" {', '.join(box.left_out)} cannot be had here." if box.left_out else ""
        raise InvalidRequest(
            f"`tool_choice` is {shown(given)}, and `tools` offers no such function.{hosted}",
            param="tool_choice",
        )
    return tuple(tool for tool in box.tools if tool.name in names)


def _tool_object(tool: Mapping[str, Any]) -> dict[str, Any]:
    match tool.get("type"):
        case "namespace":
            inside = [_tool_object(one) for one in tool["tools"] if not _is_hosted(one)]
            made: dict[str, Any] = {"type": "namespace", "name": tool["name"]}
            return made | {"description": tool.get("description"), "tools": inside}
        case "custom":
            made = {"type": "custom", "name": tool["name"]}
            made["description"] = tool.get("description")
            return made | {"format": tool.get("format") or {"type": "text"}}
        case _:
            return {
                "type": "function",
                "name": tool["name"],
                "description": tool.get("description"),
                "parameters": tool.get("parameters"),
                "strict": tool.get("strict"),
            }
