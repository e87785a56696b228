"""A connection to one Triton, over TCP or a unix socket, and the calls on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import TypeAlias, cast

from orchestrator.triton.http2 import frames, headers
from orchestrator.triton.http2.call import GrpcCall, message
from orchestrator.triton.http2.connection import Connection, ConnectionFault
from orchestrator.triton.transport import (
    CANCELLED,
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
_HeadKey: TypeAlias = tuple[str, tuple[tuple[str, str], ...], float]
"""Method, metadata and seconds until the deadline of a call."""


class Http2Channel:
    """A `Transport` in clear text. `url` is `host:port` or `unix:/path`.

    A call connects when there is no connection; it fails with UNAVAILABLE if that fails. When
    calls are in flight and the peer is silent for `keepalive_s`, it is pinged; after the same time
    again the connection is dropped.
    """

    def __init__(self, url: str, *, keepalive_s: float = KEEPALIVE_S) -> None:
        self._url = url
        self._keepalive_s = keepalive_s
        self._link: _Link | None = None
        self._links: set[_Link] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._heads: dict[_HeadKey, bytes] = {}
        self._deadlines = Deadlines()
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
        call = Http2Call(self, on_message, on_end)
        self._deadlines.add(call, timeout_s)
        if self._closed:
            asyncio.get_running_loop().call_soon(call.cancel)
            return call
        key = (method, tuple(metadata), timeout_s)
        head = self._heads.get(key) or self._new_head(key)
        link = self._link
        if link is not None and not self._waiting and link.connection.has_room:
            link.open(call, head, message(request))
        else:
            self._waiting.append(_Waiting(call, head, message(request)))
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
            # A peer that does not read would hold unsent data for ever.
            link.abort()
            await link.gone
        self._deadlines.close()

    def keep(self, link: _Link) -> None:
        """Records that `link` is connected. It calls `forget` when it is gone."""
        self._links.add(link)

    def forget(self, link: _Link) -> None:
        """`link` takes no new calls, or is gone; waiting calls get another one."""
        if link.is_gone:
            self._links.discard(link)
        if self._link is link:
            self._link = None
        if self._waiting:
            self._advance()

    def over(self, call: Http2Call) -> None:
        """Called when `call` has ended: its connection may have room now."""
        self._deadlines.discard(call)
        link = call.link
        if link is None:
            self._waiting = deque(one for one in self._waiting if one.call is not call)
            return
        link.connection.cancel(call.number)
        if link.connection.closing:
            self.forget(link)
            link.close_if_idle()
        elif self._waiting:
            self._advance()

    def _advance(self) -> None:
        """Opens the waiting calls for which there is room; connects if there is no connection."""
        link = self._link
        while self._waiting and link is not None and link.connection.has_room:
            one = self._waiting.popleft()
            link.open(one.call, one.head, one.body)
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
        except Exception as error:  # whatever it is, the waiting calls must fail with it
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
            one.call.end(status)

    def _new_head(self, key: _HeadKey) -> bytes:
        """Encodes the header block of a call; many calls share one."""
        method, metadata, timeout_s = key
        if len(self._heads) >= 64:
            # Metadata that only one call has, such as its trace, would fill it without use.
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
                (b"grpc-timeout", b"%dm" % min(round(timeout_s * 1000), 99_999_999)),
            ]
        )
        return head

    @property
    def _is_unix(self) -> bool:
        return self._url.startswith(_UNIX)


class Http2Call(GrpcCall):
    """A call that waits for a connection or is in flight."""

    __slots__ = ("_channel", "deadline_at", "link")

    def __init__(
        self,
        channel: Http2Channel,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> None:
        super().__init__(on_message, on_end)
        self._channel = channel
        self.link: _Link | None = None
        self.deadline_at = 0.0
        """Measured by the loop's clock."""

    def over(self) -> None:
        """See `GrpcCall.over`."""
        self._channel.over(self)


class Deadlines:
    """Ends calls whose deadline has passed, with one timer for all: one each would cost more."""

    def __init__(self) -> None:
        self._calls: set[Http2Call] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0

    def add(self, call: Http2Call, timeout_s: float) -> None:
        """Gives `call` `timeout_s` from now."""
        loop = asyncio.get_running_loop()
        self._calls.add(call)
        call.deadline_at = loop.time() + timeout_s
        if self._timer is None or call.deadline_at < self._due_at:
            self._set(call.deadline_at)

    def discard(self, call: Http2Call) -> None:
        """Removes `call`, which has ended."""
        self._calls.discard(call)

    def close(self) -> None:
        """Stops the timer: no call is ended any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, due_at: float) -> None:
        self.close()
        self._due_at = due_at
        self._timer = asyncio.get_running_loop().call_at(due_at, self._look)

    def _look(self) -> None:
        self._timer = None
        for call in [call for call in self._calls if call.deadline_at <= self._due_at]:
            call.expire()
        if self._calls:
            self._set(min(call.deadline_at for call in self._calls))


class _Waiting:
    """A call without a stream yet."""

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
        # uvloop's transports behave like asyncio's but do not derive from them.
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

    def open(self, call: Http2Call, head: bytes, body: bytes) -> None:
        """Opens the stream of a call."""
        call.link = self
        call.number = self.connection.open(head, body, call)

    def close(self) -> None:
        """Ends the connection and its calls."""
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
        """Pings a silent peer with calls in flight; drops the connection if no answer comes."""
        silent_s = self._loop.time() - self._heard_at
        if silent_s >= self._keepalive_s and self.connection.open_streams:
            if self.connection.pinged:
                logger.warning("Triton has not answered for %.0f s", silent_s)
                self._transport.abort()
                return
            self.connection.ping()
        self._timer = self._loop.call_later(self._keepalive_s, self._look)
