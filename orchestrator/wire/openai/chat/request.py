"""A chat request as OpenAI's clients write it. Source: OpenAI API reference, chat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema
from orchestrator.core.messages import (
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
)
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonFormat,
    JsonSchemaFormat,
    ReasoningEffort,
    ResponseFormat,
    ToolChoice,
)
from orchestrator.http.bodies import check_range, shown
from orchestrator.http.reasoning_effort import thinking_switch
from orchestrator.http.text_only import NotText, instead_of
from orchestrator.wire.openai.custom_tools import input_arguments
from orchestrator.wire.openai.tools import (
    FunctionBody,
    FunctionName,
    ToolBody,
    ToolChoiceBody,
    custom_names,
    read_tools,
)
from orchestrator.wire.openai.types import (
    SamplingFields,
    choice_count,
    required_model,
    room_limit,
    route_hint,
    sampling_params,
    stop_strings,
)


class ContentPart(msgspec.Struct):
    """A part of a message. Only `text` (and what an assistant refused with) can be taken."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(msgspec.Struct):
    """A call as a model made it; `arguments` is JSON text."""

    name: str
    arguments: str = ""


class CustomCall(msgspec.Struct):
    """A call of a custom tool as a model made it."""

    name: str
    input: str = ""


class ToolCall(msgspec.Struct):
    """A call in the history of a conversation."""

    function: FunctionCall | None = None
    custom: CustomCall | None = None
    id: str = ""
    type: str = "function"


class ChatMessage(msgspec.Struct):
    """One turn. `function_call` is the older form of one of `tool_calls`."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class NamedSchema(msgspec.Struct):
    """A JSON schema and the caller's word for it."""

    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormatBody(msgspec.Struct):
    """The shape of the answer: `text`, `json_object` or `json_schema`."""

    type: str
    json_schema: NamedSchema | None = None


class StreamOptions(msgspec.Struct):
    """What else to send in a stream."""

    include_usage: bool | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """A chat request. Members that are not listed are ignored, misspelt limits excepted."""

    model: str
    messages: list[ChatMessage]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[ToolBody] | None = None
    tool_choice: str | ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionBody] | None = None
    """The older form of `tools`."""
    function_call: str | FunctionName | None = None
    """The older form of `tool_choice`."""
    response_format: ResponseFormatBody | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    continue_final_message: bool | None = None
    """Not OpenAI's; the answer continues the last message, which is the assistant's."""
    chat_template_kwargs: dict[str, Any] | None = None
    """vLLM's; `enable_thinking`, or `thinking`, has an effect, the rest none."""
    route_hint: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def calls_functions(self) -> bool:
        """Whether calls are to be told in the older form."""
        return bool(self.functions) and not self.tools

    @property
    def custom_tools(self) -> frozenset[str]:
        """The names of the tools whose calls are to be told as those of custom tools."""
        return custom_names(self.tools)


GUARDED = (
    "max_tokens", "max_completion_tokens", "top_k", "min_p", "repetition_penalty", "route_hint",
    "continue_final_message",
)  # fmt: skip
MAX_TOP_LOGPROBS = 20
_NO_CHOICE = ToolChoice()
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
_PLAIN_ROLES: Mapping[str, Role] = {"system": "system", "developer": "developer", "user": "user"}
"""Those whose messages are text and nothing else."""
_EFFORTS: Mapping[str, ReasoningEffort] = {
    "none": "none",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def decode(body: ChatRequest) -> GenerationRequest:
    """The request without its dialect. Raises: InvalidRequest."""
    _check_modalities(body.modalities or ())
    if not body.messages:
        raise InvalidRequest("`messages` must hold at least one message.", param="messages")
    limit = room_limit("max_completion_tokens", body.max_completion_tokens)
    older_limit = room_limit("max_tokens", body.max_tokens)
    tools, choice = _tools(body)
    try:
        messages, prefill = _messages(body)
    except NotText as error:
        raise error.of(body.model) from None
    return GenerationRequest(
        model=required_model(body.model),
        prompt=ChatPrompt(messages, tools, prefill),
        sampling=sampling_params(body),
        max_tokens=older_limit if body.max_completion_tokens is None else limit,
        stop=stop_strings(body.stop),
        n=choice_count(body.n),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False and not body.calls_functions,
        response_format=_response_format(body.response_format),
        top_logprobs=_top_logprobs(body),
        reasoning=_reasoning(body.reasoning_effort, body.chat_template_kwargs),
        route_hint=route_hint(body.route_hint),
        whole=not body.stream,
    )


def _check_modalities(modalities: Sequence[str]) -> None:
    if any(modality != "text" for modality in modalities):
        raise InvalidRequest(
            f"`modalities` may hold `text` only; {shown(modalities)} was given.",
            param="modalities",
        )


def _tools(body: ChatRequest) -> tuple[tuple[Tool, ...], ToolChoice]:
    if not body.tools and not body.functions and body.tool_choice is None:
        return (), _NO_CHOICE
    if not body.calls_functions:
        return read_tools(body.tools, body.tool_choice)
    functions = [ToolBody("function", function) for function in body.functions or ()]
    named = body.function_call
    if isinstance(named, FunctionName):
        return read_tools(functions, ToolChoiceBody("function", named))
    return read_tools(functions, named)


def _response_format(body: ResponseFormatBody | None) -> ResponseFormat | None:
    match body.type if body is not None else "text":
        case "text":
            return None
        case "json_object":
            return JsonFormat()
        case "json_schema":
            assert body is not None
            return _json_schema(body.json_schema)
        case other:
            raise InvalidRequest(
                "`response_format.type` must be `text`, `json_object` or `json_schema`;"
                f" {shown(other)} was given.",
                param="response_format.type",
            )


def _json_schema(named: NamedSchema | None) -> ResponseFormat:
    where = "response_format.json_schema"
    if named is None:
        raise InvalidRequest(f"`{where}` is required.", param=where)
    if not _SCHEMA_NAME.fullmatch(named.name):
        raise InvalidRequest(
            f"`{where}.name` must have 1 to 64 of the characters a-z, A-Z, 0-9, `_` and `-`;"
            f" {shown(named.name)} was given.",
            param=f"{where}.name",
        )
    if named.schema is None:
        return JsonFormat()
    strict = bool(named.strict)
    check_schema(named.schema, f"{where}.schema", strict=strict)
    return JsonSchemaFormat(named.schema, named.name, strict)


def _top_logprobs(body: ChatRequest) -> int | None:
    check_range("top_logprobs", body.top_logprobs, 0, MAX_TOP_LOGPROBS)
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs` to be true.", param="top_logprobs")
    return None


def _reasoning(
    effort: str | None, template_kwargs: Mapping[str, Any] | None
) -> ReasoningEffort | None:
    if effort is None:
        return thinking_switch(template_kwargs)
    if effort not in _EFFORTS:
        raise InvalidRequest(
            f"`reasoning_effort` must be one of {', '.join(_EFFORTS)}; {shown(effort)} was given.",
            param="reasoning_effort",
        )
    return _EFFORTS[effort]


def _messages(body: ChatRequest) -> tuple[tuple[Message, ...], str]:
    """The conversation, and the beginning of the answer where the last message is it."""
    messages = tuple(_message(index, message) for index, message in enumerate(body.messages))
    if not body.continue_final_message:
        return messages, ""
    *others, last = messages
    if last.role != "assistant":
        raise InvalidRequest(
            "`continue_final_message` needs a last message of the role `assistant`;"
            f" `{last.role}` was given.",
            param="continue_final_message",
        )
    return tuple(others), last.text


def _message(index: int, message: ChatMessage) -> Message:
    plain, text = _PLAIN_ROLES.get(message.role), message.content
    if plain is not None and isinstance(text, str):
        return Message(plain, (TextPart(text),), message.name, message.tool_call_id)
    where = f"messages[{index}]"
    if message.role == "function":
        return _function_result(where, message)
    role = next((role for role in _ROLES if role == message.role), None)
    if role is None:
        raise InvalidRequest(
            f"`{where}.role` must be one of {', '.join(_ROLES)}; {shown(message.role)} was given.",
            param=f"{where}.role",
        )
    parts = _parts(where, message)
    # A tool that had nothing to say: clients of several makes send `null` then.
    silent = role == "tool" or (role == "assistant" and parts)
    if message.content is None and not silent:
        raise InvalidRequest(f"`{where}.content` is required.", param=f"{where}.content")
    if role == "tool" and message.tool_call_id is None:
        name = f"{where}.tool_call_id"
        raise InvalidRequest(f"`{name}` is required for the role `tool`.", param=name)
    return Message(role, parts, message.name, message.tool_call_id)


def _function_result(where: str, message: ChatMessage) -> Message:
    """What a function returned, in the older form: its name stands in for the call's id."""
    if message.name is None:
        raise InvalidRequest(
            f"`{where}.name` is required for the role `function`.", param=f"{where}.name"
        )
    return Message("tool", _parts(where, message), message.name, _older_call_id(message.name))


def _older_call_id(name: str) -> str:
    return f"call_{name}"


def _parts(where: str, message: ChatMessage) -> tuple[Part, ...]:
    parts: list[Part] = []
    assistant = message.role == "assistant"
    if message.reasoning_content and assistant:
        parts.append(ReasoningPart(message.reasoning_content))
    match message.content:
        case None:
            if message.refusal and assistant:
                parts.append(TextPart(message.refusal))
        case str(text):
            parts.append(TextPart(text))
        case content:
            read = _result_part if message.role in ("tool", "function") else _part
            parts += [read(f"{where}.content[{i}]", part) for i, part in enumerate(content)]
    if assistant:
        parts += _calls(where, message)
    return tuple(parts)


def _calls(where: str, message: ChatMessage) -> list[ToolCallPart]:
    calls = [
        _call(f"{where}.tool_calls[{index}]", call)
        for index, call in enumerate(message.tool_calls or ())
    ]
    if (older := message.function_call) is not None:
        calls.append(ToolCallPart(_older_call_id(older.name), older.name, older.arguments))
    return calls


def _call(where: str, call: ToolCall) -> ToolCallPart:
    if call.function is not None:
        return ToolCallPart(call.id, call.function.name, call.function.arguments)
    if call.custom is not None:
        return ToolCallPart(call.id, call.custom.name, input_arguments(call.custom.input))
    name = f"{where}.{'custom' if call.type == 'custom' else 'function'}"
    raise InvalidRequest(f"`{name}` is required.", param=name)


def _result_part(where: str, part: ContentPart) -> TextPart:
    """A part of a tool's result: what is no text is named in its place, so that work goes on."""
    if part.type in ("text", "refusal"):
        return _part(where, part)
    return TextPart(instead_of(part.type))


def _part(where: str, part: ContentPart) -> TextPart:
    if part.type == "refusal" and part.refusal is not None:
        return TextPart(part.refusal)
    if part.type != "text":
        raise NotText(where, part.type)
    if part.text is None:
        raise InvalidRequest(f"`{where}.text` is required.", param=f"{where}.text")
    return TextPart(part.text)
