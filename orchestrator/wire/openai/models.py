"""OpenAI's list of models. Source: OpenAI API reference, models.

Anthropic's and Google's lists have the same path; their clients are known by their headers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

import orjson

from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.errors import Client
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import ALWAYS, Operation, query_parameter
from orchestrator.http.paths import name_in_path
from orchestrator.http.queries import ANTHROPIC, GOOGLE, OPENAI, Query
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway, ModelEntry
from orchestrator.wire.anthropic import models as anthropic_models
from orchestrator.wire.anthropic.models import AnthropicModel, AnthropicModelList
from orchestrator.wire.gemini import models as gemini_models
from orchestrator.wire.gemini.replies import ListModelsResponse
from orchestrator.wire.gemini.replies import ModelReply as GeminiModel
from orchestrator.wire.openai.model_replies import Model, ModelList


def model_object(entry: ModelEntry) -> dict[str, Any]:
    """A model; from `task` on the members are ours."""
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owned_by,
        "task": entry.task,
        "ready": entry.ready,
        "context_tokens": entry.context_tokens,
    }


_TOLERATED: Mapping[Client | None, tuple[str, ...]] = {
    None: OPENAI,
    "anthropic": ANTHROPIC,
    "google": GOOGLE,
}
_WRITTEN: Mapping[Client | None, Callable[[ModelEntry], dict[str, Any]]] = {
    None: model_object,
    "anthropic": anthropic_models.model_object,
    "google": gemini_models.model_object,
}


_LISTED = Operation(
    reply=(ModelList, ListModelsResponse, AnthropicModelList),
    # Each for the clients that know it.
    parameters=[
        query_parameter(name) for name in (*anthropic_models.PARAMETERS, *gemini_models.PARAMETERS)
    ],
    errors=(400, *ALWAYS),
    error=ErrorReply,
)
_ONE = Operation(
    reply=(Model, GeminiModel, AnthropicModel), errors=(400, 404, *ALWAYS), error=ErrorReply
)


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes of this dialect."""

    async def list_all(exchange: Exchange) -> None:
        """The models that this key may use, loaded or not."""
        principal = await exchange.admit(authenticator)
        entries = gateway.models(principal)
        match exchange.client:
            case None:
                Query(exchange.query_string, _TOLERATED[None])
                page = {"object": "list", "data": [model_object(entry) for entry in entries]}
            case "anthropic":
                page = anthropic_models.page_object(exchange, entries)
            case "google":
                page = gemini_models.page_object(exchange, entries)
            case other:
                assert_never(other)
        await exchange.reply(orjson.dumps(page))

    async def retrieve(exchange: Exchange) -> None:
        """One model, by id or alias; ids may hold slashes and colons."""
        principal = await exchange.admit(authenticator)
        name = exchange.model = name_in_path(exchange.scope, "model")
        Query(exchange.query_string, _TOLERATED[exchange.client])
        written = _WRITTEN[exchange.client]
        await exchange.reply(orjson.dumps(written(gateway.model(principal, name))))

    return [
        Route("GET", "/models", list_all, "list_models", "List models", _LISTED, by_client=True),
        Route(
            "GET",
            "/models/{model:path}",
            retrieve,
            "retrieve_model",
            "Retrieve a model",
            _ONE,
            by_client=True,
        ),
    ]
