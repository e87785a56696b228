"""Ends a connection whose client still sends the body of a request that is answered.

If it were closed at once, the client's TCP would discard the reply together with the unsent bytes.
So the reply ends the connection on our side only, and incoming bytes are dropped, up to a time and
a size. The same as `lingering_close` of nginx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from orchestrator.serve.connections import Place, WaitsFor

_MAX_DROPPED = 64 * 1024 * 1024
"""Max bytes that are read from one connection and dropped."""


class Linger(asyncio.Protocol):
    """Takes a connection over. Without a place only its client and the size end it."""

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
        """Drops the bytes."""
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
        """Called when the server stops: closes the connection."""
        self._transport.close()

    def waits_for(self) -> tuple[WaitsFor, Hashable]:
        """Waits for the client to finish; no progress earns it more time."""
        return "linger", None

    def give_up(self, waited_for: WaitsFor) -> None:
        """Called when the time has run out: drops the connection."""
        del waited_for
        self._transport.abort()
