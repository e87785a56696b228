"""Anthropic's list of models. Source: Anthropic API reference, models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.exchange import Exchange
from orchestrator.http.queries import ANTHROPIC, Query
from orchestrator.pipeline.gateway import ModelEntry

PARAMETERS = ("limit", "after_id", "before_id", "lifecycle", "lifecycle[]")
_DEFAULT_PAGE = 20
_MAX_PAGE = 1000


class AnthropicModel(msgspec.Struct, kw_only=True):
    """A model as Anthropic's clients know it."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int
    max_tokens: int


class AnthropicModelList(msgspec.Struct, kw_only=True):
    """A page of models."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


def model_object(entry: ModelEntry) -> dict[str, Any]:
    """A model."""
    return {
        "type": "model",
        "id": entry.id,
        "display_name": entry.id,
        "created_at": datetime.fromtimestamp(entry.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": entry.context_tokens,
        "max_tokens": entry.context_tokens,
    }


def page_object(exchange: Exchange, entries: Sequence[ModelEntry]) -> dict[str, Any]:
    """The page that the query asks for. Raises: InvalidRequest."""
    query = Query(exchange.query_string, (*PARAMETERS, *ANTHROPIC))
    limit = query.number("limit", _DEFAULT_PAGE, least=1, most=_MAX_PAGE)
    after, before = query.text("after_id"), query.text("before_id")
    ids = [entry.id for entry in entries]
    if before is not None:
        end = _place("before_id", before, ids)
        page, has_more = entries[max(0, end - limit) : end], end > limit
    else:
        start = 0 if after is None else _place("after_id", after, ids) + 1
        page, has_more = entries[start : start + limit], len(entries) > start + limit
    return {
        "data": [model_object(entry) for entry in page],
        "has_more": has_more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _place(name: str, model_id: str, ids: Sequence[str]) -> int:
    if model_id not in ids:
        raise InvalidRequest(f"`{name}` is no model of the list.", param=name)
    return ids.index(model_id)
