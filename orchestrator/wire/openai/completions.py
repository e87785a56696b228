"""OpenAI's legacy completions. Source: OpenAI API reference, completions."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, Literal, assert_never

import msgspec

from orchestrator.core.context import CallContext
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
    TokenLogprob,
)
from orchestrator.core.messages import Part, ToolCallPart
from orchestrator.core.request import GenerationRequest, TextPrompt, TokenPrompt
from orchestrator.http.bodies import BodyReader, check_range
from orchestrator.http.exchange import Exchange
from orchestrator.http.routes import Route
from orchestrator.http.sse import Answer, send_completion, send_stream
from orchestrator.http.unknown_members import check_spelling
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.gateway import Gateway
from orchestrator.wire.openai.chat.replies import CompletionUsage
from orchestrator.wire.openai.chat.request import StreamOptions
from orchestrator.wire.openai.chunks import (
    chunk_end,
    envelope,
    error_frames,
    escaped,
    last_frames,
    whole_reply,
)
from orchestrator.wire.openai.log_probs import legacy_log_probs
from orchestrator.wire.openai.prompt_batch import generate_batch
from orchestrator.wire.openai.types import (
    SamplingFields,
    choice_count,
    json_body,
    required_model,
    room_limit,
    route_hint,
    sampling_params,
    stop_strings,
)

MAX_CHOICES = 128
"""Of all prompts together."""
MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16
GUARDED = ("max_tokens", "top_k", "min_p", "repetition_penalty", "route_hint")


class CompletionRequest(SamplingFields, kw_only=True):
    """Prompts to continue: texts, or token ids of the model. Unlisted members are ignored."""

    model: str
    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None
    route_hint: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


Prompt = TextPrompt | TokenPrompt


def decode(body: CompletionRequest) -> list[GenerationRequest]:
    """One request for each prompt, in their order. Raises: InvalidRequest."""
    prompts = _prompts(body.prompt)
    n = choice_count(body.n)
    _refuse_unsupported(body, n)
    if len(prompts) * n > MAX_CHOICES:
        raise InvalidRequest(
            f"`prompt` times `n` may be {MAX_CHOICES} at most; {len(prompts)} times {n} were"
            " given.",
            param="prompt",
        )
    check_range("logprobs", body.logprobs, 0, MAX_LOGPROBS)
    common = GenerationRequest(
        model=required_model(body.model),
        prompt=prompts[0],
        sampling=sampling_params(body),
        max_tokens=room_limit(
            "max_tokens", DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        ),
        stop=stop_strings(body.stop),
        n=n,
        top_logprobs=body.logprobs,
        route_hint=route_hint(body.route_hint),
        whole=not body.stream,
    )
    return [common, *(replace(common, prompt=prompt) for prompt in prompts[1:])]


def _refuse_unsupported(body: CompletionRequest, n: int) -> None:
    if body.suffix:
        raise InvalidRequest("`suffix` is not supported: no model here can insert.", param="suffix")
    if body.best_of not in (None, n):
        raise InvalidRequest(
            f"`best_of` must be equal to `n`, which is {n}; {body.best_of} was given.",
            param="best_of",
        )
    if body.echo and body.logprobs is not None:
        raise InvalidRequest(
            "`logprobs` cannot be had together with `echo`: engines tell none of a prompt.",
            param="logprobs",
        )


def _prompts(given: str | list[str | int | list[int]]) -> list[Prompt]:
    if isinstance(given, str):
        return [TextPrompt(given)]
    if not given:
        raise InvalidRequest("`prompt` may not be an empty list.", param="prompt")
    ids = [one for one in given if isinstance(one, int)]
    if len(ids) == len(given):
        return [TokenPrompt(tuple(ids))]
    texts = [one for one in given if isinstance(one, str)]
    lists = [one for one in given if isinstance(one, list)]
    if len(given) not in (len(texts), len(lists)):
        raise InvalidRequest(
            "`prompt` must hold texts only, token ids only or lists of token ids only.",
            param="prompt",
        )
    return [TextPrompt(text) for text in texts] or [TokenPrompt(tuple(one)) for one in lists]


class Encoder:
    """Writes one generation down. One per request; frames as in the chat dialect.

    `echoes` is what stands before each choice: its prompt, where it is to be repeated.
    """

    def __init__(
        self,
        *,
        echoes: Sequence[str],
        include_usage: bool,
        fingerprint: str,
        log_probs: bool = False,
    ) -> None:
        self._echoes = echoes
        self._include_usage = include_usage
        self._fingerprint = fingerprint
        self._log_probs = log_probs
        self._envelope = b'data: {"choices":['
        self._heads = [self._envelope + b'{"index":0,"text":']
        self._end = chunk_end(include_usage=include_usage)
        self._running = b',"logprobs":null,"finish_reason":null}' + self._end
        self._offsets = [len(echo) for echo in echoes]

    def repeat(self, echoes: Sequence[str]) -> None:
        """Has each choice begin with its text. To be called before the first event."""
        self._echoes = echoes
        self._offsets = [len(echo) for echo in echoes]

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The chunks that `event` brings about."""
        match event:
            case PartDelta():
                return (self._delta(event),)
            case GenerationStarted():
                return self._started(event)
            case PartStarted() | PartFinished():
                return ()
            case ChoiceFinished():
                return (self._last_chunk(event.choice, _reason(event.reason), event.logprobs),)
            case GenerationFinished():
                return last_frames(self._envelope, event.usage, include_usage=self._include_usage)
            case _:
                assert_never(event)

    def result(self, completion: Completion) -> bytes:
        """The whole reply."""
        choices = [
            self._choice_object(index, choice) for index, choice in enumerate(completion.choices)
        ]
        return whole_reply(
            "text_completion", _id(completion.id), completion, self._fingerprint, choices
        )

    def error(self, members: dict[str, Any]) -> Sequence[bytes]:
        """A last chunk with the error in it, and the end of the stream."""
        return error_frames(self._last_chunk(0, "error"), members)

    def _started(self, event: GenerationStarted) -> Sequence[bytes]:
        """Renders what is the same in every chunk, and repeats the prompts."""
        self._envelope = envelope("text_completion", _id(event.id), event, self._fingerprint)
        count = len(self._echoes)
        self._heads = [self._envelope + b'{"index":%d,"text":' % index for index in range(count)]
        return [self._chunk(index, echo) for index, echo in enumerate(self._echoes) if echo]

    def _chunk(self, choice: int, text: str) -> bytes:
        return self._heads[choice] + escaped(text).encode("ascii") + self._running

    def _delta(self, event: PartDelta) -> bytes:
        if not event.logprobs:
            self._offsets[event.choice] += len(event.text)
            return self._chunk(event.choice, event.text)
        log_probs = self._log_probs_text(event.choice, event.logprobs)
        self._offsets[event.choice] += len(event.text)
        text = self._heads[event.choice] + escaped(event.text).encode("ascii")
        return text + b',"logprobs":' + log_probs + b',"finish_reason":null}' + self._end

    def _last_chunk(self, choice: int, reason: str, tokens: Sequence[TokenLogprob] = ()) -> bytes:
        log_probs = self._log_probs_text(choice, tokens) if tokens else b"null"
        end = b'"","logprobs":%b,"finish_reason":"%b"}' % (log_probs, reason.encode("ascii"))
        return self._heads[choice] + end + self._end

    def _log_probs_text(self, choice: int, tokens: Sequence[TokenLogprob]) -> bytes:
        log_probs = legacy_log_probs(tokens, self._offsets[choice])
        return json.dumps(log_probs, separators=(",", ":")).encode("ascii")

    def _choice_object(self, index: int, choice: Choice) -> dict[str, Any]:
        echo = self._echoes[index]
        return {
            "index": index,
            "text": echo + "".join(_text(part) for part in choice.parts),
            "logprobs": legacy_log_probs(choice.logprobs, len(echo)) if self._log_probs else None,
            "finish_reason": _reason(choice.reason),
        }


def _text(part: Part) -> str:
    return part.arguments if isinstance(part, ToolCallPart) else part.text


def _reason(reason: str) -> str:
    """Without tools there are no calls to end with."""
    return "stop" if reason == "tool_calls" else reason


def _id(chat_id: str) -> str:
    return chat_id.replace("chatcmpl-", "cmpl-", 1)


class LegacyLogprobs(msgspec.Struct, kw_only=True):
    """The tokens of the text, where they were asked for: one entry of each list a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One continuation. Those of the first prompt come first."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class CompletionResponse(msgspec.Struct, kw_only=True):
    """The whole reply."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


_KNOWN = frozenset(CompletionRequest.__struct_fields__)
_EXAMPLE = {"model": "demo/chat", "prompt": "The capital of France is", "max_tokens": 16}


def routes(authenticator: Authenticator, gateway: Gateway, fingerprint: str) -> list[Route]:
    """The routes of this dialect."""
    reader = BodyReader(CompletionRequest)

    def read(given: bytes) -> tuple[CompletionRequest, list[GenerationRequest]]:
        body = reader.read(given)
        check_spelling(given, _KNOWN, GUARDED)
        return body, decode(body)

    async def create(exchange: Exchange) -> None:
        """Continues prompts, whole or as server-sent events."""
        principal = await exchange.admit(authenticator)
        body, requests = await exchange.decoded(read, gateway.check_limits)
        exchange.model = requests[0].model
        context = exchange.context("completions")
        with exchange.while_connected():
            encoder = Encoder(
                echoes=[""] * len(requests) * requests[0].n,
                include_usage=body.wants_usage,
                fingerprint=fingerprint,
                log_probs=body.logprobs is not None,
            )
            send = send_stream if body.stream else send_completion
            starting: Awaitable[Answer] = generate_batch(gateway, principal, requests, context)
            if body.echo:
                starting = _echoing(starting, gateway, principal, requests, context, encoder)
            await send(exchange, starting, encoder)

    return [
        Route(
            "POST",
            "/completions",
            create,
            "create_completion",
            "Continue a prompt",
            replace(json_body(CompletionRequest, _EXAMPLE, CompletionResponse), streams=True),
        )
    ]


async def _echoing(
    starting: Awaitable[Answer],
    gateway: Gateway,
    principal: Principal,
    requests: Sequence[GenerationRequest],
    context: CallContext,
    encoder: Encoder,
) -> Answer:
    """The answer, once `encoder` knows the prompts that it is to repeat.

    They are looked up when the limits have been taken for all of them, and count in none again.
    """
    answer = await starting
    try:
        echoes = [await _echo(gateway, principal, one, context) for one in requests]
    except BaseException as error:
        is_ours = isinstance(error, Exception) or context.at_fault()
        await answer.aclose(error if is_ours else None)
        raise
    encoder.repeat([echo for echo in echoes for _ in range(requests[0].n)])
    return answer


async def _echo(
    gateway: Gateway, principal: Principal, request: GenerationRequest, context: CallContext
) -> str:
    """The prompt as text."""
    match request.prompt:
        case TextPrompt(text=text):
            return text
        case TokenPrompt(token_ids=token_ids):
            return await gateway.prompt_text(principal, request.model, token_ids, context)
        case _:
            raise AssertionError("a chat is no prompt of this dialect")
