"""OpenAI's list of models. Source: OpenAI API reference, models.

Anthropic's has the same path; its clients are known by their headers.
"""

from __future__ import annotations

from typing import Any

import orjson

from orchestrator.auth import Authenticator
from orchestrator.gateway import Gateway, ModelEntry
from orchestrator.wire import anthropic_models
from orchestrator.wire.http import Exchange, Route


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


def routes(authenticator: Authenticator, gateway: Gateway) -> list[Route]:
    """The routes of this dialect."""

    async def list_all(exchange: Exchange) -> None:
        """The models that this key may use, loaded or not."""
        principal = await exchange.admit(authenticator)
        if exchange.is_anthropic:
            page = anthropic_models.page_object(exchange, gateway.models(principal))
            await exchange.reply(orjson.dumps(page))
            return
        entries = [model_object(entry) for entry in gateway.models(principal)]
        await exchange.reply(orjson.dumps({"object": "list", "data": entries}))

    async def retrieve(exchange: Exchange) -> None:
        """One model, by id or alias; ids may hold slashes and colons."""
        principal = await exchange.admit(authenticator)
        name: str = exchange.scope["path_params"]["model"]
        exchange.model = name
        written = anthropic_models.model_object if exchange.is_anthropic else model_object
        await exchange.reply(orjson.dumps(written(gateway.model(principal, name))))

    parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return [
        Route("GET", "/models", list_all, "list_models", "List models"),
        Route(
            "GET",
            "/models/{model:path}",
            retrieve,
            "retrieve_model",
            "Retrieve a model",
            {"parameters": [parameter]},
        ),
    ]
