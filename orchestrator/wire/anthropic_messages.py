"""Anthropic's messages. Source: Anthropic API reference, messages and streaming messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from orchestrator.auth import Authenticator
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
    JsonSchemaFormat,
    ReasoningEffort,
    SamplingParams,
    ToolChoice,
)
from orchestrator.gateway import Gateway
from orchestrator.wire.anthropic_messages_encoder import PINGED_EVENTS, Encoder
from orchestrator.wire.anthropic_messages_replies import (
    MessageErrorReply,
    MessageReply,
    TokensCount,
)
from orchestrator.wire.anthropic_messages_types import (
    Block,
    CountBody,
    MessagesBody,
    PromptFields,
    TextBlock,
    ThinkingBody,
    ToolBody,
    TurnBody,
)
from orchestrator.wire.bodies import BodyReader, check_range, json_text, shown
from orchestrator.wire.http import Exchange, Route
from orchestrator.wire.openai_tools import MOST_TOOLS
from orchestrator.wire.openai_types import required_model, token_limit
from orchestrator.wire.openapi import INFERENCE, Operation
from orchestrator.wire.sse import send_completion, send_stream
from orchestrator.wire.thinking import effort_of_budget

MOST_STOPS = 32
LEAST_THINKING_TOKENS = 1024
_LARGEST_INT32 = 2**31 - 1
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ROLES: tuple[Role, ...] = ("user", "assistant", "system")
_EFFORTS: dict[str, ReasoningEffort] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def decode(body: MessagesBody) -> GenerationRequest:
    """The request without its dialect. Raises: InvalidRequest."""
    check_range("temperature", body.temperature, 0, 1)
    check_range("top_p", body.top_p, 0, 1)
    check_range("top_k", body.top_k, 0, _LARGEST_INT32)
    max_tokens = token_limit("max_tokens", body.max_tokens)
    _check_budget(body.thinking, body.max_tokens)
    tools, choice = _tools(body)
    parallel = body.tool_choice is None or not body.tool_choice.disable_parallel_tool_use
    return GenerationRequest(
        model=required_model(body.model),
        prompt=_prompt(body, tools),
        sampling=SamplingParams(
            temperature=body.temperature, top_p=body.top_p, top_k=body.top_k, seed=body.seed
        ),
        max_tokens=max_tokens,
        stop=_stops(body.stop_sequences or []),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=_format(body),
        reasoning=_reasoning(body),
        whole=not body.stream,
    )


def decode_count(body: CountBody) -> GenerationRequest:
    """A request whose prompt is to be counted. Raises: InvalidRequest."""
    tools, _ = _tools(body)
    return GenerationRequest(model=required_model(body.model), prompt=_prompt(body, tools))


def shows_thinking(body: MessagesBody) -> bool:
    """Whether the answer may begin with a thinking block: only where one was asked for.

    Everybody else reads the first block as the answer.
    """
    return body.thinking is not None and body.thinking.type != "disabled"


def hides_thoughts(body: MessagesBody) -> bool:
    """Whether thinking blocks are to come without their text."""
    return body.thinking is not None and body.thinking.display == "omitted"


def _prompt(body: PromptFields, tools: tuple[Tool, ...]) -> ChatPrompt:
    if not body.messages:
        raise InvalidRequest("`messages` must hold at least one message.", param="messages")
    if body.mcp_servers:
        raise InvalidRequest(
            "`mcp_servers` is not supported; call the servers and offer `tools`.",
            param="mcp_servers",
        )
    messages: list[Message] = []
    if body.system:
        messages.append(Message("system", _texts("system", body.system)))
    *turns, last = body.messages
    for index, turn in enumerate(turns):
        messages += _turn(f"messages[{index}]", turn)
    where = f"messages[{len(turns)}]"
    if last.role == "assistant" and (prefill := _prefill(where, last)) is not None:
        return ChatPrompt(_joined(messages), tools, prefill)
    return ChatPrompt(_joined([*messages, *_turn(where, last)]), tools)


def _prefill(where: str, turn: TurnBody) -> str | None:
    """The beginning of the answer, where the last turn is the assistant's and is text only."""
    [message] = _turn(where, turn)
    if any(isinstance(part, ToolCallPart) for part in message.parts):
        return None
    if message.text.rstrip() != message.text:
        raise InvalidRequest(
            f"`{where}.content` begins the answer and may not end with white space.",
            param=f"{where}.content",
        )
    return message.text


def _joined(messages: list[Message]) -> tuple[Message, ...]:
    """Turns of one role that follow each other are one turn, as Anthropic takes them."""
    # A turn's parts are collected in its list: a hundred thousand turns may become one.
    joined: list[tuple[Message, list[Part]]] = []
    has_text = False
    for message in messages:
        speaks = message.role in ("user", "assistant")
        if speaks and joined and joined[-1][0].role == message.role:
            parts, says = joined[-1][1], bool(message.text)
            if has_text and says:
                parts.append(TextPart("\n\n"))
            parts += message.parts
            has_text = has_text or says
        else:
            joined.append((message, list(message.parts)))
            has_text = bool(message.text)
    return tuple(replace(message, parts=tuple(parts)) for message, parts in joined)


def _turn(where: str, turn: TurnBody) -> list[Message]:
    """The messages of a turn: results of tools are messages of their own."""
    match turn.role:
        case "user":
            return _user_turn(where, turn)
        case "assistant":
            if isinstance(turn.content, str):
                return [Message("assistant", (TextPart(turn.content),))]
            parts = [
                part
                for index, block in enumerate(turn.content)
                for part in _assistant_parts(f"{where}.content[{index}]", block)
            ]
            return [Message("assistant", tuple(parts))]
        case "system":
            return [Message("system", _texts(f"{where}.content", turn.content))]
        case _:
            raise InvalidRequest(
                f"`{where}.role` must be one of {', '.join(_ROLES)}; {shown(turn.role)} was given.",
                param=f"{where}.role",
            )


def _user_turn(where: str, turn: TurnBody) -> list[Message]:
    if isinstance(turn.content, str):
        return [Message("user", (TextPart(turn.content),))]
    messages: list[Message] = []
    texts: list[Part] = []
    for index, block in enumerate(turn.content):
        place = f"{where}.content[{index}]"
        if block.type != "tool_result":
            texts.append(_text(place, block))
            continue
        if texts:
            messages.append(Message("user", tuple(texts)))
            texts = []
        messages.append(_tool_result(place, block))
    if texts or not messages:
        messages.append(Message("user", tuple(texts)))
    return messages


def _assistant_parts(where: str, block: Block) -> tuple[Part, ...]:
    match block.type:
        case "thinking":
            return (ReasoningPart(block.thinking or ""),) if block.thinking else ()
        case "redacted_thinking":
            # Only Anthropic could read what is in it.
            return ()
        case "tool_use":
            call_id = _required(f"{where}.id", block.id)
            name = _required(f"{where}.name", block.name)
            return (ToolCallPart(call_id, name, json_text(block.input or {}, f"{where}.input")),)
        case _:
            return (_text(where, block),)


def _tool_result(where: str, block: Block) -> Message:
    call_id = _required(f"{where}.tool_use_id", block.tool_use_id)
    parts = () if block.content is None else _texts(f"{where}.content", block.content)
    if block.is_error:
        parts = (TextPart("Error: "), *parts)
    return Message("tool", parts, tool_call_id=call_id)


def _texts(where: str, content: str | Sequence[TextBlock]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_text(f"{where}[{index}]", block) for index, block in enumerate(content))


def _text(where: str, block: TextBlock) -> TextPart:
    if block.type != "text":
        raise InvalidRequest(
            f"`{where}` is of type {shown(block.type)}; this model takes text only.", param=where
        )
    return TextPart(_required(f"{where}.text", block.text))


def _required(name: str, value: str | None) -> str:
    if value is None:
        raise InvalidRequest(f"`{name}` is required.", param=name)
    return value


def _tools(body: PromptFields) -> tuple[tuple[Tool, ...], ToolChoice]:
    given = body.tools or []
    if len(given) > MOST_TOOLS:
        raise InvalidRequest(
            f"`tools` may hold {MOST_TOOLS} at most; it holds {len(given)}.", param="tools"
        )
    tools = tuple(_tool(f"tools[{index}]", tool) for index, tool in enumerate(given))
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
            choice = ToolChoice("named", _required("tool_choice.name", wanted.name))
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
    if tool.type not in (None, "custom"):
        raise InvalidRequest(
            f"`{where}.type` must be `custom`; {shown(tool.type)} is run by Anthropic.",
            param=f"{where}.type",
        )
    name = _required(f"{where}.name", tool.name)
    if not _TOOL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"`{where}.name` must have 1 to 128 of the characters a-z, A-Z, 0-9, `_` and `-`; "
            f"{shown(name)} was given.",
            param=f"{where}.name",
        )
    if tool.input_schema is None:
        raise InvalidRequest(f"`{where}.input_schema` is required.", param=f"{where}.input_schema")
    return Tool(name, tool.description or "", tool.input_schema)


def _stops(stops: list[str]) -> tuple[str, ...]:
    if len(stops) > MOST_STOPS:
        raise InvalidRequest(
            f"`stop_sequences` may hold {MOST_STOPS} strings at most; it holds {len(stops)}.",
            param="stop_sequences",
        )
    if "" in stops:
        raise InvalidRequest(
            "`stop_sequences` may not hold an empty string.", param="stop_sequences"
        )
    return tuple(stops)


def _format(body: PromptFields) -> JsonSchemaFormat | None:
    given = body.output_config.format if body.output_config is not None else None
    where = "output_config.format" if given is not None else "output_format"
    given = given or body.output_format
    if given is None:
        return None
    if given.type != "json_schema":
        raise InvalidRequest(
            f"`{where}.type` must be `json_schema`; {shown(given.type)} was given.",
            param=f"{where}.type",
        )
    if given.schema is None:
        raise InvalidRequest(f"`{where}.schema` is required.", param=f"{where}.schema")
    check_schema(given.schema, f"{where}.schema")
    return JsonSchemaFormat(given.schema, strict=True)


def _reasoning(body: PromptFields) -> ReasoningEffort | None:
    """The effort by its name where it is given, otherwise by the tokens allowed for it."""
    thinking = body.thinking
    if thinking is not None and thinking.type == "disabled":
        return "none"
    effort = body.output_config.effort if body.output_config is not None else None
    if effort is not None:
        if effort not in _EFFORTS:
            raise InvalidRequest(
                f"`output_config.effort` must be one of {', '.join(_EFFORTS)}; "
                f"{shown(effort)} was given.",
                param="output_config.effort",
            )
        return _EFFORTS[effort]
    if thinking is not None and thinking.budget_tokens is not None:
        return effort_of_budget(thinking.budget_tokens)
    return None


def _check_budget(thinking: ThinkingBody | None, max_tokens: int) -> None:
    if thinking is None:
        return
    if thinking.type not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise InvalidRequest(
            "`thinking.type` must be `enabled`, `adaptive`, `between_tools` or `disabled`; "
            f"{shown(thinking.type)} was given.",
            param="thinking.type",
        )
    if thinking.type != "enabled":
        return
    name = "thinking.budget_tokens"
    if thinking.budget_tokens is None:
        raise InvalidRequest(f"`{name}` is required.", param=name)
    check_range(name, thinking.budget_tokens, LEAST_THINKING_TOKENS, _LARGEST_INT32)
    if thinking.budget_tokens >= max_tokens:
        raise InvalidRequest(
            f"`{name}` must be below `max_tokens`, which is {max_tokens}; "
            f"{thinking.budget_tokens} was given.",
            param=name,
        )


_EXAMPLE: dict[str, Any] = {
    "model": "demo/chat",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello!"}],
}
_COUNT_EXAMPLE = {name: value for name, value in _EXAMPLE.items() if name != "max_tokens"}


def _operation(
    body: Any, reply: Any, example: dict[str, Any], *, streams: bool = False, limited: bool = True
) -> Operation:
    return Operation(
        body=body,
        reply=reply,
        example=example,
        errors=INFERENCE,
        error=MessageErrorReply,
        streams=streams,
        limited=limited,
    )


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes of this dialect."""
    reader, count_reader = BodyReader(MessagesBody), BodyReader(CountBody)

    def read(given: bytes) -> tuple[MessagesBody, GenerationRequest]:
        body = reader.read(given)
        return body, decode(body)

    def read_count(given: bytes) -> GenerationRequest:
        return decode_count(count_reader.read(given))

    async def create(exchange: Exchange) -> None:
        """Answers a conversation, whole or as server-sent events."""
        principal = await exchange.admit(authenticator)
        body, request = await exchange.decoded(read, gateway.check_limits)
        exchange.model = request.model
        encoder = Encoder(thinking=shows_thinking(body), omit_thoughts=hides_thoughts(body))
        with exchange.while_connected():
            generation = await gateway.generate(principal, request, exchange.context("messages"))
            if body.stream:
                await send_stream(exchange, generation, encoder, framing=PINGED_EVENTS)
            else:
                await send_completion(exchange, generation, encoder)

    async def count(exchange: Exchange) -> None:
        """Counts the tokens of a prompt; costs no tokens."""
        principal = await exchange.admit(authenticator)
        request = await exchange.decoded(read_count, gateway.check_counts)
        exchange.model = request.model
        tokens = await gateway.count(principal, request, exchange.context("messages"))
        await exchange.reply(orjson.dumps({"input_tokens": tokens}))

    return [
        Route(
            "POST",
            "/messages",
            create,
            "create_message",
            "Create a message",
            _operation(MessagesBody, MessageReply, _EXAMPLE, streams=True),
        ),
        Route(
            "POST",
            "/messages/count_tokens",
            count,
            "count_message_tokens",
            "Count the tokens of a message",
            _operation(CountBody, TokensCount, _COUNT_EXAMPLE, limited=False),
        ),
    ]
