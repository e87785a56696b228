"""The server's side of HTTP/1.1: heads of requests that never end are given up."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 1024 * 1024
"""Of the request line and the headers, more than one read may bring."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's own keeps headers without end, of callers without a key too."""

    _in_head = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Reads on, unless what was read for a head is too much for one."""
        if self._head_bytes > MOST_HEAD_BYTES:
            self.send_400_response(f"The headers may have {MOST_HEAD_BYTES} bytes at most.")
            return
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is over."""
        self._in_head = False
        super().on_headers_complete()
