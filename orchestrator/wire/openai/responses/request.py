"""Bodies of the Responses API, and what they ask for. Source: OpenAI API reference, responses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema
from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonFormat,
    JsonSchemaFormat,
    ReasoningEffort,
    ResponseFormat,
    SamplingParams,
)
from orchestrator.http.bodies import check_range, shown
from orchestrator.http.reasoning_effort import thinking_switch
from orchestrator.responses.values import Item
from orchestrator.wire.openai.responses.items import check_calls, messages_of
from orchestrator.wire.openai.responses.reasoning import ReasoningSeal
from orchestrator.wire.openai.responses.tools import Toolbox, read_choice, tool_objects
from orchestrator.wire.openai.types import (
    SamplingFields,
    required_model,
    room_limit,
    route_hint,
    sampling_params,
    stop_strings,
    token_limit,
)


class TextConfig(msgspec.Struct):
    """The shape of the text. `verbosity` is taken and has no effect."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(msgspec.Struct):
    """How much to think. Summaries are not made: the reasoning itself is given."""

    effort: str | None = None
    summary: str | None = None


class ResponsesBody(SamplingFields, kw_only=True):
    """A request for a response. Members that are not listed are ignored."""

    model: str
    input: str | list[Any] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    service_tier: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """vLLM's, as in a chat."""
    route_hint: str | None = None


_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOGPROBS = "message.output_text.logprobs"
_REASONING = "reasoning.encrypted_content"
_NO_DEFAULTS = SamplingParams()
_MAX_LOGPROBS = 20
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_EFFORTS: Mapping[str, ReasoningEffort] = {
    "none": "none",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# What a caller relies on and would not get.
_REFUSED = {
    "conversation": "go on from a response with `previous_response_id`",
    "prompt": "give `instructions` and `input`",
    "moderation": "no moderation is made here",
}


def check_body(body: ResponsesBody) -> None:
    """Raises: InvalidRequest for what stands in the body and cannot be done."""
    for name, instead in _REFUSED.items():
        if getattr(body, name) is not None:
            raise InvalidRequest(f"`{name}` is not supported: {instead}.", param=name)
    if body.n not in (None, 1):
        raise InvalidRequest(f"`n` must be 1; {body.n} was given.", param="n")
    if body.background and body.store is False:
        raise InvalidRequest(
            "`background` needs the response to be stored, and `store` is false.", param="store"
        )
    token_limit("max_tool_calls", body.max_tool_calls)
    check_range("top_logprobs", body.top_logprobs, 0, _MAX_LOGPROBS)
    _check_metadata(body.metadata or {})


def decode(
    body: ResponsesBody, items: Sequence[Item], box: Toolbox, seal: ReasoningSeal | None = None
) -> GenerationRequest:
    """The request without its dialect. `items` are all that was said, what came before too.

    `box` holds the tools of `body`; `seal` reads encrypted reasoning.

    Raises: InvalidRequest.
    """
    if not items:
        raise InvalidRequest("`input` must hold a text or an item.", param="input")
    check_calls(items)
    messages = messages_of(items, box, seal)
    if body.instructions is not None:
        messages = (Message("system", (TextPart(body.instructions),)), *messages)
    choice, tools = read_choice(body.tool_choice, box)
    return GenerationRequest(
        model=required_model(body.model),
        prompt=ChatPrompt(messages, tools),
        sampling=sampling_params(body),
        max_tokens=room_limit("max_output_tokens", body.max_output_tokens),
        stop=stop_strings(body.stop),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        response_format=_format(body.text.format if body.text else None),
        top_logprobs=_top_logprobs(body),
        reasoning=_effort(body.reasoning) or thinking_switch(body.chat_template_kwargs),
        route_hint=route_hint(body.route_hint),
        whole=not (body.stream or body.background),
    )


def wants_encrypted_reasoning(body: ResponsesBody) -> bool:
    """Whether reasoning items are to have their text in `encrypted_content` too."""
    return _REASONING in (body.include or ())


def response_object(
    body: ResponsesBody,
    response_id: str,
    created_at: int,
    *,
    stored: bool,
    defaults: SamplingParams = _NO_DEFAULTS,
) -> dict[str, Any]:
    """The Response object at its start, with the model's `defaults` where nothing was asked for."""
    reasoning, text = body.reasoning or ReasoningConfig(), body.text or TextConfig()
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "queued" if body.background else "in_progress",
        "background": bool(body.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": room_limit("max_output_tokens", body.max_output_tokens),
        "max_tool_calls": body.max_tool_calls,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": stored,
        "temperature": 1.0,
        "text": {
            "format": text.format or {"type": "text"},
            "verbosity": text.verbosity or "medium",
        },
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": tool_objects(body.tools or ()),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
        **_in_force(body, defaults),
    }


def _in_force(body: ResponsesBody, defaults: SamplingParams) -> dict[str, float]:
    """The numbers that the caller gave, or else the model's own: the caller's temperature comes
    without the model's `top_p`.
    """
    own = defaults if body.temperature is None else _NO_DEFAULTS
    numbers = {
        "temperature": own.temperature if body.temperature is None else body.temperature,
        "top_p": own.top_p if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
    }
    return {name: number for name, number in numbers.items() if number is not None}


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > _MAX_PAIRS:
        raise InvalidRequest(
            f"`metadata` may hold {_MAX_PAIRS} pairs at most; it holds {len(metadata)}.",
            param="metadata",
        )
    for name, value in metadata.items():
        if len(name) > _MAX_KEY or len(value) > _MAX_VALUE:
            raise InvalidRequest(
                f"`metadata` may have keys of {_MAX_KEY} and values of {_MAX_VALUE} characters;"
                f" {shown(name)} has {len(name)} and {len(value)}.",
                param="metadata",
            )


def _format(given: Mapping[str, Any] | None) -> ResponseFormat | None:
    kind: object = "text" if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return JsonFormat()
    if kind != "json_schema":
        raise InvalidRequest(
            "`text.format.type` must be `text`, `json_object` or `json_schema`;"
            f" {shown(kind)} was given.",
            param="text.format.type",
        )
    name, schema, strict = given.get("name"), given.get("schema"), given.get("strict") is True
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise InvalidRequest(
            "`text.format.name` must have 1 to 64 of the characters a-z, A-Z, 0-9, `_` and `-`;"
            f" {shown(name)} was given.",
            param="text.format.name",
        )
    if not isinstance(schema, dict):
        raise InvalidRequest("`text.format.schema` is required.", param="text.format.schema")
    check_schema(schema, "text.format.schema", strict=strict)
    return JsonSchemaFormat(schema, name, strict)


def _top_logprobs(body: ResponsesBody) -> int | None:
    if body.top_logprobs:
        return body.top_logprobs
    return 0 if _LOGPROBS in (body.include or ()) else None


def _effort(given: ReasoningConfig | None) -> ReasoningEffort | None:
    if given is None or given.effort is None:
        return None
    if given.effort not in _EFFORTS:
        raise InvalidRequest(
            f"`reasoning.effort` must be one of {', '.join(_EFFORTS)};"
            f" {shown(given.effort)} was given.",
            param="reasoning.effort",
        )
    return _EFFORTS[given.effort]
