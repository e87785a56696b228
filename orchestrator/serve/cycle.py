"""An HTTP/1.1 request and its reply: uvicorn's own, with shorter ways that bypass ASGI.

A request can answer in one write, take a body that is already there without waiting, and be
notified when its client disconnects: `orchestrator.http.connection.Connection`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast, runtime_checkable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from orchestrator.http.errors import Headers

_NOT_IN_NAMES = bytes(range(0x20)) + b'\x7f()<>@,;:[]={} \\"'
_WITHOUT_BODY = (204, 304)
_NOT_IN_VALUES = bytes({*range(0x20)} - {0x09}) + b"\x7f"


class Cycle(RequestResponseCycle):
    """A request and its reply, by ASGI and by the shorter ways of `Connection`."""

    done: asyncio.Future[None]
    """Always done; returned when there is nothing to wait for."""
    _on_left: Callable[[], None] | None = None
    _ends_by_close = False
    """Whether the end of the reply's body is the end of the connection."""

    def whole_body(self) -> bytes | None:
        """Returns the body if all of it has arrived; otherwise `None`, and takes nothing."""
        if self.more_body or self.waiting_for_100_continue or self.disconnected:
            return None
        # As ASGI's `receive` does: the next read may report that the client disconnected.
        self.flow.resume_reading()
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    def on_left(self, call: Callable[[], None] | None) -> None:
        """Calls `call` once, when the client disconnects before the end of its reply, or now."""
        self._on_left = call
        if call is not None:
            self.flow.resume_reading()
            if self.disconnected:
                self.left()

    def left(self) -> None:
        """Called when the client has disconnected."""
        if self.response_complete:
            return
        self.disconnected = True
        if (call := self._on_left) is not None:
            self._on_left = None
            call()

    def reply(self, status: int, headers: Headers, body: bytes) -> Awaitable[None]:
        """Sends a whole reply in one write. `headers` include the length of `body`."""
        if self.flow.write_paused or self.response_started or self.scope["method"] == "HEAD":
            return self._reply_by_asgi(status, headers, body)
        if not self.disconnected:
            if self.more_body:
                self._leave_the_body()
            head = self._head(status, headers)
            self.response_started = self.response_complete = True
            self.transport.write(head + body)
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
        return self.done

    def piece(self, piece: bytes) -> Awaitable[None]:
        """Sends part of a body that has started and continues."""
        # Chunked only if the length is unknown; a reply to `HEAD` never gets here.
        if self.flow.write_paused or not self.chunked_encoding or self.response_complete:
            return self.send({"type": "http.response.body", "body": piece, "more_body": True})
        if piece and not self.disconnected:
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return self.done

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]  # is no coroutine
        """Sends one ASGI message."""
        if self.more_body and not self.response_started:
            self._leave_the_body()
        if self.scope["http_version"] == "1.0":
            message = self._of_1_0(message)
        return super().send(message)

    def _of_1_0(self, message: Any) -> Any:
        """Converts `message` to HTTP/1.0, which has no chunks and needs an explicit keep-alive.

        A body without a known length ends with the connection. Source: RFC 9112 6.3 and C.2.2.
        """
        if message["type"] == "http.response.body":
            if self._ends_by_close:
                # uvicorn's `send` compares the body's length to it.
                self.expected_content_length = len(message.get("body", b""))
            return message
        headers = [*message.get("headers", ())]
        has_body = self.scope["method"] != "HEAD" and message["status"] not in _WITHOUT_BODY
        if has_body and not any(name.lower() == b"content-length" for name, _ in headers):
            self._ends_by_close = True
            self.chunked_encoding = self.keep_alive = False
        elif self.keep_alive:
            headers.append((b"connection", b"keep-alive"))
        return {**message, "headers": headers}

    def _leave_the_body(self) -> None:
        """Makes the reply the last one: the rest of the body is not waited for.

        If the client waits for 100 before it sends its body, and may leave it out, a body also
        could not be distinguished from a request. Source: RFC 9110 10.1.1.
        """
        self.waiting_for_100_continue = False
        self.keep_alive = False
        self.transport = cast("asyncio.Transport", _LastReply(self.transport))

    async def _reply_by_asgi(self, status: int, headers: Headers, body: bytes) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    def _head(self, status: int, headers: Headers) -> bytes:
        """Raises: RuntimeError for characters that a header must not have, as uvicorn does."""
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
        elif self.scope["http_version"] == "1.0":
            lines.append(b"connection: keep-alive")
        return STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n"


@runtime_checkable
class _Lingers(Protocol):
    def linger(self) -> None: ...


class _LastReply:
    """The transport as seen by the last request of a connection: closing it starts to linger."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self._transport = transport

    def close(self) -> None:
        protocol = self._transport.get_protocol()
        if isinstance(protocol, _Lingers):
            protocol.linger()
        else:
            self._transport.close()
