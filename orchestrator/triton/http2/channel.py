"""A connection to one Triton, over TCP or a unix socket, and the calls on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from orchestrator.triton.http2 import frames, headers
from orchestrator.triton.http2.call import GrpcCall, message
from orchestrator.triton.http2.connection import Connection, ConnectionFault
from orchestrator.triton.transport import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    SERVICE,
    UNAVAILABLE,
    Metadata,
    RpcFailed,
    Status,
)

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 20.0
_CLOSE_S = 1.0
_UNIX = "unix:"


class Http2Channel:
    """A `Transport` in clear text. `url` is `host:port` or `unix:/path`.

    A call connects when nothing is connected; it fails with UNAVAILABLE when that fails. With
    calls in flight and silence for `keepalive_s` the peer is pinged, and given up on after as long
    again.
    """

    def __init__(self, url: str, *, keepalive_s: float = KEEPALIVE_S) -> None:
        self._url = url
        self._keepalive_s = keepalive_s
        self._link: _Link | None = None
        self._links: set[_Link] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._heads: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = {}
        self._closed = False

    def start(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Metadata,
        timeout_s: float,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> Http2Call:
        """See `Transport.start`."""
        call = Http2Call(self, on_message, on_end, timeout_s)
        if self._closed:
            asyncio.get_running_loop().call_soon(call.cancel)
            return call
        waiting = _Waiting(call, self._head(method, metadata, timeout_s), message(request))
        link = self._link
        if link is not None and link.connection.has_room and not self._waiting:
            link.open(waiting)
        else:
            self._waiting.append(waiting)
            self._advance()
        return call

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        """See `Transport.unary`."""
        ended: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        answers: list[bytes] = []

        def end(status: Status) -> None:
            if not ended.done():
                ended.set_result(status)

        call = self.start(
            method,
            request,
            metadata=metadata,
            timeout_s=timeout_s,
            on_message=answers.append,
            on_end=end,
        )
        try:
            status = await ended
        finally:
            call.cancel()
        if status.code != 0:
            raise RpcFailed(status)
        if len(answers) != 1:
            raise RpcFailed(Status(13, f"{len(answers)} answers to a call that has one"))
        return answers[0]

    async def close(self) -> None:
        """Ends what is in flight, and the connection."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        self._fail_waiting(Status(CANCELLED, "the channel is closed"))
        links = list(self._links)
        for link in links:
            link.close()
        if links:
            await asyncio.wait([link.gone for link in links], timeout=_CLOSE_S)
        for link in links:
            # A peer that does not read would hold what is left to send for ever.
            link.abort()
            await link.gone

    def keep(self, link: _Link) -> None:
        """`link` is connected and will tell when it is gone."""
        self._links.add(link)

    def forget(self, link: _Link) -> None:
        """`link` takes no new calls, or is gone; whoever waits gets another one."""
        if link.is_gone:
            self._links.discard(link)
        if self._link is link:
            self._link = None
        if self._waiting:
            self._advance()

    def drop(self, call: Http2Call) -> None:
        """`call` waits no longer."""
        self._waiting = deque(one for one in self._waiting if one.call is not call)

    def has_news(self, link: _Link) -> None:
        """Streams of `link` have ended: there may be room."""
        if link.connection.closing:
            self.forget(link)
            link.close_if_idle()
        elif self._waiting:
            self._advance()

    def _advance(self) -> None:
        """Opens what can be opened, and connects when nothing is connected."""
        link = self._link
        while self._waiting and link is not None and link.connection.has_room:
            link.open(self._waiting.popleft())
        if self._waiting and link is None and self._connecting is None and not self._closed:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if self._url.startswith(_UNIX):
                    path = self._url.removeprefix(_UNIX)
                    _, link = await loop.create_unix_connection(self._new_link, path)
                else:
                    host, _, port = self._url.rpartition(":")
                    _, link = await loop.create_connection(
                        self._new_link, host.strip("[]"), int(port)
                    )
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._connecting = None
            self._fail_waiting(Status(UNAVAILABLE, f"cannot connect: {type(error).__name__}"))
            return
        self._connecting = None
        if not link.is_gone:
            self._link = link
        self._advance()

    def _new_link(self) -> _Link:
        return _Link(self, self._keepalive_s)

    def _fail_waiting(self, status: Status) -> None:
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.call.finish(status)

    def _head(self, method: str, metadata: Metadata, timeout_s: float) -> bytes:
        """The header block of a call; all but its deadline is the same for many."""
        key = (method, tuple(metadata))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= 64:
                # Metadata of one call only, such as its trace, would fill it for nothing.
                self._heads.clear()
            head = self._heads[key] = headers.encode(
                [
                    (b":method", b"POST"),
                    (b":scheme", b"http"),
                    (b":path", (SERVICE + method).encode()),
                    (b":authority", b"localhost" if self._is_unix else self._url.encode()),
                    (b"content-type", b"application/grpc"),
                    (b"te", b"trailers"),
                    *((name.lower().encode(), value.encode()) for name, value in metadata),
                ]
            )
        timeout = b"%dm" % min(round(timeout_s * 1000), 99_999_999)
        return head + headers.encode([(b"grpc-timeout", timeout)])

    @property
    def _is_unix(self) -> bool:
        return self._url.startswith(_UNIX)


class Http2Call:
    """A call, waiting for a connection or on its way. Implements `Call`."""

    __slots__ = ("_channel", "_deadline", "grpc", "link")

    def __init__(
        self,
        channel: Http2Channel,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
        timeout_s: float,
    ) -> None:
        self._channel = channel
        self.link: _Link | None = None
        self.grpc = GrpcCall(on_message, on_end, self._over)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(timeout_s, self._expire)

    def cancel(self) -> None:
        """Cuts the call."""
        self.finish(Status(CANCELLED, "cancelled"))

    def finish(self, status: Status) -> None:
        """Ends the call from our side."""
        self.grpc.end(status)

    def _expire(self) -> None:
        self.finish(Status(DEADLINE_EXCEEDED, "the deadline has passed"))

    def _over(self, call: GrpcCall) -> None:
        self._deadline.cancel()
        if self.link is None:
            self._channel.drop(self)
            return
        self.link.connection.cancel(call.number)
        self._channel.has_news(self.link)


class _Waiting:
    """A call without a stream."""

    __slots__ = ("body", "call", "head")

    def __init__(self, call: Http2Call, head: bytes, body: bytes) -> None:
        self.call = call
        self.head = head
        self.body = body


class _Link(asyncio.Protocol):
    """One connection."""

    connection: Connection

    def __init__(self, channel: Http2Channel, keepalive_s: float) -> None:
        self._channel = channel
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_gone(self) -> bool:
        """Whether the connection has ended."""
        return self.gone.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # uvloop's transports are like asyncio's and do not derive from them.
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = Connection(self._transport.write)
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(self._keepalive_s, self._look)
        self._channel.keep(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_at = self._loop.time()
        try:
            self.connection.receive(data)
        except ConnectionFault as fault:
            logger.warning("Triton broke HTTP/2: %s", fault)
            self._transport.write(frames.goaway(0, fault.code))
            self._transport.abort()
        if self.connection.closing:
            self._channel.forget(self)
            self.close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc
        if self._timer is not None:
            self._timer.cancel()
        self.gone.set_result(None)
        self.connection.lost(frames.REFUSED_STREAM)
        self._channel.forget(self)

    def open(self, waiting: _Waiting) -> None:
        """Begins the stream of a call."""
        call = waiting.call
        call.link = self
        call.grpc.number = self.connection.open(waiting.head, waiting.body, call.grpc)

    def close(self) -> None:
        """Ends the connection and what is on it."""
        self.connection.lost(frames.CANCEL)
        self._transport.close()

    def abort(self) -> None:
        """Drops the connection, and what is not sent yet."""
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Ends a connection that takes no new streams and has none."""
        if self.connection.closing and not self.connection.open_streams:
            self._transport.close()

    def _look(self) -> None:
        """Pings a silent peer with calls in flight; gives up on one that does not answer."""
        silent_s = self._loop.time() - self._heard_at
        if silent_s >= self._keepalive_s and self.connection.open_streams:
            if self.connection.pinged:
                logger.warning("Triton has not answered for %.0f s", silent_s)
                self._transport.abort()
                return
            self.connection.ping()
        self._timer = self._loop.call_later(self._keepalive_s, self._look)
