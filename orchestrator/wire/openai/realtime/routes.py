"""The way into a session: everything that can be refused is refused before the upgrade."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from orchestrator.core.errors import InvalidRequest, Overloaded, RateLimited, UnknownSocketVersion
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import INFERENCE, Operation, query_parameter
from orchestrator.http.queries import OPENAI
from orchestrator.http.routes import Route
from orchestrator.wire.openai.realtime.items import Dialect
from orchestrator.wire.openai.realtime.socket import Parts, Socket
from orchestrator.wire.openai.types import required_model

__all__ = ["PARAMETERS", "PATH", "Parts", "routes", "session_handler"]

PATH = "/realtime"
PARAMETERS = ("model", *OPENAI)
SUBPROTOCOL = "realtime"
_SOCKET_VERSION = b"13"
_BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
_BETA_HEADER = b"realtime=v1"
_RETRY_S = 5.0
_OPERATION = Operation(
    status=101,
    description="The connection is a WebSocket from here on.",
    parameters=[query_parameter("model", "The model that answers.") | {"required": True}],
    errors=INFERENCE,
    error=ErrorReply,
)


def session_handler(parts: Parts) -> Callable[[Exchange], Awaitable[None]]:
    """What serves the WebSockets of this dialect."""
    places = parts.settings.most_sessions
    of_tenants: Counter[str] = Counter()

    async def serve(exchange: Exchange) -> None:
        nonlocal places
        principal = await exchange.admit(parts.authenticator)
        model = exchange.model = _model(exchange)
        await parts.gateway.check(principal, model, exchange.context("realtime"))
        if places == 0:
            most = parts.settings.most_sessions
            raise Overloaded(
                f"There may be {most} realtime sessions at the same time, and there are.",
                retry_after_s=_RETRY_S,
            )
        tenant_id, most_each = principal.tenant_id, parts.settings.most_tenant_sessions
        if of_tenants[tenant_id] >= most_each:
            raise RateLimited(
                f"A tenant may have {most_each} realtime sessions at the same time, and has them.",
                retry_after_s=_RETRY_S,
            )
        offered: list[str] = exchange.scope.get("subprotocols", [])
        # Never the one with the key in it: it would stand in the reply.
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
        places -= 1
        of_tenants[tenant_id] += 1
        try:
            # The first message says that there is a client, and nothing else.
            await exchange.receive()
            await Socket(exchange, parts, model, _dialect(exchange, offered)).run(chosen)
        finally:
            places += 1
            of_tenants[tenant_id] -= 1
            if not of_tenants[tenant_id]:
                del of_tenants[tenant_id]

    return serve


def routes() -> list[Route]:
    """The same path over plain HTTP: described, and otherwise of no use."""

    async def connect(exchange: Exchange) -> None:
        """A conversation by events of OpenAI's Realtime API, over a WebSocket; for text."""
        version = exchange.headers.get(b"sec-websocket-version", _SOCKET_VERSION)
        if version.strip() != _SOCKET_VERSION:
            raise UnknownSocketVersion("`Sec-WebSocket-Version` must be 13.")
        raise InvalidRequest(
            f"`{exchange.scope['path']}` is a WebSocket: connect with an upgrade, over HTTP/1.1."
        )

    return [Route("GET", PATH, connect, "connect_realtime", "Open a session", _OPERATION)]


def _model(exchange: Exchange) -> str:
    query: bytes = exchange.scope.get("query_string", b"")
    given = parse_qs(query.decode("latin-1")).get("model")
    if given is None:
        raise InvalidRequest("`model` is required, in the query of the address.", param="model")
    return required_model(given[0])


def _dialect(exchange: Exchange, offered: list[str]) -> Dialect | None:
    """The dialect that the upgrade tells of."""
    asked = exchange.headers.get(b"openai-beta", b"").split(b",")
    if _BETA_SUBPROTOCOL in offered or any(one.strip() == _BETA_HEADER for one in asked):
        return "beta"
    return None
