"""Accepts connections of a listening socket, within the bounds of `Connections`.

The event loop's own server accepts all waiting connections before it asks a protocol, and so uses
up the last descriptors; this one asks first. With several workers it also leaves connections to
the workers that have fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import orjson

from orchestrator.serve.board import Seat
from orchestrator.serve.connections import Connections, Guarded, Place

logger = logging.getLogger(__name__)

_AT_ONCE = 8
"""Connections accepted before the loop does other work."""
_OUT_OF_TURN = 2
"""Connections to accept in place of a worker that had fewer and did not accept them."""
_LEFT_FOR_S = 0.01
"""The time such a worker has to accept: several times the time that waking up takes."""
_PAUSE_S = 0.2
"""The pause after the system had no descriptor or memory for a connection."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_MESSAGE = "The server has no place for another connection at the moment."
_BODY = orjson.dumps(
    {
        "error": {
            "code": "overloaded",
            "message": _MESSAGE,
            "type": "service_unavailable_error",
            "param": None,
            "reason": "too_many_connections",
        },
        "code": "overloaded",
        "detail": _MESSAGE,
    }
)
_REFUSAL = b"".join(
    (
        b"HTTP/1.1 503 Service Unavailable\r\n",
        b"content-type: application/json\r\n",
        b"content-length: %d\r\n" % len(_BODY),
        b"retry-after: 1\r\n",
        b"connection: close\r\n\r\n",
        _BODY,
    )
)


class Acceptor:
    """Has the shape of `asyncio.Server`, as far as uvicorn uses it. Belongs to the running loop."""

    def __init__(
        self,
        listener: socket.socket,
        connections: Connections,
        make_protocol: Callable[[], Guarded],
        seat: Seat | None = None,
    ) -> None:
        """`make_protocol` makes asyncio protocols. `seat` is for one of several workers."""
        listener.setblocking(False)
        self._listener = listener
        self._connections = connections
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._seat = seat
        self._out_of_turn = 0
        if seat is not None:
            connections.on_change = seat.write
            seat.write(len(connections))
        self._listen()

    def close(self) -> None:
        """Accepts no more. The listening socket stays open."""
        self._is_closed = True
        if self._seat is not None:
            self._connections.on_change = None
            self._seat.leave()
        self._loop.remove_reader(self._listener.fileno())
        if self._again is not None:
            self._again.cancel()

    async def wait_closed(self) -> None:
        """Returns when all accepted connections have been handed over."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _listen(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._leaves_it():
                return
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                self._out_of_turn = 0
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(error)
                return
            place = self._connections.admit(address[0])
            if place is None:
                _refuse(sock)
            else:
                self._connect(sock, place)

    def _leaves_it(self) -> bool:
        """Whether another worker has fewer connections and still has time to accept this one."""
        if self._seat is None or not self._seat.is_ahead(len(self._connections)):
            self._out_of_turn = 0
            return False
        if self._out_of_turn:
            self._out_of_turn -= 1
            return False
        self._listen_later(_LEFT_FOR_S, out_of_turn=_OUT_OF_TURN)
        return True

    def _listen_later(self, delay_s: float, out_of_turn: int = 0) -> None:
        """Ignores the listener for `delay_s`: it stays readable and would keep the loop busy."""
        self._out_of_turn = out_of_turn
        self._loop.remove_reader(self._listener.fileno())
        self._again = self._loop.call_later(delay_s, self._listen_again)

    def _listen_again(self) -> None:
        self._listen()
        if self._out_of_turn and not self._is_closed:
            # At once, so that this permission is not used for a later connection.
            self._accept()

    def _pause(self, error: OSError) -> None:
        """Stops for a moment, in which the system may free what it lacks."""
        if error.errno in _NO_ROOM:
            self._connections.out_of_descriptors()
        else:
            logger.error("connections cannot be accepted: %s", error)
        self._listen_later(_PAUSE_S)

    def _connect(self, sock: socket.socket, place: Place) -> None:
        task = self._loop.create_task(self._hand_over(sock, place))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _hand_over(self, sock: socket.socket, place: Place) -> None:
        place.sock = sock
        protocol: Any = self._make_protocol()
        # Before it is connected: it frees the place when the connection is lost.
        protocol.place = place
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError:
            # The client has disconnected already.
            place.release()
            sock.close()


def _refuse(sock: socket.socket) -> None:
    """Sends the reason, if that needs no waiting, and closes."""
    with contextlib.suppress(OSError), sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            # Closed with unread bytes, the client would see a reset and no reply.
            sock.recv(65_536)
        sock.send(_REFUSAL)
        sock.shutdown(socket.SHUT_WR)
