"""One HTTP exchange on plain ASGI, for every dialect: its body, its reply, its end.

The routes of the inference calls are plain ASGI: no pydantic, no middleware per chunk. FastAPI only
finds the route; `openapi.py` describes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    MutableMapping,
    Sequence,
)
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar

from orchestrator.core.context import CallContext
from orchestrator.core.errors import (
    GatewayError,
    RequestTimeout,
)
from orchestrator.core.events import Usage
from orchestrator.core.ids import new_id
from orchestrator.http.codings import Coding, coding_of, read_inflated
from orchestrator.http.connection import CLIENT_LEFT, CONNECTION, Connection
from orchestrator.http.cors import Cors
from orchestrator.http.credentials import secret_of
from orchestrator.http.errors import (
    ANTHROPIC_PREFIXES,
    Client,
    Headers,
    Profile,
    is_under,
    profile_of,
    render_error,
)
from orchestrator.http.field_names import in_words_of
from orchestrator.http.intake import (
    SMALL_BODY_BYTES,
    Holder,
    Intake,
    new_intake,
    read_body,
    too_large,
)
from orchestrator.http.queries import check_known, given_in
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal
from orchestrator.settings import HostsSettings, IntakeSettings, ServerSettings
from orchestrator.telemetry import Call, names
from orchestrator.telemetry.calls import server_timing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")
Check = Callable[[Principal], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAIN = "orchestrator.drain"
"""Our own message to WebSocket handlers: finish the running work, then end."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Exchange(Holder):
    """One HTTP request and its reply.

    `send` is ASGI's `send`, but adds `x-request-id` to the reply and tracks its progress: `status`
    is 0 until the reply starts, and `complete` is true once all of it is sent.
    Callers see `request_id` and may choose it; `call_id` begins with it and is unique. Handlers set
    `principal`, `model` and `usage`, for the log.
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
        # If a header is sent twice, the first one counts.
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._connection: Connection | None = scope.pop(CONNECTION, None)
        # Sends a piece of a started body, directly to the server: this runs for every token.
        self.send_piece: Callable[[bytes], Awaitable[None]] = (
            self._piece if self._connection is None else self._connection.piece
        )
        # Engines identify and stop a generation by its id, so a caller must not choose all of it.
        self.call_id = self.request_id = new_id("req")
        asked = self.headers.get(b"x-request-id")
        if asked is not None and _REQUEST_ID.fullmatch(asked):
            self.request_id = asked.decode()
            self.call_id = f"{self.request_id}-{self.call_id}"
        self.secret = secret_of(scope, self.headers)
        self.status = 0
        self.complete = False
        self.left = False
        """Whether the client disconnected before its reply was complete."""
        self.principal: Principal | None = None
        self.model = "-"
        self.usage: Usage | None = None
        self.dialect = self.error = ""
        self.call = Call(self.request_id, self.call_id)
        self.server_timing = False
        self.on_error: Sequence[OnError] = ()
        self._left_out: Sequence[str] = ()

    @property
    def started(self) -> bool:
        """Whether the status has been sent."""
        return self.status != 0

    @property
    def profile(self) -> Profile:
        """The profile in which errors are rendered."""
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
        """The provider of the official client, by the headers that only its client sends."""
        if b"anthropic-version" in self.headers:
            return "anthropic"
        if b"x-goog-api-client" in self.headers or b"x-goog-api-key" in self.headers:
            return "google"
        return None

    @property
    def client_ip(self) -> str | None:
        """The client's address: the peer's, or the one that trusted proxies report, if known."""
        client = self.scope.get("client")
        return client[0] if client else None

    @property
    def query_string(self) -> bytes:
        """The part of the target after `?`, unchanged."""
        query: bytes = self.scope["query_string"]
        return query

    @property
    def ping_after_s(self) -> float:
        """Seconds of silence after which a stream sends a ping."""
        return self._server.ping_after_s

    def context(self, dialect: str) -> CallContext:
        """The context that the pipeline gets in addition to the request."""
        self.dialect = dialect
        here = self._is_there
        return CallContext(self.request_id, dialect, self.client_ip, self.call_id, here)

    def _is_there(self) -> bool:
        return not self.left

    def send(self, message: Message) -> Awaitable[None]:
        """Sends one ASGI message. Not a coroutine itself, because it may run for every token."""
        if message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._named([*message.get("headers", ())])}
        return self._send(message)

    def _piece(self, piece: bytes) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": piece, "more_body": True})

    def _named(self, headers: Headers) -> Headers:
        """Adds the headers that every reply has: request id, CORS, warnings."""
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
        """Lists in the reply's `x-op-warning` the caller's `tools` that are not supported here.

        `tools` are types or names without line ends.
        """
        self._left_out = tools

    async def admit(self, authenticator: Authenticator) -> Principal:
        """Authenticates the caller, without reading the body.

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
        """Reads the whole body, at most `most_bytes`; the default is the server's limit.

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
        """Reads the body and decodes it with `read`. Raises: what `body`, `check` and `read` raise.

        `check` is called before a body that is not small is read, and may refuse the caller.
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
        """The body, if all of it has arrived and it is small."""
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
        """Reads and inflates a compressed body. `check` may refuse before it becomes large."""
        declared, may_be_large = self._declared, partial(self._may_be_large, check)
        if declared is not None and declared > most:
            raise too_large(most, f"{declared} were announced")
        return await self._in_time(
            read_inflated(self.receive, coding, most, self.keep, may_be_large)
        )

    async def _may_be_large(self, check: Check | None) -> None:
        """Calls `check` with the caller. Raises: what `check` raises."""
        if check is not None:
            assert self.principal is not None
            await check(self.principal)

    async def _in_time(self, reading: Awaitable[bytes]) -> bytes:
        """Awaits `reading` within the body timeout. Raises: RequestTimeout."""
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
        """The tenant id, whose share of memory and threads the request uses."""
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
        """Sends `error` in the caller's dialect, if nothing has been sent yet."""
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
        """Calls every `on_error` callback with `error`, before the client sees it."""
        for on_error in self.on_error:
            on_error(self, error)

    def while_connected(self) -> WhileConnected:
        """A `with` block that ends early, without an error, when the client disconnects."""
        return WhileConnected(self, self._connection)


OnError = Callable[[Exchange, GatewayError], None]


def default_intake() -> Intake:
    """The intake of an application that configures none."""
    return new_intake(IntakeSettings(), ServerSettings())[0]


class WhileConnected:
    """Cancels its own block when the client disconnects; `left` is then true.

    To be entered after the body has been read. No other code may call `receive` in the block.
    """

    __slots__ = ("_cancelling", "_connection", "_exchange", "_task", "_watch", "left")

    def __init__(self, exchange: Exchange, connection: Connection | None) -> None:
        self._exchange = exchange
        self._connection = connection
        self._watch: asyncio.Task[None] | None = None
        self.left = False

    def __enter__(self) -> WhileConnected:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._connection is not None:
            self._connection.on_left(self._leave)
        else:
            self._watch = asyncio.create_task(self._wait_for_disconnect())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if self._connection is not None:
            self._connection.on_left(None)
        elif self._watch is not None:
            # Not awaited: it holds nothing, and ends at its next step.
            self._watch.cancel()
        if not self.left:
            return False
        # As in `asyncio.timeout`: undoes our own cancellation; one from outside propagates.
        if self._task.uncancel() > self._cancelling:
            return False
        self._exchange.status = CLIENT_LEFT
        return kind is not None and issubclass(kind, asyncio.CancelledError)

    def _leave(self) -> None:
        # Servers report a disconnect after a complete reply too; then the block runs to its end.
        if not self._exchange.complete:
            self.left = self._exchange.left = True
            self._task.cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._leave()
