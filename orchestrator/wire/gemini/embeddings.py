"""Google's embeddings. Source: Gemini API reference, models.embedContent and batchEmbedContents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.events import Usage
from orchestrator.core.request import EmbeddingRequest
from orchestrator.http.bodies import check_at_least
from orchestrator.http.exchange import Exchange
from orchestrator.http.header_pairs import header_pairs
from orchestrator.http.routes import Route
from orchestrator.http.text_only import NotText
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Embeddings, Gateway
from orchestrator.wire.gemini.encoder import text_tokens
from orchestrator.wire.gemini.replies import BatchEmbedContentsResponse, EmbedContentResponse
from orchestrator.wire.gemini.request import EmbedBatchBody, EmbedBody, GeminiReader, listed
from orchestrator.wire.gemini.routes import model_of, operation, text_of
from orchestrator.wire.openai.embeddings import MAX_INPUTS
from orchestrator.wire.openai.types import required_model


def decode(model: str, body: EmbedBody) -> EmbeddingRequest:
    """The request without its dialect. Raises: InvalidRequest."""
    return _request(model, [body], [""])


def decode_batch(model: str, body: EmbedBatchBody) -> EmbeddingRequest:
    """The request without its dialect. Raises: InvalidRequest."""
    requests = listed(body.requests)
    count = len(requests)
    if not 1 <= count <= MAX_INPUTS:
        raise InvalidRequest(
            f"`requests` may hold 1 to {MAX_INPUTS} requests; it holds {count}.", param="requests"
        )
    return _request(model, requests, [f"requests[{index}]." for index in range(count)])


def _request(model: str, bodies: Sequence[EmbedBody], places: Sequence[str]) -> EmbeddingRequest:
    inputs = []
    for where, body in zip(places, bodies, strict=True):
        if body.model not in (None, "", model, f"models/{model}"):
            raise InvalidRequest(
                f"`{where}model` must be the model of the path, `models/{model}`.",
                param=f"{where}model",
            )
        try:
            text = text_of(f"{where}content", body.content)
        except NotText as error:
            raise error.of(model) from None
        if not text:
            raise InvalidRequest(f"`{where}content` is empty.", param=f"{where}content")
        inputs.append(text)
    name = f"{places[0]}outputDimensionality"
    dimensions = {body.output_dimensionality for body in bodies}
    if len(dimensions) > 1:
        raise InvalidRequest(
            "`outputDimensionality` must be the same in all `requests`.", param=name
        )
    wanted = dimensions.pop()
    check_at_least(name, wanted, 1)
    return EmbeddingRequest(required_model(model), tuple(inputs), wanted)


def encode(embeddings: Embeddings, *, batch: bool) -> bytes:
    """The whole reply; the vectors never become Python floats."""
    vectors = [{"values": np.frombuffer(one, dtype="<f4")} for one in embeddings.vectors]
    tokens = embeddings.prompt_tokens
    usage = {"promptTokenCount": tokens, "promptTokensDetails": text_tokens(tokens)}
    document: dict[str, Any] = {"embeddings": vectors} if batch else {"embedding": vectors[0]}
    return orjson.dumps({**document, "usageMetadata": usage}, option=orjson.OPT_SERIALIZE_NUMPY)


_EXAMPLE: dict[str, Any] = {"content": {"parts": [{"text": "Your data stays here."}]}}


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes that embed."""
    reader, batch_reader = GeminiReader(EmbedBody), GeminiReader(EmbedBatchBody)

    async def answer(
        exchange: Exchange, read: Callable[[str, bytes], EmbeddingRequest], *, batch: bool
    ) -> None:
        principal = await exchange.admit(authenticator)
        asked = partial(read, model_of(exchange))
        request = await exchange.decoded(asked, gateway.check_limits)
        with exchange.while_connected():
            context = exchange.context("gemini_embeddings")
            exchange.dialect = "gemini_batch" if batch else context.dialect
            embeddings = await gateway.embed(principal, request, context)
            exchange.usage = Usage(embeddings.prompt_tokens, 0)
            reply = encode(embeddings, batch=batch)
            await exchange.reply(reply, headers=header_pairs(embeddings.headers))

    def read_one(model: str, given: bytes) -> EmbeddingRequest:
        return decode(model, reader.read(given))

    def read_batch(model: str, given: bytes) -> EmbeddingRequest:
        return decode_batch(model, batch_reader.read(given))

    async def embed(exchange: Exchange) -> None:
        """Turns a content into a vector."""
        await answer(exchange, read_one, batch=False)

    async def embed_batch(exchange: Exchange) -> None:
        """Turns each content into a vector."""
        await answer(exchange, read_batch, batch=True)

    return [
        Route(
            "POST",
            "/models/{model:path}:embedContent",
            embed,
            "embed_content",
            "Embed a content",
            operation(EmbedBody, EmbedContentResponse, _EXAMPLE),
        ),
        Route(
            "POST",
            "/models/{model:path}:batchEmbedContents",
            embed_batch,
            "batch_embed_contents",
            "Embed contents",
            operation(EmbedBatchBody, BatchEmbedContentsResponse, {"requests": [_EXAMPLE]}),
        ),
    ]
