"""OpenAI's embeddings. Source: OpenAI API reference, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
import numpy as np
import orjson
import pybase64

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.events import Usage
from orchestrator.core.request import EmbeddingRequest
from orchestrator.http.bodies import BodyReader, check_at_least, shown
from orchestrator.http.exchange import Exchange
from orchestrator.http.header_pairs import header_pairs
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Embeddings, Gateway
from orchestrator.wire.openai.embedding_replies import EmbeddingsResponse
from orchestrator.wire.openai.types import json_body, required_model, route_hint

EncodingFormat = Literal["float", "base64"]


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """A request for vectors: one text or list of token ids, or several of them."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None
    route_hint: str | None = None


MAX_INPUTS = 2048
_LARGEST_ID = 2**31 - 1


def decode(body: EmbeddingsRequest) -> EmbeddingRequest:
    """The request without its dialect. Raises: InvalidRequest."""
    check_at_least("dimensions", body.dimensions, 1)
    return EmbeddingRequest(
        model=required_model(body.model),
        inputs=_inputs(body.input),
        dimensions=body.dimensions,
        route_hint=route_hint(body.route_hint),
    )


def encoding_format(body: EmbeddingsRequest) -> EncodingFormat:
    """How vectors are to be written. Raises: InvalidRequest."""
    match body.encoding_format:
        case None | "float":
            return "float"
        case "base64":
            return "base64"
        case _:
            raise InvalidRequest(
                f"`encoding_format` must be `float` or `base64`; "
                f"{shown(body.encoding_format)} was given.",
                param="encoding_format",
            )


def _inputs(given: str | list[str | int | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(given, str):
        given = [given]
    if not given:
        raise InvalidRequest("`input` may not be an empty list.", param="input")
    kinds = set(map(type, given))
    if len(kinds) > 1:
        raise InvalidRequest(
            "`input` must be a text, a list of texts, a list of token ids, or a list of such "
            "lists; a mixed list was given.",
            param="input",
        )
    if kinds == {int}:
        return (_token_ids("input", given),)
    if len(given) > MAX_INPUTS:
        raise InvalidRequest(
            f"`input` may hold {MAX_INPUTS} entries at most; it holds {len(given)}.",
            param="input",
        )
    if kinds == {str} and "" not in given:
        return cast("tuple[str, ...]", tuple(given))
    return tuple(_input(f"input[{index}]", one) for index, one in enumerate(given))


def _input(where: str, one: str | int | list[int]) -> str | tuple[int, ...]:
    if not one:
        raise InvalidRequest(f"`{where}` is empty.", param="input")
    return one if isinstance(one, str) else _token_ids(where, one)


def _token_ids(where: str, ids: Any) -> tuple[int, ...]:
    if min(ids) < 0 or max(ids) > _LARGEST_ID:
        wrong = next(one for one in ids if not 0 <= one <= _LARGEST_ID)
        raise InvalidRequest(f"`{where}` holds {wrong}, which is no token id.", param="input")
    return tuple(ids)


def encode(embeddings: Embeddings, encoding: EncodingFormat) -> bytes:
    """The whole reply.

    No vector ever becomes Python floats: those cost twice the time and, being doubles, twice the
    digits.
    """
    usage = Usage(embeddings.prompt_tokens, 0)
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(_vectors(embeddings.vectors, encoding))
            ],
            "model": embeddings.model,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _vectors(vectors: Sequence[memoryview], encoding: EncodingFormat) -> Sequence[object]:
    if encoding == "base64":
        return [pybase64.b64encode_as_string(vector) for vector in vectors]
    return [np.frombuffer(vector, dtype="<f4") for vector in vectors]


_EXAMPLE = {"model": "demo/embed", "input": ["Operayde keeps your data on-premise."]}


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes of this dialect."""
    reader = BodyReader(EmbeddingsRequest)

    def read(given: bytes) -> tuple[EmbeddingRequest, EncodingFormat]:
        body = reader.read(given)
        return decode(body), encoding_format(body)

    async def create(exchange: Exchange) -> None:
        """Turns each input into a vector."""
        principal = await exchange.admit(authenticator)
        request, encoding = await exchange.decoded(read, gateway.check_limits)
        exchange.model = request.model
        with exchange.while_connected():
            embeddings = await gateway.embed(principal, request, exchange.context("embeddings"))
            exchange.usage = Usage(embeddings.prompt_tokens, 0)
            reply = encode(embeddings, encoding)
            await exchange.reply(reply, headers=header_pairs(embeddings.headers))

    return [
        Route(
            "POST",
            "/embeddings",
            create,
            "create_embeddings",
            "Create embeddings",
            json_body(EmbeddingsRequest, _EXAMPLE, EmbeddingsResponse),
        )
    ]
