"""HTTP under every dialect, on bare ASGI: one exchange, its body, its reply, its end.

The routes of the inference calls are plain ASGI: no pydantic, no middleware per chunk. FastAPI
routes them and has no other part in them; `openapi.py` describes them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar

from fastapi.routing import APIRoute

from orchestrator.auth import Authenticator, Principal
from orchestrator.core.context import CallContext
from orchestrator.core.errors import (
    GatewayError,
    Internal,
    RequestTimeout,
    StoreUnavailable,
)
from orchestrator.core.events import Usage
from orchestrator.core.ids import new_id
from orchestrator.settings import HostsSettings, IntakeSettings, ServerSettings
from orchestrator.store.database import StoreError
from orchestrator.telemetry import Call, names
from orchestrator.telemetry.calls import server_timing
from orchestrator.telemetry.process import Telemetry
from orchestrator.wire.connection import CLIENT_LEFT, CONNECTION, Connection, WhileConnected
from orchestrator.wire.errors import (
    ANTHROPIC_PREFIXES,
    Client,
    ErrorReply,
    Headers,
    Profile,
    is_under,
    profile_of,
    render_error,
)
from orchestrator.wire.given_key import secret_of, secret_of_subprotocols
from orchestrator.wire.intake import (
    SMALL_BODY_BYTES,
    ClientLeftError,
    Holder,
    Intake,
    new_intake,
    read_body,
    too_large,
)
from orchestrator.wire.openapi import Described, Operation
from orchestrator.wire.told import Told

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAIN = "orchestrator.drain"
"""A message of our own to the handlers of WebSockets: end, and let end what runs."""
SWITCHING_PROTOCOLS = 101
_EXCHANGE = "orchestrator.exchange"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Exchange(Holder):
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
        intake: Intake | None = None,
    ) -> None:
        self._intake = intake or _default_intake()
        self._there: bytes | None = None
        self.scope = scope
        self.receive = receive
        self._send = send
        self._server = server
        self._hosts = hosts
        # Of a header sent twice the first counts.
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._connection: Connection | None = scope.pop(CONNECTION, None)
        # Of the body, once it has begun. Straight to the server: this runs for every token.
        self.send_piece: Callable[[bytes], Awaitable[None]] = (
            self._piece if self._connection is None else self._connection.piece
        )
        # Engines know a generation by its id and stop it by that id, so a caller cannot choose it.
        self.call_id = self.request_id = new_id("req")
        asked = self.headers.get(b"x-request-id")
        if asked is not None and _REQUEST_ID.fullmatch(asked):
            self.request_id = asked.decode()
            self.call_id = f"{self.request_id}-{self.call_id}"
        self.secret = secret_of(scope, self.headers)
        self.status = 0
        self.complete = False
        self.left = False
        """Whether the client went away before its reply was complete."""
        self.principal: Principal | None = None
        self.model = "-"
        self.usage: Usage | None = None
        self.error = ""
        self.call = Call(self.request_id, self.call_id)
        self.told: Told | None = None
        self.server_timing = False
        self.on_error: OnError | None = None
        self._left_out: Sequence[str] = ()

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
        """The client's address: the peer's, or what trusted proxies say; None if not known."""
        client = self.scope.get("client")
        return client[0] if client else None

    @property
    def ping_after_s(self) -> float:
        """After how long a silence a stream is to say that it is there."""
        return self._server.ping_after_s

    def context(self, dialect: str) -> CallContext:
        """What the pipeline is to know of this call beside its content."""
        here = self._is_there
        return CallContext(self.request_id, dialect, self.client_ip, self.call_id, here)

    def _is_there(self) -> bool:
        return not self.left

    def send(self, message: Message) -> Awaitable[None]:
        """Sends one ASGI message. No coroutine of its own: this may run for every token."""
        if message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._named([*message.get("headers", ())])}
        return self._send(message)

    def _piece(self, piece: bytes) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": piece, "more_body": True})

    def _named(self, headers: Headers) -> Headers:
        """`headers` with the request's id, as the caller's kind of client looks for it."""
        request_id = self.request_id.encode()
        headers.append((b"x-request-id", request_id))
        if b"anthropic-version" in self.headers or is_under(self.scope["path"], ANTHROPIC_PREFIXES):
            headers.append((b"request-id", request_id))
        if self._left_out:
            warning = f"tools left out: {', '.join(self._left_out)}"
            headers.append((b"x-op-warning", warning.encode("ascii", "replace")))
        return headers

    def leave_out(self, tools: Sequence[str]) -> None:
        """Has the reply say in `x-op-warning` which tools of the caller's are not here.

        `tools` are types or names without line ends.
        """
        self._left_out = tools

    async def admit(self, authenticator: Authenticator) -> Principal:
        """The caller; nothing of the body is read for it.

        Raises: PayloadTooLarge, Unauthenticated, StoreUnavailable.
        """
        declared, most = self._declared, self._server.max_body_bytes
        if declared is not None and declared > most:
            raise too_large(most, f"{declared} were announced")
        began_ns = perf_counter_ns()
        self.principal = authenticator.recall(self.secret)
        if self.principal is not None:
            self.call.passed(names.AUTHENTICATE, began_ns)
            return self.principal
        with self.call.stage(names.AUTHENTICATE):
            self.principal = await authenticator.authenticate(self.secret)
        return self.principal

    @property
    def _declared(self) -> int | None:
        declared = self.headers.get(b"content-length", b"")
        return int(declared) if declared.isdigit() else None

    async def body(self, most_bytes: int | None = None) -> bytes:
        """The whole body, of `most_bytes`, or as many as any body may have.

        Raises: PayloadTooLarge, RequestTimeout, RateLimited, Overloaded, ClientLeftError.
        """
        most = self._server.max_body_bytes if most_bytes is None else most_bytes
        body = self._small_body(most)
        return await self._large_body(most) if body is None else body

    async def decoded(
        self,
        read: Callable[[bytes], T],
        check: Callable[[Principal], Awaitable[None]] | None = None,
    ) -> T:
        """What `read` makes of the body. Raises: what `body`, `check` and `read` raise.

        Before a body that is not small is read, `check` may refuse its caller.
        """
        most = self._server.max_body_bytes
        body = self._small_body(most)
        if body is not None:
            return read(body)
        declared = self._declared
        if check is not None and (declared is None or declared > SMALL_BODY_BYTES):
            assert self.principal is not None
            await check(self.principal)
        return await self.work(await self._large_body(most), read)

    def _small_body(self, most: int) -> bytes | None:
        """The body, if all of it is there and it is small."""
        began_ns = perf_counter_ns()
        body = None if self._connection is None else self._connection.whole_body()
        if body is None:
            return None
        if len(body) <= SMALL_BODY_BYTES and len(body) <= most:
            self.call.passed(names.READ, began_ns)
            return body
        self._there = body
        return None

    async def _large_body(self, most: int) -> bytes:
        limit_s = self._server.body_timeout_s
        there, self._there = self._there, None
        try:
            with self.call.stage(names.READ):
                async with asyncio.timeout(limit_s):
                    return await read_body(self.receive, there, self._declared, most, self.keep)
        except TimeoutError as error:
            raise RequestTimeout(
                f"The request body must be sent within {limit_s:g} s.", retryable=True
            ) from error

    @property
    def owner(self) -> str:
        """Whose share of memory and threads it uses: its tenant's."""
        return "" if self.principal is None else self.principal.tenant_id

    def reply(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Iterable[tuple[bytes, bytes]] = (),
        media_type: bytes = b"application/json",
    ) -> Awaitable[None]:
        """Sends a whole reply."""
        told = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]
        if self.server_timing and self.call.client_stage is not None:
            told.append((b"server-timing", server_timing(self.call).encode("ascii")))
        return self._send_whole(status, told, body)

    async def fail(self, error: GatewayError) -> None:
        """Sends `error` in the caller's words, if nothing has been sent yet."""
        if self.started:
            return
        rendered: ErrorReply = render_error(error, self.profile, self.request_id)
        length = (b"content-length", b"%d" % len(rendered.body))
        await self._send_whole(rendered.status, [*rendered.headers, length], rendered.body)

    def _send_whole(self, status: int, headers: Headers, body: bytes) -> Awaitable[None]:
        if self._connection is None:
            return self._send_by_asgi(status, headers, body)
        self.status, self.complete = status, True
        return self._connection.reply(status, self._named(headers), body)

    async def _send_by_asgi(self, status: int, headers: Headers, body: bytes) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def report(self, error: GatewayError) -> None:
        """Tells whoever is told of errors of one that the caller is about to be told of."""
        if self.told is not None:
            self.told.refused(self, error)
        if self.on_error is not None:
            self.on_error(self, error)

    def while_connected(self) -> WhileConnected:
        """A block that ends early, without an error, when the client goes away."""
        return WhileConnected(self, self._connection)


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
        intake: Intake | None = None,
    ) -> None:
        super().__init__(scope, receive, send, server, hosts, intake)
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


OnError = Callable[[Exchange, GatewayError], None]
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
        """`on_error` is told of errors before the caller is."""
        self._telemetry = telemetry or Telemetry()
        self._app = app
        self._server = server
        self._hosts = hosts
        self._on_error = on_error
        self._intake = intake or _default_intake()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        kind = Exchange if scope["type"] == "http" else SocketExchange
        exchange = kind(scope, receive, send, self._server, self._hosts, self._intake)
        scope[_EXCHANGE] = exchange
        await self._guarded(exchange, partial(self._app, scope, receive, exchange.send))

    def answer(self, route: RawRoute, scope: Scope, receive: Receive, send: Send) -> Handling:
        """Answers a request over HTTP by `route`, without the application."""
        scope["route"], scope["path_params"] = route, {}
        exchange = Exchange(scope, receive, send, self._server, self._hosts, self._intake)
        return self._guarded(exchange, partial(route.handler, exchange))

    async def _guarded(self, exchange: Exchange, handle: Callable[[], Awaitable[None]]) -> None:
        """Answers what `handle` raises, and tells of the exchange at its end."""
        exchange.on_error = self._on_error
        exchange.told = told = Told(self._telemetry, exchange)
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


def _default_intake() -> Intake:
    return new_intake(IntakeSettings(), ServerSettings())[0]


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


async def _described() -> None:
    """Stands in the signature's place for FastAPI; requests never come here."""
