"""The end of a connection whose client still sends the body of a request that is answered.

Closed at once, the client's TCP would throw the reply away with what it could not send. So the
reply ends the connection on our side only, and what comes is dropped, for a time and up to a size.
The same as `lingering_close` of nginx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from orchestrator.serve.connections import Place, WaitsFor

_MAX_DROPPED = 64 * 1024 * 1024
"""Bytes of one connection that are read for nothing."""


class Linger(asyncio.Protocol):
    """Takes a connection over. Without a place only its client and the bound end it."""

    def __init__(self, transport: asyncio.Transport, connections: set[Any]) -> None:
        """`connections` are those that the server waits for when it stops."""
        self.place: Place | None = None
        self._transport = transport
        self._connections = connections
        self._dropped = 0

    def begin(self) -> None:
        """Ends the sending side when all is sent, and drops what comes."""
        self._connections.add(self)
        self._transport.set_protocol(self)
        self._transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Drops it."""
        self._dropped += len(data)
        if self._dropped > _MAX_DROPPED:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees the place."""
        del exc
        self._connections.discard(self)
        if self.place is not None:
            self.place.release()

    def shutdown(self) -> None:
        """The server stops."""
        self._transport.close()

    def waits_for(self) -> tuple[WaitsFor, Hashable]:
        """For the client to be done; there is no progress that earns it more time."""
        return "linger", None

    def give_up(self, waited_for: WaitsFor) -> None:
        """The time is over."""
        del waited_for
        self._transport.abort()
