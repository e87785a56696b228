"""The functions that a client of Gemini's offers, and whether they are to be called.

Tools that run at Google are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Tool
from orchestrator.core.request import ToolChoice
from orchestrator.http.bodies import shown
from orchestrator.wire.gemini.json_schema import json_schema
from orchestrator.wire.gemini.request import (
    FunctionDeclaration,
    ToolBody,
    ToolConfig,
    given_members,
    listed,
)
from orchestrator.wire.openai.tools import MAX_TOOLS

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_FUNCTIONS = "functionDeclarations"
_CALLING = "toolConfig.functionCallingConfig"
_MODES = ("AUTO", "ANY", "NONE", "VALIDATED")


def left_out(bodies: Sequence[ToolBody]) -> list[str]:
    """The tools that run at Google, by their names in a body."""
    return [name for body in bodies for name in given_members(body) if name != _FUNCTIONS]


def read_tools(
    bodies: Sequence[ToolBody], config: ToolConfig | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools to offer, and whether they may, must or must not be called.

    Raises: InvalidRequest.
    """
    tools = tuple(
        _tool(f"tools[{index}].functionDeclarations[{place}]", declaration)
        for index, body in enumerate(bodies)
        for place, declaration in enumerate(listed(body.function_declarations))
    )
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(
            f"`tools` may declare {MAX_TOOLS} functions at most; it declares {len(tools)}.",
            param="tools",
        )
    calling = config.function_calling_config if config is not None else None
    if calling is None:
        return tools, ToolChoice()
    mode = (calling.mode or "AUTO").upper()
    names = listed(calling.allowed_function_names)
    if mode not in (*_MODES, "MODE_UNSPECIFIED"):
        raise InvalidRequest(
            f"`{_CALLING}.mode` must be one of {', '.join(_MODES)}; {shown(calling.mode)} was"
            " given.",
            param=f"{_CALLING}.mode",
        )
    if names:
        tools = _allowed(tools, mode, names)
    match mode:
        case "NONE":
            return (), ToolChoice("none")
        case "ANY" if not tools:
            raise InvalidRequest(
                f"`{_CALLING}.mode` is `ANY` and `tools` declares no function.",
                param=f"{_CALLING}.mode",
            )
        case "ANY" if len(names) == 1:
            return tools, ToolChoice("named", names[0])
        case "ANY":
            return tools, ToolChoice("required")
        case _:
            return tools, ToolChoice()


def _allowed(tools: tuple[Tool, ...], mode: str, names: Sequence[str]) -> tuple[Tool, ...]:
    """The tools that may be called."""
    where = f"{_CALLING}.allowedFunctionNames"
    if mode not in ("ANY", "VALIDATED"):
        raise InvalidRequest(
            f"`{where}` goes with the modes `ANY` and `VALIDATED`; the mode is `{mode}`.",
            param=where,
        )
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"`{where}` names {shown(name)}, which is not declared.", param=where
            )
    return tuple(tool for tool in tools if tool.name in names)


def _tool(where: str, declaration: FunctionDeclaration) -> Tool:
    if not _FUNCTION_NAME.fullmatch(declaration.name):
        raise InvalidRequest(
            f"`{where}.name` must have 1 to 128 of the characters a-z, A-Z, 0-9, `_`, `.`, `:` "
            f"and `-`; {shown(declaration.name)} was given.",
            param=f"{where}.name",
        )
    parameters = declaration.parameters_json_schema
    if parameters is None and declaration.parameters is not None:
        parameters = json_schema(f"{where}.parameters", declaration.parameters)
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    return Tool(declaration.name, declaration.description or "", parameters)
