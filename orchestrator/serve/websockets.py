"""The server's side of WebSockets: a stop notifies handlers instead of cutting them off."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from orchestrator.http.exchange import DRAIN
from orchestrator.serve.connections import Place, WaitsFor

_BAD_HEAD = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class DrainingWebSocket(WebSocketsSansIOProtocol):
    """Lets open sockets finish when the server stops; uvicorn's protocol closes them at once.

    uvicorn's also logs every refusal before the upgrade as an error, and waits without limit for
    clients that have stopped reading.
    """

    place: Place | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees the place."""
        if self.place is not None:
            self.place.release()
        super().connection_lost(exc)

    def waits_for(self) -> tuple[WaitsFor, Hashable]:
        """Waits for nothing that is limited here: pings and the session have their own limits."""
        return "nothing", None

    def give_up(self, waited_for: WaitsFor) -> None:
        """Ends the connection."""
        del waited_for
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Reads on. Refuses an unreadable head, which uvicorn's own protocol does not do."""
        super().data_received(data)
        if self.conn.handshake_exc is None or self.handshake_initiated or self.close_sent:
            return
        self.close_sent = self.handshake_complete = True
        self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_HEAD)
        self.transport.close()

    async def send(self, message: Any) -> None:
        """Sends on. A refusal that is sent whole is a normal end, and not an error to log."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Asks the handler to end, if the socket is open and not closing."""
        if not self.handshake_complete or self.close_sent or self.transport.is_closing():
            super().shutdown()
            return
        message: Any = {"type": DRAIN}
        self.queue.put_nowait(message)

    def keepalive_timeout(self) -> None:
        """Drops a client that has stopped reading.

        A closed transport waits until the client has read everything, and so does any sender.
        """
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
