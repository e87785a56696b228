"""The server's side of WebSockets: a stop of the server is told to handlers, not cut off."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from orchestrator.http.exchange import DRAIN
from orchestrator.serve.connections import Place, WaitsFor

_BAD_HEAD = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class DrainingWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's own closes every socket at once when the server is to stop.

    It also logs every refusal before the upgrade as an error, and waits without end for clients
    that have stopped to read.
    """

    place: Place | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees the place."""
        if self.place is not None:
            self.place.release()
        super().connection_lost(exc)

    def waits_for(self) -> tuple[WaitsFor, Hashable]:
        """For nothing that has a limit here: pings and the session have limits of their own."""
        return "nothing", None

    def give_up(self, waited_for: WaitsFor) -> None:
        """Ends the connection."""
        del waited_for
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Reads on. A head that cannot be read is refused, which uvicorn's own does not do."""
        super().data_received(data)
        if self.conn.handshake_exc is None or self.handshake_initiated or self.close_sent:
            return
        self.close_sent = self.handshake_complete = True
        self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_HEAD)
        self.transport.close()

    async def send(self, message: Any) -> None:
        """Sends on. A refusal that is sent whole is an end like any other, and no error to log."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Asks the handler to end, once the socket is open and as long as nobody closes it."""
        if not self.handshake_complete or self.close_sent or self.transport.is_closing():
            super().shutdown()
            return
        message: Any = {"type": DRAIN}
        self.queue.put_nowait(message)

    def keepalive_timeout(self) -> None:
        """Gives the client up, one that does not read what is on its way to it for good.

        A transport that is closed waits until all is read, and what sends to it as long.
        """
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
