"""The server's side of HTTP/1.1: uvicorn's own protocol, with what it costs a request made less.

Beyond ASGI a request can answer in one write, take a body that is there without waiting for it,
and be called when its client leaves: `orchestrator.wire.connection.Connection`.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Awaitable, Callable, Container
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from orchestrator.core.addresses import address_of
from orchestrator.serve import forwarded
from orchestrator.serve.heads import Refused, check_head, check_host, split_target
from orchestrator.serve.peers import NO_PROXIES, TrustedProxies
from orchestrator.serve.refusals import refusal, refused_by
from orchestrator.serve.upgrades import (
    asks_for_websocket,
    plain_head,
    websocket_head,
    with_host,
)
from orchestrator.settings import HostsSettings
from orchestrator.wire.connection import CONNECTION
from orchestrator.wire.errors import Headers

MOST_HEAD_BYTES = 1024 * 1024
"""Of the request line and the headers, more than one read may bring."""

_LINGER_S = 2.0
"""How long a client may take to read its last reply and close."""
_NO_HOSTS = HostsSettings()
_NOTED = forwarded.HEADERS | {b"expect", b"host", b"transfer-encoding"}
_NOT_IN_NAMES = bytes(range(0x20)) + b'\x7f()<>@,;:[]={} \\"'
_NOT_IN_VALUES = bytes({*range(0x20)} - {0x09}) + b"\x7f"


class Cycle(RequestResponseCycle):
    """A request and its reply, by ASGI and by the shorter ways of `Connection`."""

    done: asyncio.Future[None]
    """Has its result; what there is to wait for where nothing is."""
    _on_left: Callable[[], None] | None = None

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
            if self.waiting_for_100_continue:
                self._leave_the_body()
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

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]  # is no coroutine
        """Sends one ASGI message."""
        if self.waiting_for_100_continue and not self.response_started:
            self._leave_the_body()
        return super().send(message)

    def _leave_the_body(self) -> None:
        """A client that waits for a word may send its body after the reply, or may not."""
        self.waiting_for_100_continue = False
        if self.more_body:
            # What comes next cannot be told from a body. Source: RFC 9110 10.1.1.
            self.keep_alive = False

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


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 in which a request has one reading, whatever stands in front of it.

    Heads of requests without end, which uvicorn's own keeps, are given up. An upgrade that is not
    taken is ignored. Once the parser fails nothing more is read: requests before the failure have
    their replies, then there is an error, and the connection is closed.

    It keeps one timer for each connection, and asks for a proxy's word only where there is one.
    Of uvicorn's settings `limit_concurrency`, `access_log` and `proxy_headers` are not heeded.
    """

    _head_bytes = 0
    _in_head = False
    _in_body = False
    _is_forwarded = False
    _is_upgrade = False
    _is_given_up = False
    _owed: bytes | None = None
    """The reply to what could not be read, while requests before it have none."""
    _host: bytes | None = None
    """The last one that was checked."""
    _hosts = 0
    _codings: tuple[bytes, ...] = ()
    _idle_since: float | None = None
    _running: Cycle | None = None
    _url = b""
    _authority: bytes | None = None
    _path = ""
    _raw_path = _query = b""

    def __init__(
        self,
        *args: Any,
        proxies: TrustedProxies = NO_PROXIES,
        socket_paths: Container[str] | None = None,
        hosts: HostsSettings = _NO_HOSTS,
        **named: Any,
    ) -> None:
        """`proxies` are believed about the clients behind them.

        WebSockets are at `socket_paths`, or, without a value, wherever one is asked for. `hosts`
        decides about the words of errors.
        """
        super().__init__(*args, **named)
        self._proxies = proxies
        self._socket_paths = socket_paths
        self._error_hosts = hosts
        self._peer: forwarded.Address | None = None
        """The proxy at the other end, if it is trusted."""
        self._done: asyncio.Future[None] = self.loop.create_future()
        self._done.set_result(None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Notes who connects."""
        super().connection_made(transport)
        if self.client is not None:
            # An address of IPv4 that comes over IPv6 is of IPv4.
            self.client = str(address_of(self.client[0]) or self.client[0]), self.client[1]
            if self._proxies.trusts(self.client[0]):
                self._peer = self.client

    def data_received(self, data: bytes) -> None:
        """Reads on, unless what was read for a head is too much for one."""
        if self._is_given_up:
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self._give_up(Refused(400, f"The headers may have {MOST_HEAD_BYTES} bytes at most."))
            return
        self._idle_since = None
        try:
            self._read(data)
        except httptools.HttpParserError as error:
            self._give_up(refused_by(error))
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0

    def _read(self, data: bytes) -> None:
        """Raises: HttpParserError."""
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as stop:
                # It has read a head, and takes what follows for another protocol.
                rest = memoryview(rest)[stop.args[0] :]
            else:
                return
            if self._takes_upgrade(has_more=bool(rest)):
                self._become_websocket()
                return
            # That parser would skip the body, and read it as the next request.
            before, self.parser = self.parser, _new_parser(self)
            version = before.get_http_version()
            self.parser.feed_data(plain_head(before.get_method(), self.url, version, self.headers))

    def _takes_upgrade(self, *, has_more: bool) -> bool:
        scope = self.scope
        if self.ws_protocol_class is None or not asks_for_websocket(
            scope["method"], scope["http_version"], self.headers
        ):
            return False
        if self._socket_paths is not None and scope["path"] not in self._socket_paths:
            return False
        # Replies to requests before it would come among its frames; and what comes before the
        # reply is the next request: a client of a WebSocket waits.
        return not has_more and not self._is_answering()

    def _become_websocket(self) -> None:
        """Hands the connection over."""
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        scope = self.scope
        kind = cast("type[WebSocketsSansIOProtocol]", self.ws_protocol_class)
        protocol = kind(self.config, self.server_state, self.app_state)
        protocol.connection_made(self.transport)
        # As the proxies say it, where they are trusted.
        protocol.client = scope["client"]
        protocol.scheme = "wss" if scope["scheme"] == "https" else "ws"
        self.transport.set_protocol(protocol)
        target = self._raw_path + (b"?" + self._query if self._query else b"")
        protocol.data_received(websocket_head(target, list(scope["headers"])))

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _give_up(self, refused: Refused) -> None:
        """Reads nothing more: what comes next may be anything."""
        self._is_given_up = True
        self._in_head = False
        reply = refusal(refused, self.url, self._host or b"", self._error_hosts)
        if self._in_body and not self.pipeline:
            # The request that is at work will never have the rest of its body.
            cycle = cast("Cycle", self.cycle)
            cycle.left()
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
            else:
                self._send_last(reply)
            return
        if self._in_body:
            self.pipeline.popleft()
        if self._is_answering():
            self._owed = reply
        else:
            self._send_last(reply)

    def _send_last(self, reply: bytes) -> None:
        self.transport.write(reply)
        # A close with something left to read would take the replies away from the client that
        # are still on their way to it. Source: RFC 9112 9.6.
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is at work."""
        if self._running is not None:
            self._running.left()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._is_forwarded = self._is_upgrade = self.expect_100_continue = False
        self._hosts = 0
        self._codings = ()
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Raises: Refused."""
        if not self._in_head:
            # What comes after a body is not merged into its head. Source: RFC 9110 6.5.1.
            return
        name = name.lower()
        self.headers.append((name, value))
        if name in _NOTED:
            self._note(name, value)

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
            if value != self._host:
                check_host(value)
                self._host = value
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"transfer-encoding":
            self._codings = (*self._codings, value)
        else:
            self._is_forwarded = True

    def on_headers_complete(self) -> None:
        """The head is over: the request begins, or waits for those before it. Raises: Refused."""
        parser = self.parser
        version = parser.get_http_version()
        method = parser.get_method().decode("ascii")
        if self._hosts != 1 or self._codings or version != "1.1" or method == "CONNECT":
            has_host = self._hosts > 0 or not self.url.startswith(b"/")
            check_head(method, version, self._hosts, self._codings, has_host=has_host)
        self._read_url()
        self._in_head = False
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": method,
            "root_path": self.root_path,
            "path": self.root_path + self._path,
            "raw_path": self.root_path.encode("ascii") + self._raw_path,
            "query_string": self._query,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": {},
        }
        if self._authority is not None:
            self.scope["headers"] = with_host(self.headers, self._authority)
        if self._is_forwarded and self._peer is not None:
            self._believe(forwarded.origin(self.headers, self._peer, self._proxies))
        self._is_upgrade = parser.should_upgrade()
        if self._is_upgrade:
            # The parser stops here, and what is to be done is decided then.
            return
        before, cycle = self.cycle, self._new_cycle(version)
        self.cycle = cycle
        self._in_body = True
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _believe(self, origin: forwarded.Origin) -> None:
        scope = self.scope
        scope["client"] = origin.client
        if origin.scheme is not None:
            scope["scheme"] = origin.scheme
        if origin.host is not None:
            scope["headers"] = with_host(self.headers, origin.host)

    def _read_url(self) -> None:
        # A client asks for the same thing again and again.
        if self.url == self._url:
            return
        authority, target = split_target(self.url)
        try:
            parsed = httptools.parse_url(target)
            raw_path = parsed.path
            path = raw_path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError) as error:
            raise Refused(400, "The target of the request cannot be read.") from error
        self._path = urllib.parse.unquote(path) if "%" in path else path
        self._url, self._raw_path, self._query = self.url, raw_path, parsed.query or b""
        self._authority = authority

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
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The body is over."""
        if self._is_upgrade:
            return
        self._in_body = False
        cycle = self.cycle
        cycle.more_body = False
        cycle.message_event.set()
        if self._codings and not self.parser.should_keep_alive():
            # The parser reads no more; a trailer may have said so.
            cycle.keep_alive = False
            if cycle.response_complete:
                self.transport.close()

    def on_response_complete(self) -> None:
        """A reply is out: the next request begins, or is waited for."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        if self._owed is not None:
            self._send_last(self._owed)
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idle(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Closes the connection when nothing has come for long enough, or looks again later."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            # The next reply begins to watch again.
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._watch_idle(left_s)
        elif not self.transport.is_closing():
            self.transport.close()

    def _watch_idle(self, after_s: float) -> None:
        # Not one for each request: setting a timer and taking it back costs more than all this.
        self.timeout_keep_alive_task = self.loop.call_later(
            after_s, self.timeout_keep_alive_handler
        )


def _new_parser(protocol: BoundedHttp) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    # As uvicorn's own: what comes after the last request of a connection is not read.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
