"""The server's side of HTTP/1.1: uvicorn's own protocol, made cheaper per request and bounded.

`orchestrator.serve.connections` enforces how long a connection may wait for its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Hashable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from orchestrator.core.addresses import address_of
from orchestrator.http.connection import CONNECTION
from orchestrator.http.paths import plain_path, routed_path
from orchestrator.serve import forwarded
from orchestrator.serve.connections import Place, WaitsFor
from orchestrator.serve.cycle import Cycle
from orchestrator.serve.heads import Refused, check_head, check_host, split_target
from orchestrator.serve.linger import Linger
from orchestrator.serve.peers import NO_PROXIES, TrustedProxies
from orchestrator.serve.refusals import refusal, refused_by
from orchestrator.serve.upgrades import (
    asks_for_websocket,
    plain_head,
    websocket_head,
    with_host,
)
from orchestrator.settings import HostsSettings, ServerSettings

MAX_PIPELINED = 128
"""Max requests of one connection that may wait for the replies before theirs."""
_PROGRESS_BYTES = 1024
"""Bytes by which a body must grow between two sweeps to count as progress."""
_DEFAULTS = ServerSettings()
_NO_HOSTS = HostsSettings()
_NOTED = forwarded.HEADERS | {b"expect", b"host", b"transfer-encoding"}


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 in which a request has one reading, whatever proxy stands before it.

    Heads, trailers and the bytes around chunks have limits, which uvicorn's own protocol lacks. An
    upgrade that is not taken is ignored. Once the parser fails nothing more is read: requests
    before the failure get their replies, then an error is sent and the connection is closed.

    It sets no timer: `Connections` asks what it waits for. Proxies' headers are read only if the
    peer is a trusted proxy. Of uvicorn's settings `limit_concurrency`, `access_log`,
    `proxy_headers` and `timeout_keep_alive` are ignored.
    """

    place: Place | None = None
    url = b""
    _head_bytes = _arrived = 0
    """Bytes of the head so far, and bytes of the current read."""
    _body_read = _body_taken = 0
    """Bytes read since the last read with some of the body, and bytes of the body."""
    _messages = _trailers = 0
    _in_head = False
    _in_body = False
    _is_forwarded = False
    _is_upgrade = False
    _is_given_up = False
    _owed: bytes | None = None
    """The reply to an unreadable request, held until the requests before it have theirs."""
    _host: bytes | None = None
    """The last host that was checked."""
    _hosts = 0
    _codings: tuple[bytes, ...] = ()
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
        settings: ServerSettings = _DEFAULTS,
        **named: Any,
    ) -> None:
        """`proxies` are believed about the clients behind them.

        WebSockets are at `socket_paths`; without a value, at any path. `hosts` decides the dialect
        of errors; `settings` has the limits of a head.
        """
        super().__init__(*args, **named)
        self._settings = settings
        self._most_head, self._most_lines = settings.max_head_bytes, settings.max_head_lines
        self._proxies = proxies
        self._socket_paths = socket_paths
        self._error_hosts = hosts
        self._peer: forwarded.Address | None = None
        """The proxy at the other end, if it is trusted."""
        self._done: asyncio.Future[None] = self.loop.create_future()
        self._done.set_result(None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Records the client, and occupies its place."""
        super().connection_made(transport)
        if self.place is not None:
            self.place.occupy(self, transport)
        if self.client is not None:
            # An IPv4 address that comes over IPv6 counts as IPv4.
            self.client = str(address_of(self.client[0]) or self.client[0]), self.client[1]
            if self._proxies.trusts(self.client[0]):
                self._peer = self.client

    def data_received(self, data: bytes) -> None:
        """Reads on, unless the bytes are not a request any more, or are too many around one."""
        if self._is_given_up:
            return
        messages, taken = self._messages, self._body_taken
        self._arrived = self._head_bytes + len(data)
        try:
            self._read(data)
        except httptools.HttpParserError as error:
            self._give_up(refused_by(error))
            return
        if self._in_head:
            # The bytes of a new head that the parser still holds are counted at the next read.
            begun = self._messages != messages
            self._head_bytes = self._size_of_head() if begun else self._arrived
            if self._head_bytes > self._most_head:
                self._give_up(self._too_large())
            return
        self._head_bytes = 0
        if self._in_body and self._messages == messages and self._body_taken == taken:
            # The application counts neither trailers nor the bytes around chunks.
            self._body_read += len(data)
            if self._body_read > self._most_head:
                self._give_up(self._too_large())

    def _size_of_head(self) -> int:
        return len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])

    def _too_large(self) -> Refused:
        return Refused(
            431,
            f"The head of a request, and the trailers of its body, may have {self._most_head} bytes"
            f" and {self._most_lines} headers at most.",
        )

    def _read(self, data: bytes) -> None:
        """Raises: HttpParserError."""
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as stop:
                # The parser has read a head, and takes the rest for another protocol.
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
        # Replies to earlier requests would come between its frames. And bytes before the reply are
        # the next request, because a WebSocket's client waits for it.
        return not has_more and not self._is_answering()

    def _become_websocket(self) -> None:
        """Hands the connection over to the WebSocket protocol."""
        self.connections.discard(self)
        scope = self.scope
        kind = cast("type[WebSocketsSansIOProtocol]", self.ws_protocol_class)
        protocol = kind(self.config, self.server_state, self.app_state)
        protocol.connection_made(self.transport)
        # As the proxies report it, if they are trusted.
        protocol.client = scope["client"]
        protocol.scheme = "wss" if scope["scheme"] == "https" else "ws"
        if self.place is not None:
            self.place.occupy(cast("Any", protocol), self.transport)
        self.transport.set_protocol(protocol)
        target = self._raw_path + (b"?" + self._query if self._query else b"")
        protocol.data_received(websocket_head(target, list(scope["headers"])))

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _give_up(self, refused: Refused) -> None:
        """Reads nothing more: the next bytes may be anything."""
        self._is_given_up = True
        self._in_head = False
        host, hosts = self._host or b"", self._error_hosts
        reply = refusal(refused, self.url, host, hosts, self._settings, self.headers)
        if self._in_body and not self.pipeline:
            # The current request will never get the rest of its body.
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
        self.linger()

    def linger(self) -> None:
        """Drops the rest of what the client sends, now that the last reply is written."""
        if self.transport.is_closing():
            return
        linger = Linger(self.transport, self.connections)
        self.connections.discard(self)
        if self.place is not None:
            self.place.occupy(linger, self.transport)
        linger.begin()
        self.flow.resume_reading()
        # The two refer to each other, and would wait for the garbage collector.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does on a disconnect

    def waits_for(self) -> tuple[WaitsFor, Hashable]:
        """What it waits for from its client, and a value that changes on the client's progress."""
        cycle = self.cycle
        if self._is_given_up or (cycle is not None and not cycle.response_complete):
            if self._in_body and cycle is self._running and not self._is_given_up:
                return "body", (self._messages, self._body_taken // _PROGRESS_BYTES)
            return "nothing", None
        if self._in_head:
            return "head", self._messages
        return ("first_byte", None) if cycle is None else ("next_request", self._messages)

    def give_up(self, waited_for: WaitsFor) -> None:
        """Ends the connection, with a reply if a request has started."""
        if waited_for == "head":
            limit_s = self._settings.head_timeout_s
            self._give_up(Refused(408, f"The head of a request must be sent within {limit_s:g} s."))
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notifies the current request."""
        if self.place is not None:
            self.place.release()
        if self._running is not None:
            self._running.left()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Called at the start of a head."""
        self._in_head = True
        self._messages += 1
        self._body_read = self._body_taken = 0
        self._is_forwarded = self._is_upgrade = self.expect_100_continue = False
        self._hosts = 0
        self._codings = ()
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Reads one header. Raises: Refused."""
        if not self._in_head:
            # Trailers after a body are not merged into its head. Source: RFC 9110 6.5.1.
            self._trailers += 1
            if self._trailers > self._most_lines:
                raise self._too_large()
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
        """Called at the end of a head: starts or queues the request. Raises: Refused."""
        if len(self.headers) > self._most_lines or (
            self._arrived > self._most_head and self._size_of_head() > self._most_head
        ):
            raise self._too_large()
        parser = self.parser
        version = parser.get_http_version()
        method = parser.get_method().decode("ascii")
        if self._hosts != 1 or self._codings or version != "1.1" or method == "CONNECT":
            has_host = self._hosts > 0 or not self.url.startswith(b"/")
            check_head(method, version, self._hosts, self._codings, has_host=has_host)
        self._read_url()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _too_many_waiting()
        self._in_head = False
        self._trailers = 0
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
            # The parser stops here; `_read` then decides what to do.
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
        # A client requests the same target again and again.
        if self.url == self._url:
            return
        authority, target = split_target(self.url)
        try:
            parsed = httptools.parse_url(target)
            raw_path = plain_path(parsed.path)
            path = raw_path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError) as error:
            raise Refused(400, "The target of the request cannot be read.") from error
        self._path = routed_path(path)
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
            # A reply in HTTP/1.0 must not be preceded by 100. Source: RFC 9110 10.1.1.
            expect_100_continue=self.expect_100_continue and version != "1.0",
            keep_alive=self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.done = self._done
        cast("dict[str, Any]", self.scope)[CONNECTION] = cycle
        return cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cast("Cycle", cycle)
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Receives part of the body."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        self._body_taken += len(body)
        self._body_read = 0
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Called at the end of the body."""
        if self._is_upgrade:
            return
        self._in_body = False
        cycle = self.cycle
        cycle.more_body = False
        cycle.message_event.set()
        if self._codings and not self.parser.should_keep_alive():
            # The parser reads no more; a trailer may have been the cause.
            cycle.keep_alive = False
            if cycle.response_complete:
                self.transport.close()

    def on_response_complete(self) -> None:
        """Called when a reply is sent: starts the next request, or waits for it."""
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


def _too_many_waiting() -> Refused:
    return Refused(
        400, f"A connection may have {MAX_PIPELINED} requests at most that wait for replies."
    )


def _new_parser(protocol: BoundedHttp) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    # As in uvicorn's own: bytes after the last request of a connection are ignored.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
