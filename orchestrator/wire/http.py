"""HTTP under every dialect, on bare ASGI: one exchange, its body, its reply, its end.

The routes of the inference calls are plain ASGI: no pydantic, no middleware per chunk. FastAPI
routes them and has no other part in them; `openapi.py` describes them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs

from fastapi.routing import APIRoute

from orchestrator.auth import Authenticator, Principal
from orchestrator.core.context import CallContext
from orchestrator.core.errors import (
    GatewayError,
    Internal,
    PayloadTooLarge,
    RequestTimeout,
    StoreUnavailable,
)
from orchestrator.core.events import Usage
from orchestrator.core.ids import new_id
from orchestrator.settings import HostsSettings, ServerSettings
from orchestrator.store.database import StoreError
from orchestrator.telemetry import Call, names
from orchestrator.telemetry.process import Telemetry
from orchestrator.wire.errors import (
    ANTHROPIC_PREFIXES,
    Client,
    Headers,
    Profile,
    is_gemini,
    is_under,
    profile_of,
    render_error,
)
from orchestrator.wire.openapi import Described, Operation
from orchestrator.wire.told import Told, timing_headers

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAIN = "orchestrator.drain"
"""A message of our own to the handlers of WebSockets: end, and let end what runs."""
SWITCHING_PROTOCOLS = 101
CLIENT_LEFT = 499
"""The status in the log of a request whose client went away first. Source: nginx."""
_EXCHANGE = "orchestrator.exchange"
_KEY_SUBPROTOCOL = "openai-insecure-api-key."
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}", re.ASCII)
_NO_ROUTES: Mapping[tuple[str, str], RawRoute] = MappingProxyType({})
_JSON: Headers = [(b"content-type", b"application/json")]


class ClientLeftError(Exception):
    """The client went away while its body was read."""


class Exchange:
    """One HTTP request and its reply.

    `send` is ASGI's own, but puts `x-request-id` on the reply and notes how far it has come:
    `status` is 0 until it begins, `complete` true once the last of it is sent.
    `request_id` is what callers see and may have chosen; `call_id` begins with it and is like no
    other. `principal`, `model` and `usage` are set by handlers, for the log.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        server: ServerSettings,
        hosts: HostsSettings,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self._server = server
        self._hosts = hosts
        # Of a header sent twice the first counts.
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        # Engines know a generation by its id and stop it by that id, so a caller cannot choose it.
        self.call_id = self.request_id = new_id("req")
        if _REQUEST_ID.fullmatch(asked := self.headers.get(b"x-request-id", b"")):
            self.request_id = asked.decode()
            self.call_id = f"{self.request_id}-{self.call_id}"
        self.secret = _secret(self.headers) or _secret_of_query(scope)
        self.status = 0
        self.complete = False
        self.principal: Principal | None = None
        self.model = "-"
        self.usage: Usage | None = None
        self.error = ""
        self.call = Call(self.request_id, self.call_id)
        self.told: Told | None = None
        self.server_timing = False
        self.on_error: OnError | None = None

    @property
    def started(self) -> bool:
        """Whether the status has been sent."""
        return self.status != 0

    @property
    def profile(self) -> Profile:
        """Whose words errors are told in."""
        return profile_of(
            self.scope["path"],
            self.headers.get(b"host", b"").decode("latin-1"),
            self.secret,
            self.headers.get(b"x-op-error-format", b"").decode("latin-1").strip().lower() or None,
            self._hosts,
            client=self.client,
        )

    @property
    def client(self) -> Client | None:
        """Whose official client asks: Anthropic's names its version, Google's has a key header."""
        if b"anthropic-version" in self.headers:
            return "anthropic"
        if b"x-goog-api-client" in self.headers or b"x-goog-api-key" in self.headers:
            return "google"
        return None

    @property
    def client_ip(self) -> str | None:
        """The peer's address."""
        client = self.scope.get("client")
        return client[0] if client else None

    def context(self, dialect: str) -> CallContext:
        """What the pipeline is to know of this call beside its content."""
        return CallContext(self.request_id, dialect, self.client_ip, self.call_id)

    def send(self, message: Message) -> Awaitable[None]:
        """Sends one ASGI message. No coroutine of its own: this runs for every token."""
        if message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = self.request_id.encode()
            headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
            if self.client == "anthropic" or is_under(self.scope["path"], ANTHROPIC_PREFIXES):
                headers.append((b"request-id", request_id))
            message = {**message, "headers": headers}
        return self._send(message)

    def send_piece(self, piece: bytes) -> Awaitable[None]:
        """Sends some of a body that has begun and goes on; `send` without its questions."""
        return self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def admit(self, authenticator: Authenticator) -> Principal:
        """The caller; nothing of the body is read for it.

        Raises: PayloadTooLarge, Unauthenticated, StoreUnavailable.
        """
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._server.max_body_bytes:
            raise self._too_large(f"{int(declared)} were announced")
        with self.call.stage(names.AUTHENTICATE):
            self.principal = await authenticator.authenticate(self.secret)
        return self.principal

    async def body(self) -> bytes:
        """The whole body. Raises: PayloadTooLarge, RequestTimeout, ClientLeftError."""
        limit_s = self._server.body_timeout_s
        try:
            with self.call.stage(names.READ):
                async with asyncio.timeout(limit_s):
                    return await self._read()
        except TimeoutError as error:
            raise RequestTimeout(
                f"The request body must be sent within {limit_s:g} s.", retryable=True
            ) from error

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._server.max_body_bytes:
                raise self._too_large("more were sent")
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def reply(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Iterable[tuple[bytes, bytes]] = (),
        media_type: bytes = b"application/json",
    ) -> None:
        """Sends a whole reply."""
        length = (b"content-length", b"%d" % len(body))
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", media_type), length, *headers, *timing_headers(self)],
            }
        )
        await self.send({"type": "http.response.body", "body": body})

    async def fail(self, error: GatewayError) -> None:
        """Sends `error` in the caller's words, if nothing has been sent yet."""
        if self.started:
            return
        rendered = render_error(error, self.profile, self.request_id)
        length = (b"content-length", b"%d" % len(rendered.body))
        await self.send(
            {
                "type": "http.response.start",
                "status": rendered.status,
                "headers": [*rendered.headers, length],
            }
        )
        await self.send({"type": "http.response.body", "body": rendered.body})

    def report(self, error: GatewayError) -> None:
        """Tells whoever is told of errors of one that the caller is about to be told of."""
        if self.told is not None:
            self.told.refused(error)
        if self.on_error is not None:
            self.on_error(self, error)

    def while_connected(self) -> WhileConnected:
        """A block that ends early, without an error, when the client goes away."""
        return WhileConnected(self)

    def _too_large(self, given: str) -> PayloadTooLarge:
        limit = self._server.max_body_bytes
        return PayloadTooLarge(f"The request body may have {limit} bytes at most; {given}.")


class SocketExchange(Exchange):
    """The upgrade to a WebSocket, and the socket after it.

    Until it is accepted an error is an HTTP reply, which servers send by the extension
    `websocket.http.response` of ASGI. Source: asgi.readthedocs.io, extensions.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        server: ServerSettings,
        hosts: HostsSettings,
    ) -> None:
        super().__init__(scope, receive, send, server, hosts)
        scope["method"] = "GET"
        if self.secret is None:
            self.secret = _secret_of_subprotocols(scope)

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


class WhileConnected:
    """Cancels its own block when the client leaves; `left` tells that it did.

    To be entered when the body has been read. Nothing else may call `receive` meanwhile.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.left = False

    async def __aenter__(self) -> WhileConnected:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watch = asyncio.create_task(self._wait_for_disconnect())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        # Not waited for: it holds nothing, and ends at its next step.
        self._watch.cancel()
        if not self.left:
            return False
        # Our own cancellation is taken back; one from outside goes on. As `asyncio.timeout` does.
        if self._task.uncancel() > self._cancelling:
            return False
        self._exchange.status = CLIENT_LEFT
        return kind is not None and issubclass(kind, asyncio.CancelledError)

    async def _wait_for_disconnect(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        # Servers say the same of a reply that is complete, and then what is left to do is done.
        if not self._exchange.complete:
            self.left = True
            self._task.cancel()


OnError = Callable[[Exchange, GatewayError], None]


class Edge:
    """The outermost layer: makes the exchange, answers every error, writes the log line."""

    def __init__(
        self,
        app: App,
        server: ServerSettings,
        hosts: HostsSettings,
        on_error: OnError | None = None,
        telemetry: Telemetry | None = None,
        direct: Mapping[tuple[str, str], RawRoute] = _NO_ROUTES,
    ) -> None:
        """`on_error` is told of errors before the caller is.

        `direct` are routes by method and path, which are taken without a look at all the others.
        """
        self._telemetry = telemetry or Telemetry()
        self._direct = direct
        self._app = app
        self._server = server
        self._hosts = hosts
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        kind = Exchange if scope["type"] == "http" else SocketExchange
        exchange = kind(scope, receive, send, self._server, self._hosts)
        exchange.on_error = self._on_error
        exchange.told = told = Told(self._telemetry, exchange)
        scope[_EXCHANGE] = exchange
        try:
            route = self._direct.get((scope["method"], scope["path"]))
            if route is None:
                await self._app(scope, receive, exchange.send)
            else:
                scope["route"], scope["path_params"] = route, {}
                await route.handler(exchange)
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
            told.end()


@dataclass(frozen=True, slots=True)
class Route:
    """A path of a dialect, below the prefix of its surface."""

    method: str
    path: str
    handler: Callable[[Exchange], Awaitable[None]]
    name: str
    summary: str
    operation: Operation = field(default_factory=Operation)


class RawRoute(APIRoute):
    """A route that FastAPI finds, and that answers on bare ASGI."""

    def __init__(self, prefix: str, route: Route, tag: str) -> None:
        super().__init__(
            prefix + route.path,
            _described,
            methods=[route.method],
            include_in_schema=False,
            name=route.name,
        )
        handler = self.handler = route.handler
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
            await handler(exchange_of(scope))

        self.app = app


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that `Edge` made for this request."""
    exchange: Exchange = scope[_EXCHANGE]
    return exchange


def internal_error() -> Internal:
    """What a caller is told of a fault of ours: nothing but that it is one."""
    return Internal("An internal error occurred. Give the request id when you report it.")


def store_unavailable() -> StoreUnavailable:
    """What a caller is told when the store is out of reach; the log says why."""
    return StoreUnavailable(
        "The store cannot be reached at the moment.", retry_after_s=1.0, retryable=True
    )


def header_pairs(headers: Mapping[str, str]) -> Headers:
    """Headers as ASGI wants them."""
    return [(name.lower().encode("latin-1"), _one_line(headers[name])) for name in headers]


async def _described() -> None:
    """Stands in the signature's place for FastAPI; requests never come here."""


def _one_line(value: str) -> bytes:
    """A header's value; what does not fit into one is replaced."""
    return re.sub(r"[^\x20-\x7e]", "?", value).encode("ascii")


def _secret(headers: Mapping[bytes, bytes]) -> str | None:
    """The caller's key, from any of the three headers that clients use."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and (secret := credentials.strip()):
        return secret.decode("latin-1")
    for name in (b"x-api-key", b"x-goog-api-key"):
        if secret := headers.get(name, b"").strip():
            return secret.decode("latin-1")
    return None


def _secret_of_subprotocols(scope: Scope) -> str | None:
    """The key among the offered subprotocols: browsers can send no header with an upgrade."""
    offered: list[str] = scope.get("subprotocols", [])
    keys = (one for one in offered if one.startswith(_KEY_SUBPROTOCOL))
    return next(keys, "").removeprefix(_KEY_SUBPROTOCOL) or None


def _secret_of_query(scope: Scope) -> str | None:
    """`?key=`, as Google's clients send it; on Google's paths only, for addresses get logged."""
    query: bytes = scope.get("query_string", b"")
    if b"key=" not in query or not is_gemini(scope["path"]):
        return None
    return parse_qs(query.decode("latin-1")).get("key", [None])[0]
