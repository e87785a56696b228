"""How a session answers: what clients set, checked, and shown to them again."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from msgspec import UNSET, UnsetType

from orchestrator.core.messages import Tool
from orchestrator.core.request import ReasoningEffort, ToolChoice
from orchestrator.http.bodies import json_text, shown
from orchestrator.wire.openai.realtime.client_events import (
    Options,
    ReasoningBody,
    SessionBody,
    ToolBody,
)
from orchestrator.wire.openai.realtime.faults import invalid, no_audio
from orchestrator.wire.openai.realtime.items import Dialect

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_TOKENS = 2**31 - 1
_EFFORTS: dict[str, ReasoningEffort] = {
    "none": "none",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
_BETA_ONLY = (
    "modalities",
    "temperature",
    "max_response_output_tokens",
    "voice",
    "input_audio_format",
    "output_audio_format",
    "input_audio_transcription",
    "turn_detection",
)


_AUTO = ToolChoice()


@dataclass(frozen=True, slots=True)
class Config:
    """`max_tokens` of `None` is what fits. `truncates`: old items may be left out to make room."""

    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = _AUTO
    parallel_tool_calls: bool = True
    reasoning: ReasoningEffort | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    truncates: bool = True


def dialect_of(body: SessionBody) -> Dialect | None:
    """The dialect that a `session.update` is written in; `None` where it does not show."""
    if body.type is not None or body.output_modalities is not UNSET:
        return "ga"
    if any(getattr(body, name) is not UNSET for name in _BETA_ONLY):
        return "beta"
    return None


def changed(config: Config, options: Options, where: str) -> Config:
    """`config` with what `options`, which stand at `where` in their event, set.

    `null` takes a value away. Raises: InvalidRequest.
    """
    _check_text_only(options, where)
    if options.prompt is not None:
        raise invalid(f"`{where}.prompt`: there are no stored prompts here.", f"{where}.prompt")
    config = _with_tools(config, options, where)
    if options.instructions is not UNSET:
        config = replace(config, instructions=options.instructions or "")
    if options.parallel_tool_calls is not UNSET:
        config = replace(config, parallel_tool_calls=options.parallel_tool_calls is not False)
    if options.reasoning is not UNSET:
        config = replace(config, reasoning=_effort(options.reasoning, where))
    if options.truncation is not UNSET:
        config = replace(config, truncates=options.truncation != "disabled")
    if options.temperature is not UNSET:
        config = replace(config, temperature=_temperature(options.temperature, where))
    for name in ("max_response_output_tokens", "max_output_tokens"):
        limit: int | str | UnsetType | None = getattr(options, name)
        if limit is not UNSET:
            config = replace(config, max_tokens=_limit(limit, f"{where}.{name}"))
    return config


def _check_text_only(options: Options, where: str) -> None:
    for name in ("modalities", "output_modalities"):
        wanted: list[str] | UnsetType | None = getattr(options, name)
        for modality in wanted or ():
            if modality == "audio":
                raise no_audio(f"`audio` in `{where}.{name}`", f"{where}.{name}")
            if modality != "text":
                raise invalid(
                    f"`{where}.{name}` may hold `text` only; {shown(modality)} was given.",
                    f"{where}.{name}",
                )


def _with_tools(config: Config, options: Options, where: str) -> Config:
    if options.tools is not UNSET:
        tools = enumerate(options.tools or ())
        made = tuple(_tool(tool, f"{where}.tools[{index}]") for index, tool in tools)
        config = replace(config, tools=made)
    if options.tool_choice is not UNSET:
        choice = _tool_choice(options.tool_choice, f"{where}.tool_choice")
        config = replace(config, tool_choice=choice)
    choice = config.tool_choice
    known = any(tool.name == choice.name for tool in config.tools)
    if choice.mode == "named" and not known:
        raise invalid(
            f"`{where}.tool_choice` names the function {shown(choice.name)}, "
            "which is none of the tools.",
            f"{where}.tool_choice",
        )
    return config


def _tool(tool: ToolBody, where: str) -> Tool:
    if tool.type != "function":
        raise invalid(
            f"`{where}.type` must be `function`; {shown(tool.type)} was given.", f"{where}.type"
        )
    if tool.name is None or not _FUNCTION_NAME.fullmatch(tool.name):
        raise invalid(
            f"`{where}.name` must have 1 to 64 of the characters a-z, A-Z, 0-9, `_` and `-`; "
            f"{shown(tool.name)} was given.",
            f"{where}.name",
        )
    parameters = tool.parameters or {"type": "object", "properties": {}}
    # Events of ours tell it, as deep as this.
    json_text({"session": {"tools": [{"parameters": parameters}]}}, f"{where}.parameters")
    return Tool(tool.name, tool.description or "", parameters)


def _tool_choice(given: str | dict[str, Any] | None, where: str) -> ToolChoice:
    match given:
        case None | "auto":
            return _AUTO
        case "none":
            return ToolChoice("none")
        case "required":
            return ToolChoice("required")
        case {"type": "function", "name": str(name)}:
            return ToolChoice("named", name)
        case _:
            raise invalid(
                f"`{where}` must be none, auto, required or a function by its name; "
                f"{shown(given)} was given.",
                where,
            )


def _effort(body: ReasoningBody | None, where: str) -> ReasoningEffort | None:
    if body is None or body.effort is None:
        return None
    effort = _EFFORTS.get(body.effort)
    if effort is None:
        raise invalid(
            f"`{where}.reasoning.effort` must be one of {', '.join(_EFFORTS)}; "
            f"{shown(body.effort)} was given.",
            f"{where}.reasoning.effort",
        )
    return effort


def _temperature(value: float | None, where: str) -> float | None:
    if value is not None and not 0 <= value <= 2:
        raise invalid(
            f"`{where}.temperature` must be between 0 and 2; {value:g} was given.",
            f"{where}.temperature",
        )
    return value


def _limit(value: int | str | None, where: str) -> int | None:
    if value is None or value == "inf":
        return None
    if isinstance(value, str) or value < 1:
        raise invalid(f"`{where}` must be `inf` or at least 1; {shown(value)} was given.", where)
    return min(value, _MAX_TOKENS)


def tokens_shown(config: Config) -> int | str:
    """The most tokens of an answer, in the words of both dialects."""
    return "inf" if config.max_tokens is None else config.max_tokens


def session_members(config: Config, dialect: Dialect | None) -> dict[str, Any]:
    """What a session object tells of `config`: the members of both while it is not known."""
    members: dict[str, Any] = {
        "instructions": config.instructions,
        "tools": [_tool_object(tool) for tool in config.tools],
        "tool_choice": _choice_object(config.tool_choice),
    }
    if dialect != "beta":
        members |= {
            "type": "realtime",
            "output_modalities": ["text"],
            "max_output_tokens": tokens_shown(config),
            "parallel_tool_calls": config.parallel_tool_calls,
            "reasoning": {"effort": config.reasoning} if config.reasoning else None,
            "truncation": "auto" if config.truncates else "disabled",
        }
    if dialect != "ga":
        members |= {
            "modalities": ["text"],
            "temperature": config.temperature,
            "max_response_output_tokens": tokens_shown(config),
            "turn_detection": None,
            "input_audio_transcription": None,
        }
    return members


def _tool_object(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }


def _choice_object(choice: ToolChoice) -> str | dict[str, str]:
    return {"type": "function", "name": choice.name} if choice.mode == "named" else choice.mode
