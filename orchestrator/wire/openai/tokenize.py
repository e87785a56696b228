"""Counting tokens before a call is made. Source: vLLM's `/tokenize` and `/detokenize`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import orjson

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.request import GenerationRequest, TextPrompt
from orchestrator.http.bodies import BodyReader
from orchestrator.http.exchange import Exchange
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway
from orchestrator.wire.openai.chat.request import ChatMessage, ChatRequest
from orchestrator.wire.openai.chat.request import decode as decode_chat
from orchestrator.wire.openai.tools import ToolBody
from orchestrator.wire.openai.types import json_body, required_model


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """A text, or a conversation as in a chat request. Members that are not listed are ignored."""

    model: str
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ToolBody] | None = None
    continue_final_message: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    """Whether a text gets the tokens that the tokenizer puts around prompts; it does by default."""
    return_token_strs: bool | None = None


class TokenizeResponse(msgspec.Struct, kw_only=True):
    """The ids that the engine would get. `max_model_len` is the model's context."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Token ids of the model."""

    model: str
    tokens: list[int]


class DetokenizeResponse(msgspec.Struct, kw_only=True):
    """Their text, special tokens included."""

    prompt: str


def decode(body: TokenizeRequest) -> GenerationRequest:
    """The request whose prompt is to be counted. Raises: InvalidRequest."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("One of `prompt` and `messages` is required.", param="prompt")
    if body.prompt is not None:
        special = body.add_special_tokens is not False
        prompt = TextPrompt(body.prompt, add_special_tokens=special)
        return GenerationRequest(required_model(body.model), prompt)
    chat = ChatRequest(
        model=body.model,
        messages=body.messages or [],
        tools=body.tools,
        continue_final_message=body.continue_final_message,
        reasoning_effort=body.reasoning_effort,
        chat_template_kwargs=body.chat_template_kwargs,
    )
    return decode_chat(chat)


Handler = Callable[[Exchange], Awaitable[None]]

_TEXT = {"model": "demo/chat", "prompt": "Hello!"}
_TOKENS = {"model": "demo/chat", "tokens": [42, 7]}


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes of this dialect. They cost no tokens, and count in a minute of their own."""
    tokenize_reader = BodyReader(TokenizeRequest)
    detokenize_reader = BodyReader(DetokenizeRequest)

    def read(given: bytes) -> tuple[TokenizeRequest, GenerationRequest]:
        body = tokenize_reader.read(given)
        return body, decode(body)

    async def tokenize(exchange: Exchange) -> None:
        """Turns a text or a conversation into the token ids that the engine would get."""
        principal = await exchange.admit(authenticator)
        body, request = await exchange.decoded(read, gateway.check_counts)
        exchange.model = request.model
        context = exchange.context("tokenize")
        tokens = await gateway.tokenize(principal, request, context)
        reply = TokenizeResponse(
            count=len(tokens),
            max_model_len=gateway.model(principal, request.model).context_tokens,
            tokens=list(tokens),
        )
        if body.return_token_strs:
            texts = await gateway.token_texts(principal, request.model, tokens, context)
            reply.token_strs = list(texts)
        await exchange.reply(msgspec.json.encode(reply))

    async def detokenize(exchange: Exchange) -> None:
        """Turns token ids into their text."""
        principal = await exchange.admit(authenticator)
        body = await exchange.decoded(detokenize_reader.read, gateway.check_counts)
        exchange.model = required_model(body.model)
        context = exchange.context("tokenize")
        text = await gateway.detokenize(principal, body.model, body.tokens, context)
        await exchange.reply(orjson.dumps({"prompt": text}))

    return _routes(tokenize, detokenize)


def _routes(tokenize: Handler, detokenize: Handler) -> list[Route]:
    return [
        Route(
            "POST",
            "/tokenize",
            tokenize,
            "tokenize",
            "Count tokens",
            replace(json_body(TokenizeRequest, _TEXT, TokenizeResponse), limited=False),
        ),
        Route(
            "POST",
            "/detokenize",
            detokenize,
            "detokenize",
            "Turn tokens into text",
            replace(json_body(DetokenizeRequest, _TOKENS, DetokenizeResponse), limited=False),
        ),
    ]
