"""WebSocket routes for FastAPI's router, and the error where none matches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from starlette.routing import WebSocketRoute

from orchestrator.http.errors import UnknownRoute
from orchestrator.http.exchange import App, Exchange, Receive, Scope, Send
from orchestrator.http.routes import exchange_of

_MAX_SHOWN_OF_PATH = 200


class RawSocketRoute(WebSocketRoute):
    """A WebSocket route that the router finds and that answers in plain ASGI."""

    def __init__(
        self,
        path: str,
        handler: Callable[[Exchange], Awaitable[None]],
        parameters: Collection[str] = (),
    ) -> None:
        """`parameters` are the allowed query parameters."""
        super().__init__(path, _found, name=path)
        self.parameters = frozenset(parameters)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            del receive, send
            # FastAPI sets this for HTTP routes only; the metrics need it.
            scope["route"] = self
            await handler(exchange_of(scope))

        self.app = app


def or_no_socket(over_http: App) -> App:
    """The app for paths without a route: `over_http`, and for WebSockets a usual error."""

    async def no_route(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            path = scope["path"][:_MAX_SHOWN_OF_PATH]
            raise UnknownRoute(f"There is no WebSocket at `{path}`.")
        await over_http(scope, receive, send)

    return no_route


async def _found() -> None:
    """Placeholder endpoint for the router; it is never called."""
