"""One gRPC call on one HTTP/2 stream. Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from orchestrator.triton.http2 import frames
from orchestrator.triton.transport import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    OK,
    UNAVAILABLE,
    UNKNOWN,
    Status,
)

MAX_MESSAGE_BYTES = 2**31 - 1
_PREFIX = struct.Struct(">BL")
_PREFIX_BYTES = 5
_MAX_DIGITS = 10
_DONE = Status(OK)
_CUT = Status(CANCELLED, "cancelled")

_OF_HTTP: Mapping[str, int] = {
    "400": INTERNAL,
    "401": 16,
    "403": 7,
    "404": 12,
    "429": UNAVAILABLE,
    "502": UNAVAILABLE,
    "503": UNAVAILABLE,
    "504": UNAVAILABLE,
}
"""The status for a reply without a gRPC status. Source: http-grpc-status-mapping.md."""
_OF_RESET: Mapping[int, int] = {
    frames.REFUSED_STREAM: UNAVAILABLE,
    frames.CANCEL: CANCELLED,
    frames.ENHANCE_YOUR_CALM: 8,
    12: 7,
}


def message(body: bytes) -> bytes:
    """Returns `body` as an uncompressed message on the wire."""
    return _PREFIX.pack(0, len(body)) + body


class GrpcCall:
    """Assembles messages and determines how the call ended. Implements `Call`."""

    __slots__ = (
        "_has_ended", "_have", "_is_inside", "_on_end", "_on_message", "_pieces", "_wanted",
        "number",
    )  # fmt: skip

    def __init__(
        self, on_message: Callable[[bytes], None], on_end: Callable[[Status], None]
    ) -> None:
        self.number = 0
        """The number of its stream; 0 while it has none."""
        self._on_message = on_message
        self._on_end = on_end
        self._has_ended = False
        self._pieces: list[bytes] = []
        """What has come of an incomplete message; without its prefix if `_is_inside`."""
        self._have = 0
        self._wanted = _PREFIX_BYTES
        self._is_inside = False

    def over(self) -> None:
        """Called once, before `on_end`, however the call ended."""

    def end(self, status: Status) -> None:
        """Ends the call. Only the first status counts."""
        if not self._has_ended:
            self._has_ended = True
            self._pieces.clear()
            self.over()
            self._on_end(status)

    def cancel(self) -> None:
        """Cuts the call."""
        self.end(_CUT)

    def expire(self) -> None:
        """Ends a call whose deadline has passed."""
        self.end(Status(DEADLINE_EXCEEDED, "the deadline has passed"))

    def headers(self, values: Mapping[str, str], *, last: bool) -> None:
        """Receives the headers of the reply, or its trailers."""
        if (status := values.get(":status")) is not None:
            if status.startswith("1"):
                return
            if status != "200":
                self.end(Status(_OF_HTTP.get(status, UNKNOWN), f"HTTP status {status}"))
            elif not values.get("content-type", "").startswith("application/grpc"):
                self.end(Status(UNKNOWN, "the answer is not gRPC"))
        if last:
            self._end_by(values)

    def data(self, payload: bytes) -> None:
        """Receives part of the messages."""
        if self._has_ended:
            return
        if not self._pieces and len(payload) >= _PREFIX_BYTES:
            compressed, size = _PREFIX.unpack_from(payload)
            if not compressed and len(payload) == size + _PREFIX_BYTES:
                # The usual case: one message, whole.
                self._on_message(payload[_PREFIX_BYTES:])
                return
        self._take(payload)

    def ended(self) -> None:
        """Called when the stream ended without trailers."""
        self.end(Status(UNKNOWN, "the answer ended without a status"))

    def reset(self, code: int) -> None:
        """Called when the stream was reset."""
        self.end(Status(_OF_RESET.get(code, UNAVAILABLE), f"stream reset, code {code}"))

    def _take(self, payload: bytes) -> None:
        """Receives a message in pieces, or several at once; a long one is copied only once."""
        self._pieces.append(payload)
        self._have += len(payload)
        if self._have < self._wanted:
            return
        come, position = b"".join(self._pieces), 0
        self._pieces.clear()
        if self._is_inside:
            self._is_inside, position = False, self._wanted
            self._on_message(come if position == len(come) else come[:position])
        self._wanted = _PREFIX_BYTES
        while len(come) - position >= _PREFIX_BYTES and not self._has_ended:
            compressed, size = _PREFIX.unpack_from(come, position)
            if compressed or size > MAX_MESSAGE_BYTES:
                self.end(Status(INTERNAL, "a message that is compressed or too long"))
                return
            position += _PREFIX_BYTES
            if len(come) - position < size:
                self._is_inside, self._wanted = True, size
                break
            position += size
            self._on_message(come[position - size : position])
        self._have = len(come) - position
        if self._have or self._is_inside:
            self._pieces.append(come[position:])

    def _end_by(self, values: Mapping[str, str]) -> None:
        text = values.get("grpc-status", "")
        if text == "0" and not self._pieces:
            self.end(_DONE)
            return
        # A longer one could not even be parsed as a number.
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            self.end(Status(UNKNOWN, "the answer ended without a status"))
        elif int(text) == OK and self._pieces:
            self.end(Status(INTERNAL, "the answer ended inside a message"))
        else:
            self.end(Status(int(text), unquote(values.get("grpc-message", ""))))
