"""OpenAI's chat completions. Source: OpenAI API reference, chat and chat streaming."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, assert_never

import msgspec
import orjson

from orchestrator.auth import Authenticator
from orchestrator.core.errors import InvalidRequest
from orchestrator.core.events import (
    Choice,
    ChoiceFinished,
    Completion,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
)
from orchestrator.core.messages import (
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
)
from orchestrator.core.request import ChatPrompt, GenerationRequest
from orchestrator.gateway import Gateway
from orchestrator.wire.bodies import BodyReader, shown
from orchestrator.wire.http import Exchange, Route
from orchestrator.wire.openai_types import (
    SamplingFields,
    choice_count,
    json_body,
    required_model,
    route_hint,
    sampling_params,
    stop_strings,
    token_limit,
    usage_object,
)
from orchestrator.wire.sse import send_completion, send_stream


class ContentPart(msgspec.Struct):
    """A part of a message. Only `text` (and what an assistant refused with) can be taken."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(msgspec.Struct):
    """A call as a model made it; `arguments` is JSON text."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """A call in the history of a conversation."""

    function: FunctionCall
    id: str = ""
    type: str = "function"


class ChatMessage(msgspec.Struct):
    """One turn."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class FunctionBody(msgspec.Struct):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(msgspec.Struct):
    """A tool; only functions can be offered."""

    type: str
    function: FunctionBody | None = None


class ResponseFormat(msgspec.Struct):
    """The shape of the answer."""

    type: str


class StreamOptions(msgspec.Struct):
    """What else to send in a stream."""

    include_usage: bool | None = None


class ChatBody(SamplingFields, kw_only=True):
    """A chat request. Members that are not listed are ignored."""

    model: str
    messages: list[ChatMessage]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[ToolBody] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    route_hint: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")


def decode(body: ChatBody) -> GenerationRequest:
    """The request without its dialect. Raises: InvalidRequest."""
    _refuse_unsupported(body)
    if not body.messages:
        raise InvalidRequest("`messages` must hold at least one message.", param="messages")
    messages = tuple(_message(index, message) for index, message in enumerate(body.messages))
    limit = token_limit("max_completion_tokens", body.max_completion_tokens)
    older_limit = token_limit("max_tokens", body.max_tokens)
    return GenerationRequest(
        model=required_model(body.model),
        prompt=ChatPrompt(messages, _tools(body)),
        sampling=sampling_params(body),
        max_tokens=older_limit if limit is None else limit,
        stop=stop_strings(body.stop),
        n=choice_count(body.n),
        route_hint=route_hint(body.route_hint),
    )


def _refuse_unsupported(body: ChatBody) -> None:
    """What this version cannot do is refused, not left out in silence."""
    if body.logprobs or body.top_logprobs:
        param = "logprobs" if body.logprobs else "top_logprobs"
        raise InvalidRequest(f"`{param}` is not supported yet.", param=param)
    if body.response_format is not None and body.response_format.type != "text":
        given = shown(body.response_format.type)
        raise InvalidRequest(
            f"`response_format` of type {given} is not supported yet; only `text` is.",
            param="response_format",
        )
    if any(modality != "text" for modality in body.modalities or ()):
        raise InvalidRequest(
            f"`modalities` may hold `text` only; {shown(body.modalities)} was given.",
            param="modalities",
        )


def _message(index: int, message: ChatMessage) -> Message:
    where = f"messages[{index}]"
    role = next((role for role in _ROLES if role == message.role), None)
    if role is None:
        raise InvalidRequest(
            f"`{where}.role` must be one of {', '.join(_ROLES)}; {shown(message.role)} was given.",
            param=f"{where}.role",
        )
    parts = _parts(where, message)
    if message.content is None and (role != "assistant" or not parts):
        raise InvalidRequest(f"`{where}.content` is required.", param=f"{where}.content")
    if role == "tool" and message.tool_call_id is None:
        name = f"{where}.tool_call_id"
        raise InvalidRequest(f"`{name}` is required for the role `tool`.", param=name)
    return Message(role, parts, message.name, message.tool_call_id)


def _parts(where: str, message: ChatMessage) -> tuple[Part, ...]:
    parts: list[Part] = []
    if message.reasoning_content and message.role == "assistant":
        parts.append(ReasoningPart(message.reasoning_content))
    match message.content:
        case None:
            pass
        case str(text):
            parts.append(TextPart(text))
        case content:
            parts += [_part(f"{where}.content[{i}]", part) for i, part in enumerate(content)]
    if message.tool_calls and message.role == "assistant":
        parts += [
            ToolCallPart(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls
        ]
    return tuple(parts)


def _part(where: str, part: ContentPart) -> TextPart:
    if part.type == "refusal" and part.refusal is not None:
        return TextPart(part.refusal)
    if part.type != "text":
        raise InvalidRequest(
            f"`{where}` is of type {shown(part.type)}; this model takes text only.", param=where
        )
    if part.text is None:
        raise InvalidRequest(f"`{where}.text` is required.", param=f"{where}.text")
    return TextPart(part.text)


def _tools(body: ChatBody) -> tuple[Tool, ...]:
    tools = tuple(_tool(f"tools[{index}]", tool) for index, tool in enumerate(body.tools or ()))
    match body.tool_choice:
        case None | "auto":
            return tools
        case "none":
            return ()
        case "required" | dict():
            raise InvalidRequest(
                f"`tool_choice` {shown(body.tool_choice)} is not supported yet; "
                "only `none` and `auto` are.",
                param="tool_choice",
            )
        case _:
            raise InvalidRequest(
                f"`tool_choice` must be `none` or `auto`; {shown(body.tool_choice)} was given.",
                param="tool_choice",
            )


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


_escaped = json.encoder.encode_basestring_ascii
_DONE = b"data: [DONE]\n\n"


class Encoder:
    """Writes one generation down. One per request.

    Frames end in LF and hold ASCII only, so that a client which cuts them at the wrong place, or
    splits lines on LF alone, still reads them.
    """

    def __init__(self, *, choices: int, include_usage: bool, fingerprint: str) -> None:
        self._choices = choices
        self._include_usage = include_usage
        self._fingerprint = fingerprint
        self._envelope = b""
        self._heads = [b'data: {"choices":[{"index":0,"delta":']
        # A client that asked for usage finds the member in every chunk; any other in none.
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._running = b',"logprobs":null,"finish_reason":null}' + self._end
        self._calls = [0] * choices

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The chunks that `event` brings about."""
        match event:
            case PartDelta(kind="text"):
                return (self._chunk(event.choice, f'{{"content":{_escaped(event.text)}}}'),)
            case PartDelta(kind="reasoning"):
                delta = f'{{"reasoning_content":{_escaped(event.text)}}}'
                return (self._chunk(event.choice, delta),)
            case PartDelta():
                return (self._chunk(event.choice, self._arguments(event)),)
            case GenerationStarted():
                return self._started(event)
            case PartStarted(kind="tool_call"):
                return (self._chunk(event.choice, self._tool_call(event)),)
            case PartStarted() | PartFinished():
                return ()
            case ChoiceFinished():
                return (self._last_chunk(event.choice, event.reason),)
            case GenerationFinished():
                return self._finished(event)
            case _:
                assert_never(event)

    def result(self, completion: Completion) -> bytes:
        """The whole reply."""
        return orjson.dumps(
            {
                "id": completion.id,
                "object": "chat.completion",
                "created": completion.created_at,
                "model": completion.model,
                "system_fingerprint": self._fingerprint,
                "choices": [
                    _choice_object(index, choice) for index, choice in enumerate(completion.choices)
                ],
                "usage": usage_object(completion.usage),
            }
        )

    def error(self, members: dict[str, Any]) -> Sequence[bytes]:
        """A last chunk with the error in it, and the end of the stream.

        It has `choices`, because the simplest clients read them without looking.
        """
        chunk = self._last_chunk(0, "error")
        rest = json.dumps(members, separators=(",", ":")).encode("ascii")[1:]
        return (chunk.removesuffix(b"}\n\n") + b"," + rest + b"\n\n", _DONE)

    def _started(self, event: GenerationStarted) -> Sequence[bytes]:
        """Renders what is the same in every chunk, and opens every choice."""
        self._envelope = (
            f'data: {{"id":{_escaped(event.id)},"object":"chat.completion.chunk",'
            f'"created":{event.created_at},"model":{_escaped(event.model)},'
            f'"system_fingerprint":{_escaped(self._fingerprint)},"choices":['
        ).encode("ascii")
        self._heads = [
            self._envelope + b'{"index":%d,"delta":' % index for index in range(self._choices)
        ]
        opening = '{"role":"assistant","content":""}'
        return [self._chunk(index, opening) for index in range(self._choices)]

    def _chunk(self, choice: int, delta: str) -> bytes:
        return self._heads[choice] + delta.encode("ascii") + self._running

    def _last_chunk(self, choice: int, reason: str) -> bytes:
        end = b'{},"logprobs":null,"finish_reason":"%b"}' % reason.encode("ascii")
        return self._heads[choice] + end + self._end

    def _tool_call(self, event: PartStarted) -> str:
        index = self._calls[event.choice]
        self._calls[event.choice] += 1
        return (
            f'{{"tool_calls":[{{"index":{index},"id":{_escaped(event.tool_call_id)},'
            f'"type":"function","function":{{"name":{_escaped(event.tool_name)},'
            '"arguments":""}}]}'
        )

    def _arguments(self, event: PartDelta) -> str:
        index = self._calls[event.choice] - 1
        return (
            f'{{"tool_calls":[{{"index":{index},'
            f'"function":{{"arguments":{_escaped(event.text)}}}}}]}}'
        )

    def _finished(self, event: GenerationFinished) -> Sequence[bytes]:
        if not self._include_usage:
            return (_DONE,)
        usage = orjson.dumps(usage_object(event.usage))
        return (self._envelope + b'],"usage":' + usage + b"}\n\n", _DONE)


def _choice_object(index: int, choice: Choice) -> dict[str, Any]:
    content, reasoning = "", ""
    calls: list[dict[str, Any]] = []
    for part in choice.parts:
        match part:
            case TextPart(text=text):
                content += text
            case ReasoningPart(text=text):
                reasoning += text
            case ToolCallPart():
                function = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": part.id, "type": "function", "function": function})
            case _:
                assert_never(part)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls and not content else content,
        "refusal": None,
    }
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.reason}


_EXAMPLE = {"model": "demo/chat", "messages": [{"role": "user", "content": "Hello!"}]}


def routes(authenticator: Authenticator, gateway: Gateway, fingerprint: str) -> list[Route]:
    """The routes of this dialect."""
    reader = BodyReader(ChatBody)

    async def create(exchange: Exchange) -> None:
        """Answers a conversation, whole or as server-sent events."""
        principal = await exchange.admit(authenticator)
        body = reader.read(await exchange.body())
        request = decode(body)
        exchange.model = request.model
        encoder = Encoder(
            choices=request.n, include_usage=body.wants_usage, fingerprint=fingerprint
        )
        send = send_stream if body.stream else send_completion
        async with exchange.while_connected():
            generation = await gateway.generate(principal, request, exchange.context("chat"))
            await send(exchange, generation, encoder)

    return [
        Route(
            "POST",
            "/chat/completions",
            create,
            "create_chat_completion",
            "Create a chat completion",
            json_body(ChatBody, _EXAMPLE),
        )
    ]
