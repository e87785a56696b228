"""The server's side of HTTP/1.1: uvicorn's own protocol, with what it costs a request made less.

Beyond ASGI a request can answer in one write, take a body that is there without waiting for it,
and be called when its client leaves: `orchestrator.wire.connection.Connection`.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httptools
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from orchestrator.wire.connection import CONNECTION
from orchestrator.wire.errors import Headers

MOST_HEAD_BYTES = 1024 * 1024
"""Of the request line and the headers, more than one read may bring."""

_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
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


class BoundedHttp(HttpToolsProtocol):
    """Gives up heads of requests without end, which uvicorn's own keeps, of anybody.

    It keeps one timer for each connection, and asks for a proxy's word only where there is one.
    Of uvicorn's settings `limit_concurrency` and `access_log` are not heeded.
    """

    _head_bytes = 0
    _in_head = False
    _is_forwarded = False
    _is_upgraded = False
    _idle_since: float | None = None
    _running: Cycle | None = None
    _url = b""
    _path = ""
    _raw_path = _query = b""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        app = self.app
        self._unforwarded = app.app if isinstance(app, ProxyHeadersMiddleware) else app
        self._done: asyncio.Future[None] = self.loop.create_future()
        self._done.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Reads on, unless what was read for a head is too much for one."""
        if self._head_bytes > MOST_HEAD_BYTES:
            self.send_400_response(f"The headers may have {MOST_HEAD_BYTES} bytes at most.")
            return
        self._idle_since = None
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._stopped(error)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0

    def _stopped(self, error: Exception) -> None:
        """The parser did not read to the end of what came."""
        if isinstance(error, httptools.HttpParserError):
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
        elif self._should_upgrade():
            self.handle_websocket_upgrade()
        else:
            self._unsupported_upgrade_warning()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is at work."""
        if self._running is not None:
            self._running.left()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._is_forwarded = self._is_upgraded = self.expect_100_continue = False
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        name = name.lower()
        self.headers.append((name, value))
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name in _FORWARDED:
            self._is_forwarded = True

    def on_headers_complete(self) -> None:
        """The head is over: the request begins, or waits for those before it."""
        self._in_head = False
        parser = self.parser
        version = parser.get_http_version()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": {},
        }
        self._is_upgraded = parser.should_upgrade() and self._should_upgrade()
        if self._is_upgraded:
            return
        self._read_url()
        before, cycle = self.cycle, self._new_cycle(version)
        self.cycle = cycle
        app = self.app if self._is_forwarded else self._unforwarded
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

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
