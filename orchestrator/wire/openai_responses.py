"""OpenAI's responses: made, stored, continued, followed, cancelled and deleted.

Source: OpenAI API reference, responses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from orchestrator.auth import Authenticator, Principal
from orchestrator.core.errors import InvalidRequest, PreviousResponseNotFound
from orchestrator.core.ids import new_id
from orchestrator.core.request import GenerationRequest
from orchestrator.gateway import Gateway
from orchestrator.responses import Responses
from orchestrator.responses.runs import Runs
from orchestrator.responses.values import Item, Kept
from orchestrator.wire.bodies import BodyReader
from orchestrator.wire.http import Exchange, Route
from orchestrator.wire.openai_responses_encoder import ResponseEncoder
from orchestrator.wire.openai_responses_items import (
    input_items,
    references,
    resolved,
    with_ids,
    without_oldest,
)
from orchestrator.wire.openai_responses_replies import (
    DeletedResponse,
    InputTokens,
    ItemList,
    Response,
)
from orchestrator.wire.openai_responses_schema import (
    ResponsesBody,
    check_body,
    decode,
    response_object,
)
from orchestrator.wire.openai_responses_work import Answer, BackgroundWork, follow
from orchestrator.wire.openapi import INFERENCE, Operation, path_parameter, query_parameter
from orchestrator.wire.queries import Query
from orchestrator.wire.replies import ErrorReply
from orchestrator.wire.sse import send_completion, send_stream

_DIALECT = "responses"
_DEFAULT_PAGE, _MOST_PAGE = 20, 100
_MOST_EVENTS = 10**9
_INCLUDE = ("include", "include[]", "include_obfuscation")
_EXAMPLE = {"model": "demo/chat", "input": "Hello!"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A checked request. `items` are the caller's own, `request` holds what came before too."""

    request: GenerationRequest
    items: Sequence[Item]


class _Desk:
    """What the routes share."""

    def __init__(
        self, authenticator: Authenticator, gateway: Gateway, responses: Responses, runs: Runs
    ) -> None:
        self.authenticator = authenticator
        self.gateway = gateway
        self.responses = responses
        self.runs = runs
        self.reader = BodyReader(ResponsesBody)

    async def asked(
        self, exchange: Exchange, principal: Principal, body: ResponsesBody, response_id: str
    ) -> _Asked:
        """What `body` asks for, with what it refers to in its place. Raises: GatewayError."""
        check_body(body)
        items = input_items(body.input)
        if ids := references(items):
            self._require_store("item_reference")
            items = resolved(items, await self.responses.items(principal.tenant_id, ids))
        items = with_ids(items, response_id)
        before: list[Item] = []
        if body.previous_response_id is not None:
            self._require_store("previous_response_id")
            before = await self.history(principal, body.previous_response_id)
        whole = [*before, *items]
        request = decode(body, whole)
        exchange.model = request.model
        if body.truncation == "auto":
            request = await self._fitted(exchange, principal, body, whole)
        return _Asked(request, items)

    async def history(self, principal: Principal, response_id: str) -> list[Item]:
        """What was said up to the end of that response. Raises: GatewayError."""
        if "\0" in response_id:
            raise PreviousResponseNotFound(
                "There is no such response.", param="previous_response_id"
            )
        return await self.responses.history(principal.tenant_id, response_id)

    def stores(self, body: ResponsesBody) -> bool:
        """Whether the response is to be stored: unless the caller or the operator says no.

        Raises: InvalidRequest, StoreUnavailable.
        """
        if body.background or body.store:
            self._require_store("background" if body.background else "store")
        if body.store is False or not self.responses.stores:
            return False
        self.responses.check()
        return True

    async def _fitted(
        self, exchange: Exchange, principal: Principal, body: ResponsesBody, items: Sequence[Item]
    ) -> GenerationRequest:
        """The request without as many of the oldest items as do not fit the context."""
        model = self.gateway.model(principal, body.model)
        room = model.context_tokens - (body.max_output_tokens or 1)
        context = exchange.context(_DIALECT)
        fewest, most = 0, len(items) - 1
        while fewest < most:
            middle = (fewest + most) // 2
            request = decode(body, without_oldest(items, middle))
            if await self.gateway.count(principal, request, context) <= room:
                most = middle
            else:
                fewest = middle + 1
        return decode(body, without_oldest(items, fewest))

    def _require_store(self, name: str) -> None:
        if not self.responses.stores:
            raise InvalidRequest(
                f"`{name}` needs stored responses, and this appliance stores none.", param=name
            )


def routes(
    authenticator: Authenticator, gateway: Gateway, responses: Responses, runs: Runs
) -> list[Route]:
    """The routes of this dialect."""
    desk = _Desk(authenticator, gateway, responses, runs)
    return [*_making(desk), *_reading(desk), *_ending(desk)]


def _making(desk: _Desk) -> list[Route]:
    async def create(exchange: Exchange) -> None:
        """Answers: whole, as server-sent events, or in the background."""
        principal = await exchange.admit(desk.authenticator)
        body = desk.reader.read(await exchange.body())
        response_id = new_id("resp")
        asked = await desk.asked(exchange, principal, body, response_id)
        stored = desk.stores(body)
        kept = Kept(
            principal.tenant_id,
            response_object(body, response_id, int(time.time()), stored=stored),
            asked.items,
        )
        if body.background:
            await _run(desk, exchange, principal, body, asked, kept)
            return
        encoder = ResponseEncoder(kept, logprobs=asked.request.top_logprobs is not None)
        send = send_stream if body.stream else send_completion
        keep = desk.responses.keep if stored else None
        async with exchange.while_connected():
            context = exchange.context(_DIALECT)
            generation = await desk.gateway.generate(principal, asked.request, context)
            answer = Answer(generation, encoder, keep, whole=not body.stream)
            await send(exchange, answer, encoder)

    async def count(exchange: Exchange) -> None:
        """Counts the tokens that a request would put in; nothing is generated or stored."""
        principal = await exchange.admit(desk.authenticator)
        body = desk.reader.read(await exchange.body())
        asked = await desk.asked(exchange, principal, body, new_id("resp"))
        context = exchange.context(_DIALECT)
        tokens = await desk.gateway.count(principal, asked.request, context)
        document = {"object": "response.input_tokens", "input_tokens": tokens}
        await exchange.reply(orjson.dumps(document))

    making = _operation(Response, body=ResponsesBody, streams=True, limited=True)
    counting = _operation(InputTokens, body=ResponsesBody)
    return [
        Route("POST", "/responses", create, "create_response", "Create a response", making),
        Route(
            "POST",
            "/responses/input_tokens",
            count,
            "count_response_input_tokens",
            "Count input tokens",
            counting,
        ),
    ]


async def _run(
    desk: _Desk,
    exchange: Exchange,
    principal: Principal,
    body: ResponsesBody,
    asked: _Asked,
    kept: Kept,
) -> None:
    """Begins a background response, and tells of it; from then on it needs no reader."""
    desk.runs.check()
    context = exchange.context(_DIALECT)
    await desk.gateway.check(principal, asked.request.model, context)
    encoder = ResponseEncoder(kept, logprobs=asked.request.top_logprobs is not None)
    await desk.responses.begin(kept, encoder.queued())
    desk.runs.start(BackgroundWork(desk.gateway, principal, asked.request, context, encoder))
    if body.stream:
        await follow(exchange, desk.responses, kept, -1)
    else:
        await exchange.reply(orjson.dumps(kept.body))


def _reading(desk: _Desk) -> list[Route]:
    async def retrieve(exchange: Exchange) -> None:
        """Tells of a stored response, or streams its events, those to come too."""
        principal = await exchange.admit(desk.authenticator)
        query = Query(exchange, ("stream", "starting_after", *_INCLUDE))
        stream = _flag(query, "stream")
        after = query.number("starting_after", -1, most=_MOST_EVENTS)
        if after >= 0 and not stream:
            raise InvalidRequest(
                "`starting_after` goes with `stream` only.", param="starting_after"
            )
        kept = await desk.responses.find(principal.tenant_id, _path_id(exchange))
        if stream:
            await follow(exchange, desk.responses, kept, after)
        else:
            await exchange.reply(orjson.dumps(kept.body))

    async def list_items(exchange: Exchange) -> None:
        """Lists what was put in for a response: what came before it, and its own input."""
        principal = await exchange.admit(desk.authenticator)
        query = Query(exchange, ("after", "limit", "order", *_INCLUDE))
        limit = query.number("limit", _DEFAULT_PAGE, least=1, most=_MOST_PAGE)
        order = query.text("order") or "desc"
        if order not in ("asc", "desc"):
            raise InvalidRequest("`order` must be `asc` or `desc`.", param="order")
        kept = await desk.responses.find(principal.tenant_id, _path_id(exchange))
        items = [*await _before(desk, principal, kept), *kept.items]
        if order == "desc":
            items.reverse()
        page = _page(items, query.text("after"), limit)
        await exchange.reply(orjson.dumps(page))

    streaming = query_parameter("stream", "events instead of the response", {"type": "boolean"})
    after = query_parameter("starting_after", "the last event already seen", {"type": "integer"})
    parameters = [path_parameter("response_id"), streaming, after]
    paging = [
        path_parameter("response_id"),
        query_parameter("after", "the last item already seen"),
        query_parameter("limit", "items of one page", {"type": "integer", "maximum": _MOST_PAGE}),
        query_parameter("order", "desc unless given", {"enum": ["asc", "desc"]}),
    ]
    return [
        Route(
            "GET",
            "/responses/{response_id}",
            retrieve,
            "get_response",
            "A stored response",
            _operation(Response, parameters=parameters, streams=True),
        ),
        Route(
            "GET",
            "/responses/{response_id}/input_items",
            list_items,
            "list_response_input_items",
            "What was put in for a response",
            _operation(ItemList, parameters=paging),
        ),
    ]


def _ending(desk: _Desk) -> list[Route]:
    async def cancel(exchange: Exchange) -> None:
        """Ends a response that runs in the background; one that is over stays as it is."""
        principal = await exchange.admit(desk.authenticator)
        kept = await desk.responses.cancel(principal.tenant_id, _path_id(exchange))
        desk.runs.stop(kept.id)
        await exchange.reply(orjson.dumps(kept.body))

    async def delete(exchange: Exchange) -> None:
        """Deletes a stored response and all that was stored with it."""
        principal = await exchange.admit(desk.authenticator)
        response_id = _path_id(exchange)
        await desk.responses.remove(principal.tenant_id, response_id)
        desk.runs.stop(response_id)
        document = {"id": response_id, "object": "response", "deleted": True}
        await exchange.reply(orjson.dumps(document))

    return [
        Route(
            "POST",
            "/responses/{response_id}/cancel",
            cancel,
            "cancel_response",
            "Cancel a background response",
            _operation(Response),
        ),
        Route(
            "DELETE",
            "/responses/{response_id}",
            delete,
            "delete_response",
            "Delete a stored response",
            _operation(DeletedResponse),
        ),
    ]


def _operation(reply: Any, *, body: Any = None, **more: Any) -> Operation:
    example = None if body is None else _EXAMPLE
    return Operation(
        body=body, reply=reply, example=example, errors=INFERENCE, error=ErrorReply, **more
    )


async def _before(desk: _Desk, principal: Principal, kept: Kept) -> list[Item]:
    """The items from before that response, as far as they are still stored."""
    previous_id = kept.body.get("previous_response_id")
    if previous_id is None:
        return []
    try:
        return await desk.responses.history(principal.tenant_id, previous_id)
    except PreviousResponseNotFound:
        return []


def _page(items: Sequence[Item], after: str | None, limit: int) -> dict[str, Any]:
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidRequest("`after` must be the id of an item of the list.", param="after")
        start = places[0] + 1
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }


def _path_id(exchange: Exchange) -> str:
    # No response has such an id, and PostgreSQL no such character.
    response_id: str = exchange.scope["path_params"]["response_id"]
    return response_id.replace("\0", "?")


def _flag(query: Query, name: str) -> bool:
    given = query.text(name)
    if given not in (None, "true", "false"):
        raise InvalidRequest(f"`{name}` must be `true` or `false`.", param=name)
    return given == "true"
