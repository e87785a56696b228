"""The server's side of HTTP/1.1: uvicorn's own protocol, with what it costs a request made less.

Beyond ASGI a request can answer in one write, take a body that is there without waiting for it,
and be called when its client leaves: `orchestrator.wire.connection.Connection`. How long each may
wait for its client is held to by `orchestrator.serve.connections`.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from typing import Any, cast

import httptools
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from orchestrator.core.errors import GatewayError, HeadTooLarge, InvalidRequest, RequestTimeout
from orchestrator.serve.connections import Place, WaitsFor
from orchestrator.serve.linger import Linger
from orchestrator.settings import ServerSettings
from orchestrator.wire.connection import CONNECTION
from orchestrator.wire.errors import Headers

MOST_PIPELINED = 128
"""Requests of one connection that may wait for the replies before theirs."""
_MOST_FRAMING = 16
"""Bytes around a chunk, for each byte in it: twice what chunks of one byte need."""
_PROGRESS_BYTES = 1024
"""What a body must grow by between two sweeps to count as one that moves."""
_DEFAULTS = ServerSettings()
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
_NOT_IN_NAMES = bytes(range(0x20)) + b'\x7f()<>@,;:[]={} \\"'
_NOT_IN_VALUES = bytes({*range(0x20)} - {0x09}) + b"\x7f"


class Cycle(RequestResponseCycle):
    """A request and its reply, by ASGI and by the shorter ways of `Connection`."""

    done: asyncio.Future[None]
    """Has its result; what there is to wait for where nothing is."""
    _on_left: Callable[[], None] | None = None

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        """ASGI's."""
        if self.more_body and not self.response_started:
            self._end_early()
        return super().send(message)

    def _end_early(self) -> None:
        """The reply does not wait for the rest of the body, so nothing can follow either."""
        self.keep_alive = False
        self.transport = cast("asyncio.Transport", _Lingering(self.transport))

    def whole_body(self) -> bytes | None:
        """The body, if all of it is there; nothing of it is taken otherwise."""
        if self.more_body or self.waiting_for_100_continue or self.disconnected:
            return None
        # What ASGI's `receive` does: the next read may tell that the client leaves.
        self.flow.resume_reading()
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    def on_left(self, call: Callable[[], None] | None) -> None:
        """`call` is called once if the client leaves before its reply is complete; or now."""
        self._on_left = call
        if call is not None:
            self.flow.resume_reading()
            if self.disconnected:
                self.left()

    def left(self) -> None:
        """The client is away."""
        if self.response_complete:
            return
        self.disconnected = True
        if (call := self._on_left) is not None:
            self._on_left = None
            call()

    def reply(self, status: int, headers: Headers, body: bytes) -> Awaitable[None]:
        """Sends a whole reply in one write. `headers` tell the length of `body`."""
        if self.flow.write_paused or self.response_started or self.scope["method"] == "HEAD":
            return self._reply_by_asgi(status, headers, body)
        if not self.disconnected:
            if self.more_body:
                self._end_early()
            head = self._head(status, headers)
            self.response_started = self.response_complete = True
            self.transport.write(head + body)
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
        return self.done

    def piece(self, piece: bytes) -> Awaitable[None]:
        """Sends some of a body that has begun and goes on."""
        # Without a known length, which a reply to `HEAD` never gets that far with.
        if self.flow.write_paused or not self.chunked_encoding or self.response_complete:
            return self.send({"type": "http.response.body", "body": piece, "more_body": True})
        if piece and not self.disconnected:
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return self.done

    async def _reply_by_asgi(self, status: int, headers: Headers, body: bytes) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    def _head(self, status: int, headers: Headers) -> bytes:
        """Raises: RuntimeError for what cannot stand in a header, as uvicorn does."""
        headers = [*self.default_headers, *headers]
        names, values = zip(*headers, strict=True)
        all_names, all_values = b"".join(names), b"".join(values)
        if len(all_names.translate(None, _NOT_IN_NAMES)) != len(all_names):
            raise RuntimeError("Invalid HTTP header name.")
        if len(all_values.translate(None, _NOT_IN_VALUES)) != len(all_values):
            raise RuntimeError("Invalid HTTP header value.")
        lines = [b"%b: %b" % header for header in headers]
        if not self.keep_alive:
            lines.append(b"connection: close")
        return STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n"


class _Lingering:
    """What a request sees of its transport once its reply is to be the last: to close lingers."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self._transport = transport

    def close(self) -> None:
        protocol = self._transport.get_protocol()
        if isinstance(protocol, BoundedHttp):
            protocol.linger()
        else:
            self._transport.close()


class BoundedHttp(HttpToolsProtocol):
    """Bounds what a client may send for a head, and lets replies to bad requests wait their turn.

    It sets no timer: `Connections` asks what it waits for. A proxy's word is asked for only where
    there is one. Of uvicorn's settings `limit_concurrency`, `access_log` and `timeout_keep_alive`
    are not heeded.
    """

    place: Place | None = None
    _head_bytes = _arrived = 0
    """Of a head so far, and with the read at work."""
    _body_read = _body_taken = 0
    """Of a body: bytes that came for it after its first read, and those of them that are it."""
    _messages = _trailers = 0
    url = b""
    _in_head = False
    _is_over = False
    """Whether what comes is no request any more."""
    _is_forwarded = False
    _is_upgraded = False
    _running: Cycle | None = None
    _url = b""
    _path = ""
    _raw_path = _query = b""

    def __init__(self, *args: Any, settings: ServerSettings = _DEFAULTS, **named: Any) -> None:
        super().__init__(*args, **named)
        app = self.app
        self._settings = settings
        self._most_head, self._most_lines = settings.max_head_bytes, settings.max_head_lines
        self._unforwarded = app.app if isinstance(app, ProxyHeadersMiddleware) else app
        self._done: asyncio.Future[None] = self.loop.create_future()
        self._done.set_result(None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the place that was kept for it."""
        super().connection_made(transport)
        if self.place is not None:
            self.place.occupy(self, transport)

    def data_received(self, data: bytes) -> None:
        """Reads on, unless it has come to what is no request."""
        if self._is_over:
            return
        messages = self._messages
        self._arrived = self._head_bytes + len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._stopped(error)
            return
        if self._in_head:
            # Of a head that began in this read, what the parser still holds is counted by the next.
            begun = self._messages != messages
            self._head_bytes = self._size_of_head() if begun else self._arrived
            if self._head_bytes > self._most_head:
                self._refuse(self._too_large())
            return
        self._head_bytes = 0
        if self._messages == messages and self.cycle is not None and self.cycle.more_body:
            self._body_read += len(data)
            if self._body_read - _MOST_FRAMING * self._body_taken > self._most_head:
                # Neither trailers nor what stands around chunks is in what the application counts.
                self._refuse(self._too_large())

    def _size_of_head(self) -> int:
        return len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"The request line and headers of a request, and its trailers, may have"
            f" {self._most_head} bytes and {self._most_lines} headers at most."
        )

    def _stopped(self, error: Exception) -> None:
        """The parser did not read to the end of what came."""
        if isinstance(error, httptools.HttpParserError):
            cause = error.__context__
            if not isinstance(cause, GatewayError):
                cause = InvalidRequest("The request cannot be read as HTTP/1.1.")
            self._refuse(cause)
        elif self._should_upgrade():
            self.handle_websocket_upgrade()
        else:
            self._unsupported_upgrade_warning()

    def _refuse(self, error: GatewayError) -> None:
        """Answers with `error`, after the replies before it, and reads no more."""
        self._is_over = True
        before, failed = self.cycle, None
        if not self._in_head and before is not None and before.more_body:
            failed = cast("Cycle", before)
        if failed is None and not self._in_head:
            # What came belongs to no request.
            self.url, self.headers = b"", []
        self.expect_100_continue = False
        self._begin_scope("1.1")
        try:
            self._read_url()
        except (httptools.HttpParserError, UnicodeDecodeError):
            self.scope["path"], self.scope["raw_path"], self.scope["query_string"] = "/", b"/", b""
        cycle = self.cycle = self._new_cycle("1.1")
        cycle.keep_alive = False
        edge = getattr(self._unforwarded, "edge", None)
        app = partial(edge.refuse if edge is not None else _refuse_plainly, error)
        if failed is not None and failed is not self._running:
            self.pipeline[0] = (cycle, app)
        elif failed is not None:
            # What it was asked cannot be known any more.
            failed.left()
            failed.message_event.set()
            self._start_asgi_task(cycle, app)
        elif before is None or before.response_complete:
            self._start_asgi_task(cycle, app)
        else:
            self.pipeline.appendleft((cycle, app))

    def linger(self) -> None:
        """Has the rest of what comes dropped, now that the last reply is written."""
        linger = Linger(self.transport, self.connections)
        self.connections.discard(self)
        if self.place is not None:
            self.place.occupy(linger, self.transport)
        linger.begin()
        self.flow.resume_reading()

    def waits_for(self) -> tuple[WaitsFor, Hashable]:
        """For what of its client, and what changes when the client makes progress."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.more_body and cycle is self._running and not self._is_over:
                return "body", (self._messages, self._body_taken // _PROGRESS_BYTES)
            return "nothing", None
        if self._in_head:
            return "head", self._messages
        return ("first_byte", None) if cycle is None else ("next_request", self._messages)

    def give_up(self, waited_for: WaitsFor) -> None:
        """Ends the connection, with a reply if a request has begun."""
        if waited_for != "head":
            self.transport.close()
            return
        limit_s = self._settings.head_timeout_s
        self._refuse(RequestTimeout(f"The head of a request must be sent within {limit_s:g} s."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is at work."""
        if self.place is not None:
            self.place.release()
        if self._running is not None:
            self._running.left()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Hands the connection over."""
        super().handle_websocket_upgrade()
        if self.place is not None:
            self.place.occupy(cast("Any", self.transport.get_protocol()), self.transport)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._messages += 1
        self._body_read = self._body_taken = 0
        self._is_forwarded = self._is_upgraded = self.expect_100_continue = False
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer: those are dropped, as nothing here has a use for one.

        Raises: HeadTooLarge.
        """
        if not self._in_head:
            self._trailers += 1
            if self._trailers > self._most_lines:
                raise self._too_large()
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name in _FORWARDED:
            self._is_forwarded = True

    def on_headers_complete(self) -> None:
        """The head is over: the request begins, or waits for those before it.

        Raises: HeadTooLarge.
        """
        if len(self.headers) > self._most_lines or (
            self._arrived > self._most_head and self._size_of_head() > self._most_head
        ):
            raise self._too_large()
        self._in_head = False
        self._trailers = 0
        parser = self.parser
        version = parser.get_http_version()
        self._begin_scope(version)
        self._is_upgraded = parser.should_upgrade() and self._should_upgrade()
        if self._is_upgraded:
            return
        self._read_url()
        before, cycle = self.cycle, self._new_cycle(version)
        app = self.app if self._is_forwarded else self._unforwarded
        if before is None or before.response_complete:
            self.cycle = cycle
            self._start_asgi_task(cycle, app)
            return
        if len(self.pipeline) >= MOST_PIPELINED:
            raise InvalidRequest(
                f"A connection may have {MOST_PIPELINED} requests at most that wait for replies."
            )
        self.cycle = cycle
        self.flow.pause_reading()
        self.pipeline.appendleft((cycle, app))

    def _begin_scope(self, version: str) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": self.parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": {},
        }

    def _read_url(self) -> None:
        # A client asks for the same thing again and again.
        if self.url != self._url:
            parsed = httptools.parse_url(self.url)
            raw_path = parsed.path
            path = raw_path.decode("ascii")
            self._path = urllib.parse.unquote(path) if "%" in path else path
            self._url, self._raw_path, self._query = self.url, raw_path, parsed.query or b""
        scope = self.scope
        scope["path"] = self.root_path + self._path
        scope["raw_path"] = self.root_path.encode("ascii") + self._raw_path
        scope["query_string"] = self._query

    def _new_cycle(self, version: str) -> Cycle:
        cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.done = self._done
        cast("dict[str, Any]", self.scope)[CONNECTION] = cycle
        return cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cast("Cycle", cycle)
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        if self._is_upgraded or self.cycle.response_complete:
            return
        cycle = self.cycle
        cycle.body += body
        self._body_taken += len(body)
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The body is over."""
        if self._is_upgraded or self.cycle.response_complete:
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """A reply is out: the next request begins, or is waited for."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())


async def _refuse_plainly(error: GatewayError, scope: Any, receive: Any, send: Any) -> None:
    """For applications without words of their own."""
    del scope, receive
    headers = [(b"content-length", b"%d" % len(error.message))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.message.encode()})
