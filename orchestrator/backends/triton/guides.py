"""Guides, which constrain the engine's answer to a format or to a forced tool call.

Source for the shape of a forced call: vLLM and SGLang, which agree on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import loosened
from orchestrator.core.messages import Tool
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonFormat,
    JsonSchemaFormat,
    ResponseFormat,
)
from orchestrator.core.schema_size import check_size
from orchestrator.triton.contract import Guide

ToolSchema = dict[str, Any]

_CLOSED_BY = frozenset(
    {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
)
"""A schema with only these keywords names all of an object's members."""


def guide_for(request: GenerationRequest, known: Sequence[str]) -> Guide | None:
    """The guide that `request` needs, if any; `known` are the kinds that the engine supports.

    Raises: InvalidRequest where the engine has no such kind, or no guide can be made.
    """
    guide = _guide(request)
    if guide is not None and guide.kind not in known:
        raise InvalidRequest(
            f"`{guide.param}` needs guided decoding, which the engine of `{request.model}` does"
            " not have.",
            param=guide.param,
        )
    return guide


def may_call_instead(request: GenerationRequest) -> bool:
    """Whether the model may call a tool instead; the answer's format then does not apply."""
    tools = isinstance(request.prompt, ChatPrompt) and request.prompt.tools
    return bool(tools) and request.tool_choice.mode == "auto"


def _guide(request: GenerationRequest) -> Guide | None:
    choice = request.tool_choice
    tools = request.prompt.tools if isinstance(request.prompt, ChatPrompt) else ()
    if tools and choice.mode == "named":
        tool = next((tool for tool in tools if tool.name == choice.name), None)
        if tool is None:
            raise InvalidRequest(
                f"`tool_choice` names `{choice.name}`, which is not among `tools`.",
                param="tool_choice",
            )
        check_size(tool.parameters, "tools")
        return _schema_guide(_arguments(tool), "tool_choice")
    if tools and choice.mode == "required":
        check_size([tool.parameters for tool in tools], "tools")
        return _schema_guide(_calls(tools, parallel=request.parallel_tool_calls), "tool_choice")
    if request.response_format is None:
        return None
    return _format_guide(request.response_format)


def _format_guide(wanted: ResponseFormat) -> Guide:
    match wanted:
        case JsonFormat():
            return Guide("json")
        case JsonSchemaFormat(schema=schema):
            return _schema_guide(schema, "response_format")
        case _:
            assert_never(wanted)


def _schema_guide(schema: Mapping[str, Any], param: str) -> Guide:
    return Guide("json_schema", json.dumps(schema, ensure_ascii=False), param)


def _arguments(tool: Tool) -> ToolSchema:
    """The schema of a call's arguments: always an object; only what engines can enforce.

    Parameters that the schema does not name are forbidden: a model would only invent them.
    """
    schema = {**loosened(tool.parameters), "type": "object"}
    if schema.keys() <= _CLOSED_BY:
        schema.setdefault("additionalProperties", False)
    return schema


def _calls(tools: Sequence[Tool], *, parallel: bool) -> ToolSchema:
    """The schema of a list of calls. Each tool's schema moves into `$defs`, with its references."""
    definitions = {
        f"tool{index}": _moved(_arguments(tool), f"#/$defs/tool{index}")
        for index, tool in enumerate(tools)
    }
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "parameters": {"$ref": f"#/$defs/tool{index}"},
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for index, tool in enumerate(tools)
    ]
    schema: ToolSchema = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    if not parallel:
        schema["maxItems"] = 1
    return {**schema, "$defs": definitions}


def _moved(schema: Any, root: str) -> Any:
    """A copy of `schema` whose references into itself point below `root`."""
    if isinstance(schema, Mapping):
        moved = {key: _moved(value, root) for key, value in schema.items()}
        if isinstance(reference := schema.get("$ref"), str):
            moved["$ref"] = root + reference[1:]
        return moved
    if isinstance(schema, list):
        return [_moved(one, root) for one in schema]
    return schema
