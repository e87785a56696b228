"""HTTP under every dialect, on bare ASGI: one exchange, its body, its reply, its end.

The routes of the inference calls are plain ASGI: no pydantic, no middleware per chunk. FastAPI
routes them and has no other part in them; `openapi.py` describes them.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
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
from orchestrator.telemetry import Call, names
from orchestrator.telemetry.calls import server_timing
from orchestrator.wire.codings import Coding, coding_of, read_inflated
from orchestrator.wire.connection import CONNECTION, Connection, WhileConnected
from orchestrator.wire.cors import Cors
from orchestrator.wire.errors import (
    ANTHROPIC_PREFIXES,
    Client,
    Headers,
    Profile,
    is_under,
    profile_of,
    render_error,
)
from orchestrator.wire.field_names import in_words_of
from orchestrator.wire.given_key import secret_of
from orchestrator.wire.intake import (
    SMALL_BODY_BYTES,
    Holder,
    Intake,
    new_intake,
    read_body,
    too_large,
)
from orchestrator.wire.openapi import Described, Operation
from orchestrator.wire.queries import check_known, given_in
from orchestrator.wire.told import Told

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")
Check = Callable[[Principal], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAIN = "orchestrator.drain"
"""A message of our own to the handlers of WebSockets: end, and let end what runs."""
EXCHANGE = "orchestrator.exchange"
"""Where `Edge` puts the exchange into the scope of a request."""
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
        cors: Cors | None = None,
    ) -> None:
        self._intake = intake or default_intake()
        self.cors = cors
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
        self.dialect = self.error = ""
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
        self.dialect = dialect
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
        """`headers` with those of every reply: its id, and what a browser wants to know."""
        request_id = self.request_id.encode()
        headers.append((b"x-request-id", request_id))
        if self.cors is not None:
            headers += self.cors.reply_headers(self.scope["path"], self.headers.get(b"origin"))
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

        Raises: PayloadTooLarge, Unauthenticated, StoreUnavailable, InvalidRequest for a parameter
        that the route does not know.
        """
        declared, most = self._declared, self._server.max_body_bytes
        if declared is not None and declared > most:
            raise too_large(most, f"{declared} were announced")
        began_ns = perf_counter_ns()
        self.principal = authenticator.recall(self.secret)
        if self.principal is not None:
            self.call.passed(names.AUTHENTICATE, began_ns)
        else:
            with self.call.stage(names.AUTHENTICATE):
                self.principal = await authenticator.authenticate(self.secret)
        self.check_query()
        return self.principal

    def check_query(self) -> None:
        """Raises: InvalidRequest for a parameter that the route does not know."""
        if query := self.scope["query_string"]:
            known = getattr(self.scope.get("route"), "parameters", ())
            if known is not None:
                check_known(given_in(query), known)

    @property
    def _declared(self) -> int | None:
        declared = self.headers.get(b"content-length", b"")
        return int(declared) if declared.isdigit() else None

    async def body(self, most_bytes: int | None = None) -> bytes:
        """The whole body, of `most_bytes`, or as many as any body may have.

        Raises: PayloadTooLarge, RequestTimeout, RateLimited, Overloaded, ClientLeftError,
        UnsupportedCoding, InvalidRequest for what cannot be decompressed.
        """
        most = self._server.max_body_bytes if most_bytes is None else most_bytes
        if b"content-encoding" in self.headers and (coding := coding_of(self.scope["headers"])):
            return await self._inflated(coding, most, None)
        body = self._small_body(most)
        return await self._large_body(most) if body is None else body

    async def decoded(
        self,
        read: Callable[[bytes], T],
        check: Check | None = None,
    ) -> T:
        """What `read` makes of the body. Raises: what `body`, `check` and `read` raise.

        Before a body that is not small is read, `check` may refuse its caller.
        """
        most = self._server.max_body_bytes
        if b"content-encoding" in self.headers and (coding := coding_of(self.scope["headers"])):
            return await self.work(await self._inflated(coding, most, check), read)
        body = self._small_body(most)
        if body is not None:
            return read(body)
        declared = self._declared
        if declared is None or declared > SMALL_BODY_BYTES:
            await self._may_be_large(check)
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
        there, self._there = self._there, None
        return await self._in_time(read_body(self.receive, there, self._declared, most, self.keep))

    async def _inflated(self, coding: Coding, most: int, check: Check | None) -> bytes:
        """What a compressed body holds. Before it is more than little, `check` may refuse."""
        declared, may_be_large = self._declared, partial(self._may_be_large, check)
        if declared is not None and declared > most:
            raise too_large(most, f"{declared} were announced")
        return await self._in_time(
            read_inflated(self.receive, coding, most, self.keep, may_be_large)
        )

    async def _may_be_large(self, check: Check | None) -> None:
        """Raises: what `check` raises for the caller."""
        if check is not None:
            assert self.principal is not None
            await check(self.principal)

    async def _in_time(self, reading: Awaitable[bytes]) -> bytes:
        """Raises: RequestTimeout."""
        limit_s = self._server.body_timeout_s
        try:
            with self.call.stage(names.READ):
                async with asyncio.timeout(limit_s):
                    return await reading
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
        rendered = render_error(in_words_of(self.dialect, error), self.profile, self.request_id)
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


OnError = Callable[[Exchange, GatewayError], None]


def default_intake() -> Intake:
    """What an application that sets none takes."""
    return new_intake(IntakeSettings(), ServerSettings())[0]


@dataclass(frozen=True, slots=True)
class Route:
    """A path of a dialect, below the prefix of its surface.

    `by_client` routes check the parameters of their query themselves: which there are depends on
    whose client asks.
    """

    method: str
    path: str
    handler: Callable[[Exchange], Awaitable[None]]
    name: str
    summary: str
    operation: Operation = field(default_factory=Operation)
    by_client: bool = False


class RawRoute(APIRoute):
    """A route that FastAPI finds, and that answers on bare ASGI."""

    def __init__(
        self, prefix: str, route: Route, tag: str, tolerated: Collection[str] = ()
    ) -> None:
        """`tolerated` are parameters that its clients send and that change nothing."""
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
                # On the others a missing or bad key is reported first.
                exchange.check_query()
            await handler(exchange)

        self.app = app


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that `Edge` made for this request."""
    exchange: Exchange = scope[EXCHANGE]
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
