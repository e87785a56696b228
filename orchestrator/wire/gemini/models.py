"""Google's list of models. Source: Gemini API reference, models.list and models.get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import ALWAYS, Operation, path_parameter, query_parameter
from orchestrator.http.queries import GOOGLE, Query
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway, ModelEntry
from orchestrator.wire.gemini.replies import ErrorReply, ListModelsResponse, ModelReply
from orchestrator.wire.gemini.routes import model_of

_PAGING = {
    "pageSize": "Most models of one page, 50 unless given.",
    "pageToken": "The `nextPageToken` of the page before.",
}
_ALSO = ("page_size", "page_token", "filter")
PARAMETERS = (*_PAGING, *_ALSO)
_DEFAULT_PAGE = 50
_MAX_PAGE = 1000
_METHODS = {
    "generate": ["generateContent", "streamGenerateContent", "countTokens"],
    "embed": ["embedContent", "batchEmbedContents"],
}


def model_object(entry: ModelEntry) -> dict[str, Any]:
    """A model."""
    return {
        "name": f"models/{entry.id}",
        "baseModelId": entry.id,
        "version": str(entry.created),
        "displayName": entry.id,
        "inputTokenLimit": entry.context_tokens,
        "outputTokenLimit": entry.context_tokens,
        "supportedGenerationMethods": _METHODS.get(entry.task, []),
    }


def page_object(exchange: Exchange, entries: Sequence[ModelEntry]) -> dict[str, Any]:
    """The page that the query asks for. Raises: InvalidRequest."""
    query = Query(exchange.query_string, (*PARAMETERS, *GOOGLE))
    size_name = "page_size" if query.text("page_size") else "pageSize"
    token_name = "page_token" if query.text("page_token") else "pageToken"
    # Google's clients send 0 for a size that was not chosen.
    size = query.number(size_name, 0, most=_MAX_PAGE) or _DEFAULT_PAGE
    start = query.number(token_name, 0, most=10**9)
    page: dict[str, Any] = {
        "models": [model_object(entry) for entry in entries[start : start + size]]
    }
    if len(entries) > start + size:
        page["nextPageToken"] = str(start + size)
    return page


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes of models."""

    async def list_all(exchange: Exchange) -> None:
        """The models that this key may use, loaded or not."""
        principal = await exchange.admit(authenticator)
        page = page_object(exchange, gateway.models(principal))
        await exchange.reply(orjson.dumps(page))

    async def get(exchange: Exchange) -> None:
        """One model, by id or alias; ids may hold slashes and colons."""
        principal = await exchange.admit(authenticator)
        model = gateway.model(principal, model_of(exchange))
        await exchange.reply(orjson.dumps(model_object(model)))

    paging = [
        *[query_parameter(name, text) for name, text in _PAGING.items()],
        *[query_parameter(name) for name in _ALSO],
    ]
    named = [path_parameter("model", "An id or alias.")]
    return [
        Route(
            "GET",
            "/models",
            list_all,
            "list_gemini_models",
            "List models",
            Operation(
                reply=ListModelsResponse, parameters=paging, errors=(400, *ALWAYS), error=ErrorReply
            ),
        ),
        Route(
            "GET",
            "/models/{model:path}",
            get,
            "get_gemini_model",
            "Get a model",
            Operation(reply=ModelReply, parameters=named, errors=(404, *ALWAYS), error=ErrorReply),
        ),
    ]
