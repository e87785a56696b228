"""OpenAI's responses: made, stored, continued, followed, cancelled and deleted.

Source: OpenAI API reference, responses.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from orchestrator.core.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    PreviousResponseNotFound,
)
from orchestrator.core.ids import new_id
from orchestrator.core.request import GenerationRequest
from orchestrator.http.bodies import BodyReader, json_text
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import INFERENCE, Operation, path_parameter, query_parameter
from orchestrator.http.paths import name_in_path
from orchestrator.http.queries import Query
from orchestrator.http.routes import Route
from orchestrator.http.sse import send_completion, send_stream
from orchestrator.http.text_only import NotText
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.gateway import Gateway
from orchestrator.responses.runs import Runs
from orchestrator.responses.service import Responses
from orchestrator.responses.values import Item, StoredResponse, as_json
from orchestrator.wire.openai.responses.encoder import ResponseEncoder
from orchestrator.wire.openai.responses.items import (
    input_items,
    references,
    resolved,
    with_ids,
    without_oldest,
)
from orchestrator.wire.openai.responses.reasoning import ReasoningSeal
from orchestrator.wire.openai.responses.replies import (
    DeletedResponse,
    InputTokens,
    ItemList,
    Response,
)
from orchestrator.wire.openai.responses.request import (
    ResponsesBody,
    check_body,
    decode,
    response_object,
    wants_encrypted_reasoning,
)
from orchestrator.wire.openai.responses.running import (
    RESPONSE_EVENTS,
    BackgroundWork,
    follow,
    started,
)
from orchestrator.wire.openai.responses.tools import Toolbox, read_tools
from orchestrator.wire.openai.types import room_limit

_DIALECT = "responses"
_ONE = "/responses/{response_id}"
_DEFAULT_PAGE, _MAX_PAGE = 20, 100
_MAX_EVENTS = 10**9
_EXAMPLE = {"model": "demo/chat", "input": "Hello!"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A checked request. `items` are the caller's own, `request` holds what came before too."""

    request: GenerationRequest
    items: Sequence[Item]
    tools: Toolbox


class _Handlers:
    """One for each route."""

    def __init__(
        self,
        authenticator: Authenticator,
        gateway: Gateway,
        responses: Responses,
        runs: Runs,
        peppers: Sequence[bytes],
    ) -> None:
        self._authenticator = authenticator
        self._gateway = gateway
        self._responses = responses
        self._runs = runs
        self._peppers = peppers
        self._reader = BodyReader(ResponsesBody)

    def _read(self, given: bytes) -> tuple[ResponsesBody, list[Item]]:
        """The body, and the items of its input. Raises: InvalidRequest."""
        body = self._reader.read(given)
        check_body(body)
        try:
            return body, input_items(body.input)
        except NotText as error:
            raise error.of(body.model) from None

    async def create(self, exchange: Exchange) -> None:
        """Answers: whole, as server-sent events, or in the background."""
        principal = await exchange.admit(self._authenticator)
        body, items = await exchange.decoded(self._read, self._gateway.check_limits)
        response_id = new_id("resp")
        asked = await self._asked(exchange, principal, body, items, response_id)
        stored = self._stores(body)
        defaults = self._gateway.defaults(body.model)
        now = int(time.time())
        fresh = response_object(body, response_id, now, stored=stored, defaults=defaults)
        # Told, and maybe stored, when it is paid for; so what cannot be is refused now.
        given = {name: fresh[name] for name in ("tools", "tool_choice", "text")}
        json_text(given, "tools, tool_choice or text.format")
        kept = StoredResponse(principal.tenant_id, fresh, asked.items)
        encoder = ResponseEncoder(
            kept,
            logprobs=asked.request.top_logprobs is not None,
            tools=asked.tools,
            seal=self._seal(principal) if wants_encrypted_reasoning(body) else None,
        )
        if body.background:
            await self._run(exchange, principal, asked.request, encoder)
            if body.stream:
                await follow(exchange, self._responses, kept, -1)
            else:
                await exchange.reply(as_json(kept.body))
            return
        keep = self._responses.keep if stored else None
        with exchange.while_connected():
            context = exchange.context(_DIALECT)
            generating = self._gateway.generate(principal, asked.request, context)
            starting = started(generating, encoder, keep, whole=not body.stream)
            if body.stream:
                await send_stream(exchange, starting, encoder, framing=RESPONSE_EVENTS)
            else:
                await send_completion(exchange, starting, encoder)

    async def count(self, exchange: Exchange) -> None:
        """Counts the tokens that a request would put in; nothing is generated or stored."""
        principal = await exchange.admit(self._authenticator)
        body, items = await exchange.decoded(self._read, self._gateway.check_counts)
        asked = await self._asked(exchange, principal, body, items, new_id("resp"))
        context = exchange.context(_DIALECT)
        tokens = await self._gateway.count(principal, asked.request, context)
        document = {"object": "response.input_tokens", "input_tokens": tokens}
        await exchange.reply(orjson.dumps(document))

    async def retrieve(self, exchange: Exchange) -> None:
        """Tells of a stored response, or streams its events, those to come too."""
        principal = await exchange.admit(self._authenticator)
        query = Query(exchange.query_string)
        stream = _flag(query, "stream")
        after = query.number("starting_after", -1, most=_MAX_EVENTS)
        if after >= 0 and not stream:
            raise InvalidRequest(
                "`starting_after` goes with `stream` only.", param="starting_after"
            )
        kept = await self._responses.find(principal.tenant_id, _path_id(exchange))
        if stream:
            await follow(exchange, self._responses, kept, after)
        else:
            await exchange.reply(as_json(kept.body))

    async def list_items(self, exchange: Exchange) -> None:
        """Lists what was put in for a response: what came before it, and its own input."""
        principal = await exchange.admit(self._authenticator)
        query = Query(exchange.query_string)
        limit = query.number("limit", _DEFAULT_PAGE, least=1, most=_MAX_PAGE)
        order = query.text("order") or "desc"
        if order not in ("asc", "desc"):
            raise InvalidRequest("`order` must be `asc` or `desc`.", param="order")
        kept = await self._responses.find(principal.tenant_id, _path_id(exchange))
        items = [*await self._before(exchange, principal, kept), *kept.items]
        if order == "desc":
            items.reverse()
        page = _page(items, query.text("after"), limit)
        await exchange.reply(as_json(page))

    async def cancel(self, exchange: Exchange) -> None:
        """Ends a response that runs in the background; one that is over stays as it is."""
        principal = await exchange.admit(self._authenticator)
        kept = await self._responses.cancel(principal.tenant_id, _path_id(exchange))
        self._runs.stop(kept.id)
        await exchange.reply(as_json(kept.body))

    async def delete(self, exchange: Exchange) -> None:
        """Deletes a stored response and all that was stored with it."""
        principal = await exchange.admit(self._authenticator)
        response_id = _path_id(exchange)
        await self._responses.remove(principal.tenant_id, response_id)
        self._runs.stop(response_id)
        document = {"id": response_id, "object": "response", "deleted": True}
        await exchange.reply(orjson.dumps(document))

    async def _run(
        self,
        exchange: Exchange,
        principal: Principal,
        request: GenerationRequest,
        encoder: ResponseEncoder,
    ) -> None:
        """Begins a background response, which from then on needs nobody. Raises: GatewayError."""
        with self._runs.place():
            context = exchange.context(_DIALECT)
            await self._gateway.check(principal, request.model, context)
            queued = encoder.queued()
            await self._responses.begin(encoder.kept(), queued)
            lease = exchange.hand_over()
            work = BackgroundWork(self._gateway, principal, request, context, encoder, lease)
            self._runs.start(work)

    async def _asked(
        self,
        exchange: Exchange,
        principal: Principal,
        body: ResponsesBody,
        items: list[Item],
        response_id: str,
    ) -> _Asked:
        """What `body` asks for, with what it refers to in its place. Raises: GatewayError."""
        if ids := references(items):
            self._require_store("item_reference")
            found = await self._responses.items(principal.tenant_id, ids, exchange)
            items = resolved(items, found)
        items = with_ids(items, response_id)
        before: list[Item] = []
        if body.previous_response_id is not None:
            self._require_store("previous_response_id")
            # PostgreSQL has no such character.
            previous_id = body.previous_response_id.replace("\0", "?")
            before = await self._responses.history(principal.tenant_id, previous_id, exchange)
        whole = [*before, *items]
        tools = read_tools(body.tools or ())
        seal = self._seal(principal)
        decoding = partial(decode, body, whole, tools, seal)
        request = await exchange.work_on(exchange.held_bytes, decoding)
        exchange.model = request.model
        exchange.leave_out(tools.left_out)
        if body.truncation == "auto":
            request = await self._fitted(exchange, principal, request, body, whole, tools)
        return _Asked(request, items, tools)

    async def _fitted(
        self,
        exchange: Exchange,
        principal: Principal,
        whole: GenerationRequest,
        body: ResponsesBody,
        items: Sequence[Item],
        tools: Toolbox,
    ) -> GenerationRequest:
        """The request `whole` without as many of the oldest items as do not fit the context.

        Looking for them takes one place among the calls that count tokens.
        """
        seal = self._seal(principal)
        model = self._gateway.model(principal, body.model)
        limit = room_limit("max_output_tokens", body.max_output_tokens)
        room = model.context_tokens - (limit or 1)
        context = exchange.context(_DIALECT)
        if await self._fits(partial(self._gateway.count, principal, whole, context), room):
            return whole
        fewest, most = 1, len(items) - 1
        while fewest < most:
            middle = (fewest + most) // 2
            request = decode(body, without_oldest(items, middle), tools, seal)
            if await self._fits(partial(self._gateway.recount, principal, request, context), room):
                most = middle
            else:
                fewest = middle + 1
        rest = without_oldest(items, min(fewest, len(items) - 1))
        return decode(body, rest, tools, seal)

    async def _fits(self, count: Callable[[], Awaitable[int]], room: int) -> bool:
        try:
            return await count() <= room
        except ContextLengthExceeded:
            # So much longer that it was not counted.
            return False

    def _seal(self, principal: Principal) -> ReasoningSeal:
        return ReasoningSeal(self._peppers, principal.tenant_id)

    def _stores(self, body: ResponsesBody) -> bool:
        """Whether the response is to be stored: unless the caller or the operator says no.

        Raises: InvalidRequest, StoreUnavailable.
        """
        if body.background or body.store:
            self._require_store("background" if body.background else "store")
        if body.store is False or not self._responses.stores:
            return False
        self._responses.check()
        return True

    def _require_store(self, name: str) -> None:
        if not self._responses.stores:
            raise InvalidRequest(
                f"`{name}` needs stored responses, and this appliance stores none.", param=name
            )

    async def _before(
        self, exchange: Exchange, principal: Principal, kept: StoredResponse
    ) -> list[Item]:
        """The items from before that response, as far as they are still stored."""
        previous_id = kept.body.get("previous_response_id")
        if previous_id is None:
            return []
        try:
            return await self._responses.history(principal.tenant_id, previous_id, exchange)
        except PreviousResponseNotFound:
            return []


def routes(
    authenticator: Authenticator,
    gateway: Gateway,
    responses: Responses,
    runs: Runs,
    peppers: Sequence[bytes],
) -> list[Route]:
    """The routes of this dialect. Reasoning is encrypted with the first of `peppers`."""
    handlers = _Handlers(authenticator, gateway, responses, runs, peppers)
    making = _operation(Response, body=ResponsesBody, streams=True, limited=True)
    reading = _operation(Response, parameters=_READING, streams=True)
    listing = _operation(ItemList, parameters=_LISTING)
    return [
        Route(
            "POST", "/responses", handlers.create, "create_response", "Create a response", making
        ),
        Route(
            "POST",
            "/responses/input_tokens",
            handlers.count,
            "count_response_input_tokens",
            "Count input tokens",
            _operation(InputTokens, body=ResponsesBody),
        ),
        Route("GET", _ONE, handlers.retrieve, "get_response", "A stored response", reading),
        Route(
            "GET",
            f"{_ONE}/input_items",
            handlers.list_items,
            "list_response_input_items",
            "What was put in for a response",
            listing,
        ),
        Route(
            "POST",
            f"{_ONE}/cancel",
            handlers.cancel,
            "cancel_response",
            "Cancel a background response",
            _operation(Response),
        ),
        Route(
            "DELETE",
            _ONE,
            handlers.delete,
            "delete_response",
            "Delete a stored response",
            _operation(DeletedResponse),
        ),
    ]


_INCLUDE = (
    query_parameter("include", "changes nothing: everything is always there"),
    query_parameter("include[]", "the same, as clients write lists"),
)
_READING = (
    path_parameter("response_id"),
    query_parameter("stream", "events instead of the response", {"type": "boolean"}),
    query_parameter("starting_after", "the last event already seen", {"type": "integer"}),
    *_INCLUDE,
    query_parameter("include_obfuscation", "changes nothing: events are not padded"),
)
_LISTING = (
    path_parameter("response_id"),
    query_parameter("after", "the last item already seen"),
    query_parameter("limit", "items of one page", {"type": "integer", "maximum": _MAX_PAGE}),
    query_parameter("order", "desc unless given", {"enum": ["asc", "desc"]}),
    *_INCLUDE,
)


def _operation(reply: Any, *, body: Any = None, **more: Any) -> Operation:
    example = None if body is None else _EXAMPLE
    return Operation(
        body=body, reply=reply, example=example, errors=INFERENCE, error=ErrorReply, **more
    )


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
    return name_in_path(exchange.scope, "response_id").replace("\0", "?")


def _flag(query: Query, name: str) -> bool:
    given = query.text(name)
    if given not in (None, "true", "false"):
        raise InvalidRequest(f"`{name}` must be `true` or `false`.", param=name)
    return given == "true"
