"""The outermost layer: makes the exchange, answers every error, reports every request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from orchestrator.core.errors import GatewayError
from orchestrator.http.connection import CLIENT_LEFT
from orchestrator.http.cors import Cors, cors_of
from orchestrator.http.credentials import secret_of_subprotocols
from orchestrator.http.exchange import (
    App,
    Exchange,
    Message,
    OnError,
    Receive,
    Scope,
    Send,
    default_intake,
)
from orchestrator.http.faults import internal_error, store_unavailable
from orchestrator.http.intake import ClientLeftError, Intake
from orchestrator.http.request_report import RequestReport
from orchestrator.http.routes import EXCHANGE, RawRoute
from orchestrator.settings import HostsSettings, ServerSettings
from orchestrator.store.database import StoreError
from orchestrator.telemetry.process import Telemetry

logger = logging.getLogger(__name__)

SWITCHING_PROTOCOLS = 101


class SocketExchange(Exchange):
    """The upgrade to a WebSocket, and the socket after it.

    Before it is accepted, an error is an HTTP reply, which servers send through the ASGI extension
    `websocket.http.response`. Source: asgi.readthedocs.io, extensions.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        server: ServerSettings,
        hosts: HostsSettings,
        intake: Intake | None = None,
        cors: Cors | None = None,
    ) -> None:
        super().__init__(scope, receive, send, server, hosts, intake, cors)
        scope["method"] = "GET"
        if self.secret is None:
            self.secret = secret_of_subprotocols(scope)

    def send(self, message: Message) -> Awaitable[None]:
        """Sends one ASGI message, of HTTP or of a WebSocket."""
        kind = message["type"]
        if kind.startswith("http."):
            self.complete = not message.get("more_body", False)
            message = {**message, "type": f"websocket.{kind}"}
        if kind in ("http.response.start", "websocket.accept"):
            self.status = message.get("status", SWITCHING_PROTOCOLS)
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
        return self._send(message)


Handling = Coroutine[Any, Any, None]


class Edge:
    """The outermost layer: makes the exchange, answers every error, writes the log line."""

    def __init__(
        self,
        app: App,
        server: ServerSettings,
        hosts: HostsSettings,
        on_error: OnError | None = None,
        telemetry: Telemetry | None = None,
        intake: Intake | None = None,
    ) -> None:
        """`on_error` is called with each error before the reply is sent."""
        self._telemetry = telemetry or Telemetry()
        self._app = app
        self._server = server
        self._hosts = hosts
        self._on_error = () if on_error is None else (on_error,)
        self._intake = intake or default_intake()
        self._cors = cors_of(server)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        kind = Exchange if scope["type"] == "http" else SocketExchange
        exchange = self._exchange(kind, scope, receive, send)
        scope[EXCHANGE] = exchange
        await self._guarded(exchange, partial(self._app, scope, receive, exchange.send))

    def answer(self, route: RawRoute, scope: Scope, receive: Receive, send: Send) -> Handling:
        """Answers an HTTP request by `route` directly, without the application."""
        scope["route"], scope["path_params"] = route, {}
        exchange = self._exchange(Exchange, scope, receive, send)
        return self._guarded(exchange, partial(route.handler, exchange))

    def _exchange(
        self, kind: type[Exchange], scope: Scope, receive: Receive, send: Send
    ) -> Exchange:
        return kind(scope, receive, send, self._server, self._hosts, self._intake, self._cors)

    async def _guarded(self, exchange: Exchange, handle: Callable[[], Awaitable[None]]) -> None:
        """Answers what `handle` raises, and reports the exchange at its end."""
        told = RequestReport(self._telemetry, exchange)
        exchange.on_error = (told.refused, *self._on_error)
        try:
            await handle()
        except ClientLeftError:
            exchange.status = CLIENT_LEFT
        except GatewayError as error:
            exchange.report(error)
            await exchange.fail(error)
        except StoreError as error:
            logger.warning("request %s: %s", exchange.request_id, error)
            exchange.report(store_unavailable())
            await exchange.fail(store_unavailable())
        except Exception:
            logger.exception("request %s failed", exchange.call_id)
            exchange.report(internal_error())
            await exchange.fail(internal_error())
        finally:
            exchange.release()
            told.end(exchange)
