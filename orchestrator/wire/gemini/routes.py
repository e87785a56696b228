"""Google's Gemini. Source: Gemini API reference, models.generateContent and models.countTokens."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import orjson

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema
from orchestrator.core.messages import (
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
)
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonFormat,
    JsonSchemaFormat,
    ReasoningEffort,
    ResponseFormat,
    SamplingParams,
)
from orchestrator.http.bodies import check_at_least, check_range, json_text, shown
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import INFERENCE, Operation, path_parameter, query_parameter
from orchestrator.http.paths import name_in_path
from orchestrator.http.reasoning_effort import effort_of_budget
from orchestrator.http.routes import Route
from orchestrator.http.sse import send_completion, send_stream
from orchestrator.http.text_only import NotText, instead_of
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway
from orchestrator.wire.gemini.encoder import Encoder, text_tokens
from orchestrator.wire.gemini.json_schema import closed, json_schema
from orchestrator.wire.gemini.replies import (
    CountTokensResponse,
    ErrorReply,
    GenerateContentResponse,
)
from orchestrator.wire.gemini.request import (
    Content,
    ContentPart,
    CountBody,
    GeminiReader,
    GenerateBody,
    GenerationConfig,
    ThinkingConfig,
    given_members,
    listed,
)
from orchestrator.wire.gemini.tools import left_out, read_tools
from orchestrator.wire.openai.types import MAX_CHOICES, required_model, token_limit

MAX_STOPS = 5
ENUM = "text/x.enum"
"""The answer is one of the words of the schema, without quotes."""
MAX_LOGPROBS = 20
_LARGEST_INT32 = 2**31 - 1
_GENERATION = "generationConfig"
_EFFORTS: dict[str, ReasoningEffort] = {
    "MINIMAL": "minimal",
    "LOW": "low",
    "MEDIUM": "medium",
    "HIGH": "high",
    "XHIGH": "high",
}


def decode(model: str, body: GenerateBody) -> GenerationRequest:
    """The request without its dialect. Raises: InvalidRequest."""
    config = body.generation_config or GenerationConfig()
    if body.cached_content:
        raise InvalidRequest("`cachedContent` is not supported.", param="cachedContent")
    _check_modalities(config)
    tools, choice = read_tools(listed(body.tools), body.tool_config)
    check_range(f"{_GENERATION}.candidateCount", config.candidate_count, 1, MAX_CHOICES)
    return GenerationRequest(
        model=required_model(model),
        prompt=ChatPrompt(_messages(model, body), tools),
        sampling=_sampling(config),
        max_tokens=token_limit(f"{_GENERATION}.maxOutputTokens", config.max_output_tokens),
        stop=_stops(listed(config.stop_sequences)),
        n=config.candidate_count or 1,
        tool_choice=choice,
        response_format=_format(config),
        top_logprobs=_top_logprobs(config),
        reasoning=_reasoning(config.thinking_config),
    )


def decode_count(model: str, body: CountBody) -> GenerationRequest:
    """A request whose prompt is to be counted. Raises: InvalidRequest."""
    whole = body.generate_content_request
    if whole is None:
        if body.contents is None:
            raise InvalidRequest("`contents` is required.", param="contents")
        whole = GenerateBody(contents=body.contents)
    tools, _ = read_tools(listed(whole.tools), whole.tool_config)
    return GenerationRequest(required_model(model), ChatPrompt(_messages(model, whole), tools))


def text_of(where: str, content: Content) -> str:
    """The text of a content that can hold nothing else. Raises: InvalidRequest."""
    parts = listed(content.parts)
    return "".join(_text(f"{where}.parts[{index}]", part) for index, part in enumerate(parts))


def _messages(model: str, body: GenerateBody) -> tuple[Message, ...]:
    try:
        return _read_messages(body)
    except NotText as error:
        raise error.of(model) from None


def _read_messages(body: GenerateBody) -> tuple[Message, ...]:
    if not body.contents:
        raise InvalidRequest("`contents` must hold at least one content.", param="contents")
    messages: list[Message] = []
    if body.system_instruction is not None:
        text = text_of("systemInstruction", body.system_instruction)
        messages.append(Message("system", (TextPart(text),)))
    calls = _Calls()
    for index, content in enumerate(listed(body.contents)):
        where = f"contents[{index}]"
        match content.role:
            case None | "" | "user" | "function":
                messages += _user_turn(where, content, calls)
            case "model":
                messages.append(_model_turn(where, content, calls))
            case _:
                raise InvalidRequest(
                    f"`{where}.role` must be `user` or `model`; {shown(content.role)} was given.",
                    param=f"{where}.role",
                )
    return tuple(messages)


class _Calls:
    """The calls of a conversation: Google's clients may leave their ids out."""

    def __init__(self) -> None:
        self._count = 0
        self._open: Counter[str] = Counter()
        self._by_name: dict[str, deque[str]] = {}

    def made(self, name: str, call_id: str | None) -> str:
        """The id of a call."""
        self._count += 1
        known = call_id or f"call_{self._count}"
        self._open[known] += 1
        self._by_name.setdefault(name, deque()).append(known)
        return known

    def answered(self, name: str, call_id: str | None) -> str:
        """The id of the call that a response answers: the first open one of its name."""
        if call_id:
            if self._open[call_id] > 0:
                self._open[call_id] -= 1
            return call_id
        made = self._by_name.get(name, deque())
        while made:
            known = made.popleft()
            # Those that were answered by their ids still stand here.
            if self._open[known] > 0:
                self._open[known] -= 1
                return known
        return name


def _user_turn(where: str, content: Content, calls: _Calls) -> list[Message]:
    """The messages of a turn: responses of functions are messages of their own."""
    messages: list[Message] = []
    texts: list[Part] = []
    parts = listed(content.parts)
    # What stands beside a response belongs to it: a picture that was read, say.
    of_result = any(part.function_response is not None for part in parts)
    for index, part in enumerate(parts):
        response = part.function_response
        if response is None:
            kinds = given_members(part) if of_result and part.text is None else []
            text = instead_of(kinds[0]) if kinds else _text(f"{where}.parts[{index}]", part)
            texts.append(TextPart(text))
            continue
        if texts:
            messages.append(Message("user", tuple(texts)))
            texts = []
        place = f"{where}.parts[{index}].functionResponse.response"
        text = json_text(response.response or {}, place)
        call_id = calls.answered(response.name, response.id)
        messages.append(Message("tool", (TextPart(text),), response.name, call_id))
    if texts or not messages:
        messages.append(Message("user", tuple(texts)))
    return messages


def _model_turn(where: str, content: Content, calls: _Calls) -> Message:
    parts: list[Part] = []
    for index, part in enumerate(listed(content.parts)):
        call = part.function_call
        if call is not None:
            place = f"{where}.parts[{index}].functionCall.args"
            arguments = json_text(call.args or {}, place)
            parts.append(ToolCallPart(calls.made(call.name, call.id), call.name, arguments))
            continue
        text = _text(f"{where}.parts[{index}]", part)
        parts.append(ReasoningPart(text) if part.thought else TextPart(text))
    return Message("assistant", tuple(parts))


def _text(where: str, part: ContentPart) -> str:
    if part.text is not None:
        return part.text
    kinds = given_members(part)
    raise NotText(where, kinds[0] if kinds else None)


def _sampling(config: GenerationConfig) -> SamplingParams:
    check_range(f"{_GENERATION}.temperature", config.temperature, 0, 2)
    check_range(f"{_GENERATION}.topP", config.top_p, 0, 1)
    check_range(f"{_GENERATION}.topK", config.top_k, 0, _LARGEST_INT32)
    check_range(f"{_GENERATION}.presencePenalty", config.presence_penalty, -2, 2)
    check_range(f"{_GENERATION}.frequencyPenalty", config.frequency_penalty, -2, 2)
    if config.top_k is not None and not config.top_k.is_integer():
        raise InvalidRequest(
            f"`{_GENERATION}.topK` must be a whole number; {config.top_k:g} was given.",
            param=f"{_GENERATION}.topK",
        )
    return SamplingParams(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=None if config.top_k is None else int(config.top_k),
        seed=config.seed,
        presence_penalty=config.presence_penalty,
        frequency_penalty=config.frequency_penalty,
    )


def _stops(stops: list[str]) -> tuple[str, ...]:
    where = f"{_GENERATION}.stopSequences"
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"`{where}` may hold {MAX_STOPS} strings at most; it holds {len(stops)}.", param=where
        )
    if "" in stops:
        raise InvalidRequest(f"`{where}` may not hold an empty string.", param=where)
    return tuple(stops)


def _check_modalities(config: GenerationConfig) -> None:
    where = f"{_GENERATION}.responseModalities"
    if any(modality.upper() != "TEXT" for modality in listed(config.response_modalities)):
        raise InvalidRequest(
            f"`{where}` may hold `TEXT` only; {shown(config.response_modalities)} was given.",
            param=where,
        )


def _format(config: GenerationConfig) -> ResponseFormat | None:
    mime_type = config.response_mime_type or "text/plain"
    schema, name = config.response_json_schema, "responseJsonSchema"
    if schema is None and config.response_schema is not None:
        name = "responseSchema"
        schema = closed(json_schema(f"{_GENERATION}.{name}", config.response_schema))
    where = f"{_GENERATION}.responseMimeType"
    if mime_type not in ("text/plain", "application/json", ENUM):
        raise InvalidRequest(
            f"`{where}` must be `text/plain`, `application/json` or `{ENUM}`; "
            f"{shown(mime_type)} was given.",
            param=where,
        )
    if mime_type == ENUM and not (schema or {}).get("enum"):
        raise InvalidRequest(
            f"`{where}` is `{ENUM}` and `responseSchema` has no `enum`.", param=where
        )
    if mime_type == "text/plain":
        if schema is None:
            return None
        raise InvalidRequest(
            f"`{_GENERATION}.{name}` goes with a `responseMimeType` of `application/json`.",
            param=where,
        )
    if schema is None:
        return JsonFormat()
    check_schema(schema, f"{_GENERATION}.{name}")
    return JsonSchemaFormat(schema, strict=True)


def _top_logprobs(config: GenerationConfig) -> int | None:
    check_range(f"{_GENERATION}.logprobs", config.logprobs, 0, MAX_LOGPROBS)
    if config.response_logprobs:
        return config.logprobs or 0
    if config.logprobs:
        raise InvalidRequest(
            f"`{_GENERATION}.logprobs` goes with `responseLogprobs`.",
            param=f"{_GENERATION}.logprobs",
        )
    return None


def _reasoning(config: ThinkingConfig | None) -> ReasoningEffort | None:
    """The effort by its level, otherwise by the budget: 0 is none, -1 is the model's own choice."""
    if config is None:
        return None
    level, budget = (config.thinking_level or "").upper(), config.thinking_budget
    where = f"{_GENERATION}.thinkingConfig"
    if level not in ("", "THINKING_LEVEL_UNSPECIFIED"):
        if level not in _EFFORTS:
            raise InvalidRequest(
                f"`{where}.thinkingLevel` must be one of {', '.join(_EFFORTS)}; "
                f"{shown(config.thinking_level)} was given.",
                param=f"{where}.thinkingLevel",
            )
        return _EFFORTS[level]
    check_at_least(f"{where}.thinkingBudget", budget, -1)
    if budget is None or budget == -1:
        return None
    return effort_of_budget(budget) if budget else "none"


_EXAMPLE: dict[str, Any] = {"contents": [{"parts": [{"text": "Explain rainbows simply."}]}]}


def operation(
    body: Any,
    reply: Any,
    example: dict[str, Any],
    parameters: Sequence[dict[str, Any]] = (),
    *,
    streams: bool = False,
    limited: bool = True,
) -> Operation:
    """What a method of a model takes and gives."""
    return Operation(
        body=body,
        reply=reply,
        example=example,
        parameters=[path_parameter("model", "An id or alias."), *parameters],
        errors=INFERENCE,
        error=ErrorReply,
        streams=streams,
        limited=limited,
    )


def model_of(exchange: Exchange) -> str:
    """The model of the path; ids may hold slashes and colons, the last one begins the method."""
    exchange.model = name_in_path(exchange.scope, "model")
    return exchange.model


Handler = Callable[[Exchange], Awaitable[None]]


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes that generate."""
    alt = query_parameter("alt", "`sse` for server-sent events, else a JSON array.")
    return [
        Route(
            "POST",
            "/models/{model:path}:generateContent",
            _generator(authenticator, gateway),
            "generate_content",
            "Generate content",
            operation(GenerateBody, GenerateContentResponse, _EXAMPLE),
        ),
        Route(
            "POST",
            "/models/{model:path}:streamGenerateContent",
            _streamer(authenticator, gateway),
            "stream_generate_content",
            "Generate content in chunks",
            operation(GenerateBody, list[GenerateContentResponse], _EXAMPLE, [alt], streams=True),
        ),
        Route(
            "POST",
            "/models/{model:path}:countTokens",
            _counter(authenticator, gateway),
            "count_content_tokens",
            "Count the tokens of contents",
            operation(CountBody, CountTokensResponse, _EXAMPLE, limited=False),
        ),
    ]


def _generator(authenticator: Authenticator, gateway: Gateway) -> Handler:
    reader = GeminiReader(GenerateBody)

    async def generate(exchange: Exchange) -> None:
        """Answers contents with one whole reply."""
        principal = await exchange.admit(authenticator)
        request, encoder = await _asked(exchange, reader, gateway)
        request = replace(request, whole=True)
        with exchange.while_connected():
            starting = gateway.generate(principal, request, exchange.context("gemini"))
            await send_completion(exchange, starting, encoder)

    return generate


def _streamer(authenticator: Authenticator, gateway: Gateway) -> Handler:
    reader = GeminiReader(GenerateBody)

    async def stream(exchange: Exchange) -> None:
        """Answers contents in chunks: server-sent events with `alt=sse`, else a JSON array."""
        principal = await exchange.admit(authenticator)
        request, encoder = await _asked(exchange, reader, gateway)
        with exchange.while_connected():
            starting = gateway.generate(principal, request, exchange.context("gemini"))
            await send_stream(exchange, starting, encoder, framing=encoder.framing)

    return stream


def _counter(authenticator: Authenticator, gateway: Gateway) -> Handler:
    reader = GeminiReader(CountBody)

    async def count(exchange: Exchange) -> None:
        """Counts the tokens of contents; costs no tokens."""
        principal = await exchange.admit(authenticator)
        model = model_of(exchange)

        def read(given: bytes) -> GenerationRequest:
            return decode_count(model, reader.read(given))

        request = await exchange.decoded(read, gateway.check_counts)
        tokens = await gateway.count(principal, request, exchange.context("gemini"))
        counted = {"totalTokens": tokens, "promptTokensDetails": text_tokens(tokens)}
        await exchange.reply(orjson.dumps(counted))

    return count


async def _asked(
    exchange: Exchange, reader: GeminiReader[GenerateBody], gateway: Gateway
) -> tuple[GenerationRequest, Encoder]:
    """What is asked for, and how to write the answer down. Raises: GatewayError."""
    model = model_of(exchange)

    def read(given: bytes) -> tuple[GenerateBody, GenerationRequest]:
        body = reader.read(given)
        return body, decode(model, body)

    body, request = await exchange.decoded(read, gateway.check_limits)
    exchange.leave_out(left_out(listed(body.tools)))
    config = body.generation_config or GenerationConfig()
    thinking = config.thinking_config
    encoder = Encoder(
        choices=request.n,
        thoughts=bool(thinking and thinking.include_thoughts),
        unquoted=config.response_mime_type == ENUM,
        logprobs=request.top_logprobs is not None,
        events=_wants_events(exchange),
    )
    return request, encoder


def _wants_events(exchange: Exchange) -> bool:
    query = parse_qs(exchange.scope["query_string"].decode("latin-1"))
    return "sse" in (*query.get("alt", ()), *query.get("$alt", ()))
