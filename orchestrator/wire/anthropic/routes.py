"""Anthropic's messages. Source: Anthropic API reference, messages and streaming messages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema
from orchestrator.core.messages import Message, Tool, ToolCallPart
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonSchemaFormat,
    ReasoningEffort,
    SamplingParams,
)
from orchestrator.http.bodies import BodyReader, check_range, shown
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import INFERENCE, Operation
from orchestrator.http.reasoning_effort import effort_of_budget
from orchestrator.http.routes import Route
from orchestrator.http.sse import send_completion, send_stream
from orchestrator.http.text_only import NotText
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway
from orchestrator.wire.anthropic.encoder import PINGED_EVENTS, Encoder
from orchestrator.wire.anthropic.replies import MessageErrorReply, MessageReply, TokensCount
from orchestrator.wire.anthropic.request import (
    CountBody,
    MessagesBody,
    PromptFields,
    TextBlock,
    ThinkingBody,
    TurnBody,
)
from orchestrator.wire.anthropic.tools import left_out, read_tools
from orchestrator.wire.anthropic.turns import joined, read_turn, texts
from orchestrator.wire.openai.types import required_model, token_limit

MAX_STOPS = 32
LEAST_THINKING_TOKENS = 1024
_LARGEST_INT32 = 2**31 - 1
_BILLING = "x-anthropic-billing-header:"
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
    tools, choice = read_tools(body)
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
        # Claude Code asks for 32,000 tokens of any model.
        clamps=True,
    )


def decode_count(body: CountBody) -> GenerationRequest:
    """A request whose prompt is to be counted. Raises: InvalidRequest."""
    tools, _ = read_tools(body)
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
    try:
        return _read_prompt(body, tools)
    except NotText as error:
        raise error.of(body.model) from None


def _read_prompt(body: PromptFields, tools: tuple[Tool, ...]) -> ChatPrompt:
    if not body.messages:
        raise InvalidRequest("`messages` must hold at least one message.", param="messages")
    if body.mcp_servers:
        raise InvalidRequest(
            "`mcp_servers` is not supported; call the servers and offer `tools`.",
            param="mcp_servers",
        )
    messages: list[Message] = []
    if body.system and (system := texts("system", _said(body.system))):
        messages.append(Message("system", system))
    *turns, last = body.messages
    for index, turn in enumerate(turns):
        messages += read_turn(f"messages[{index}]", turn)
    where = f"messages[{len(turns)}]"
    if last.role == "assistant" and (prefill := _prefill(where, last)) is not None:
        return ChatPrompt(joined(messages), tools, prefill)
    return ChatPrompt(joined([*messages, *read_turn(where, last)]), tools)


def _said(system: str | Sequence[TextBlock]) -> str | Sequence[TextBlock]:
    """`system` without the block that Claude Code sends for Anthropic's billing.

    It is not for the model, and it changes with every start, so that nothing behind it would be
    found in the engine's prefix cache.
    """
    if isinstance(system, str):
        return system
    return [block for block in system if not (block.text or "").startswith(_BILLING)]


def _prefill(where: str, turn: TurnBody) -> str | None:
    """The beginning of the answer, where the last turn is the assistant's and is text only."""
    [message] = read_turn(where, turn)
    if any(isinstance(part, ToolCallPart) for part in message.parts):
        return None
    if message.text.rstrip() != message.text:
        raise InvalidRequest(
            f"`{where}.content` begins the answer and may not end with white space.",
            param=f"{where}.content",
        )
    return message.text


def _stops(stops: list[str]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"`stop_sequences` may hold {MAX_STOPS} strings at most; it holds {len(stops)}.",
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
        exchange.leave_out(left_out(body))
        encoder = Encoder(thinking=shows_thinking(body), omit_thoughts=hides_thoughts(body))
        with exchange.while_connected():
            starting = gateway.generate(principal, request, exchange.context("messages"))
            send = partial(send_stream, framing=PINGED_EVENTS) if body.stream else send_completion
            await send(exchange, starting, encoder)

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
