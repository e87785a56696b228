"""Routes of the inference calls, in plain ASGI, with descriptions for `/openapi.json`."""

from __future__ import annotations

import inspect
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
)
from dataclasses import dataclass, field

from fastapi.routing import APIRoute

from orchestrator.http.exchange import Exchange, Receive, Scope, Send
from orchestrator.http.openapi import Described, Operation

EXCHANGE = "orchestrator.exchange"
"""The key under which `Edge` puts the exchange into the scope of a request."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path of a dialect, below the prefix of its surface.

    `by_client` routes check their query parameters themselves, because these depend on the client.
    """

    method: str
    path: str
    handler: Callable[[Exchange], Awaitable[None]]
    name: str
    summary: str
    operation: Operation = field(default_factory=Operation)
    by_client: bool = False


class RawRoute(APIRoute):
    """A route that FastAPI finds and that answers in plain ASGI."""

    def __init__(
        self, prefix: str, route: Route, tag: str, tolerated: Collection[str] = ()
    ) -> None:
        """`tolerated` are query parameters that clients send and that have no effect."""
        super().__init__(
            prefix + route.path,
            _described,
            methods=[route.method],
            include_in_schema=False,
            name=route.name,
        )
        handler = self.handler = route.handler
        known = frozenset({*route.operation.queried, *tolerated})
        self.parameters = None if route.by_client else known
        self.described = Described(
            method=route.method,
            path=prefix + route.path,
            operation_id=f"{route.name}{prefix.replace('/', '_')}",
            summary=route.summary,
            description=inspect.getdoc(handler) or "",
            tag=tag,
            operation=route.operation,
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            del receive, send
            exchange = exchange_of(scope)
            if route.operation.public:
                # On other routes a missing or bad key is reported first.
                exchange.check_query()
            await handler(exchange)

        self.app = app


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that `Edge` made for this request."""
    exchange: Exchange = scope[EXCHANGE]
    return exchange


async def _described() -> None:
    """Placeholder endpoint for FastAPI; it is never called."""
