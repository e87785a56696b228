"""The client's side of one HTTP/2 connection, without any I/O.

Outgoing bytes go to `write`; incoming bytes go to `receive`. Each stream carries one request body,
sent as far as the peer's windows allow; the reply goes to the stream's `Handler`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from orchestrator.triton.http2 import frames, headers

STREAM_WINDOW = 4 * 1024 * 1024
CONNECTION_WINDOW = 64 * 1024 * 1024
LAST_STREAM = frames.LARGEST_WINDOW
_OWED, _STREAM_OWED = CONNECTION_WINDOW // 2, STREAM_WINDOW // 2
"""Max bytes received before the peer's windows are raised by as many."""


class ConnectionFault(Exception):
    """The peer broke the protocol; the connection cannot be used any more."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Handler(Protocol):
    """Receives what comes on one stream. Nothing is called after `ended` or `reset`."""

    def headers(self, values: Mapping[str, str], *, last: bool) -> None:
        """Receives a header block; the `last` one may also be the first."""

    def data(self, payload: bytes) -> None:
        """Receives part of the body."""

    def ended(self) -> None:
        """Called when the peer has ended the stream without trailers."""

    def reset(self, code: int) -> None:
        """Called when the stream was reset, or never began, with an HTTP/2 error code."""


class _Stream:
    """One request in flight."""

    __slots__ = ("body", "handler", "owed", "sent", "window")

    def __init__(self, handler: Handler, body: bytes, window: int) -> None:
        self.handler = handler
        self.body = body
        self.sent = 0
        self.window = window
        self.owed = 0
        """Bytes received for which the peer's window was not raised yet."""

    @property
    def has_more(self) -> bool:
        return self.sent < len(self.body)


class Connection:
    """Streams by their numbers, windows in both directions, and the peer's settings."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._rest = b""
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._window = frames.DEFAULT_WINDOW
        self._stream_window = frames.DEFAULT_WINDOW
        self._frame_size = frames.DEFAULT_FRAME_SIZE
        self._most_streams = LAST_STREAM
        self._owed = 0
        self._blocked: deque[int] = deque()
        self._block: tuple[int, bool, bytearray] | None = None
        self._greeted = False
        self._takers: Mapping[int, Callable[[int, int, bytes], None]] = {
            frames.HEADERS: self._take_headers,
            frames.RST_STREAM: self._take_reset,
            frames.SETTINGS: self._take_settings,
            frames.PUSH_PROMISE: self._take_push,
            frames.PING: self._take_ping,
            frames.GOAWAY: self._take_goaway,
            frames.WINDOW_UPDATE: self._take_window_update,
            frames.CONTINUATION: self._take_continuation,
        }
        self.closing = False
        """Whether the peer takes no new streams any more."""
        self.pinged = False
        """Whether a ping of ours is unanswered."""
        write(
            frames.PREFACE
            + frames.settings(
                (
                    (frames.HEADER_TABLE_SIZE, 0),
                    (frames.ENABLE_PUSH, 0),
                    (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                    (frames.MAX_HEADER_LIST_SIZE, headers.MAX_BLOCK_BYTES),
                )
            )
            + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        )

    @property
    def open_streams(self) -> int:
        """Number of streams that have not ended."""
        return len(self._streams)

    @property
    def has_room(self) -> bool:
        """Whether a new stream may be opened now."""
        return (
            not self.closing
            and len(self._streams) < self._most_streams
            and self._next <= LAST_STREAM
        )

    def open(self, block: bytes, body: bytes, handler: Handler) -> int:
        """Opens a stream with those headers and that whole body; returns its number. Needs room."""
        number = self._next
        self._next += 2
        stream = self._streams[number] = _Stream(handler, body, self._stream_window)
        size, head, most = len(body), len(block), self._frame_size
        room = min(most, self._window, stream.window)
        if head <= most and size <= room and not self._blocked:
            # The usual case, in one write.
            self._window -= size
            stream.window -= size
            stream.sent = size
            pack = frames.header.pack
            self._write(
                b"".join(
                    (
                        pack(head >> 8, head & 0xFF, frames.HEADERS, frames.END_HEADERS, number),
                        block,
                        pack(size >> 8, size & 0xFF, frames.DATA, frames.END_STREAM, number),
                        body,
                    )
                )
            )
        else:
            self._write(self._headers(number, block))
            self._blocked.append(number)
            self._send_bodies()
        return number

    def cancel(self, number: int) -> None:
        """Cancels a stream; its handler is not called again."""
        if self._streams.pop(number, None) is not None:
            self._write(frames.reset(number, frames.CANCEL))

    def ping(self) -> None:
        """Asks the peer for a sign of life."""
        self.pinged = True
        self._write(frames.frame(frames.PING, 0, 0, bytes(8)))

    def lost(self, code: int = frames.INTERNAL_ERROR) -> None:
        """The connection is finished: resets every stream."""
        self.closing = True
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.handler.reset(code)

    def receive(self, received: bytes) -> None:
        """Reads what the peer sent, split at any byte. Raises: ConnectionFault."""
        chunk = self._rest + received if self._rest else received
        position, end = 0, len(chunk)
        unpack, plain = frames.header.unpack_from, frames.DATA
        while end - position >= frames.HEADER_BYTES:
            high, low, kind, flags, number = unpack(chunk, position)
            size = high << 8 | low
            if size > frames.DEFAULT_FRAME_SIZE:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + frames.HEADER_BYTES
            if end - start < size:
                break
            position = start + size
            # A token comes in a frame like this; `_take` and `_take_data` handle all cases.
            if kind == plain and not flags and size and self._block is None and self._greeted:
                stream = self._streams.get(number)
                owed = self._owed + size
                if stream is not None and owed < _OWED and stream.owed + size < _STREAM_OWED:
                    self._owed = owed
                    stream.owed += size
                    stream.handler.data(chunk[start:position])
                    continue
            self._take(kind, flags, number & LAST_STREAM, chunk[start:position])
        self._rest = chunk[position:]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block was interrupted")
        if not self._greeted and kind != frames.SETTINGS:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "no settings at the beginning")
        if kind == frames.DATA:
            self._take_data(flags, number, payload)
            return
        take = self._takers.get(kind)
        # Unknown kinds are ignored, as RFC 9113, 5.5 asks for.
        if take is not None:
            take(flags, number, payload)

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        if number == 0 or number >= self._next:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "data of a stream that never began")
        self._owed += len(payload)
        if self._owed > CONNECTION_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window takes")
        if self._owed > _OWED:
            self._write(frames.window_update(0, self._owed))
            self._owed = 0
        stream = self._streams.get(number)
        if stream is None:
            # The stream was cancelled by us; the data counts for the connection only.
            return
        last = bool(flags & frames.END_STREAM)
        stream.owed += len(payload)
        if stream.owed > _STREAM_OWED and not last:
            self._write(frames.window_update(number, stream.owed))
            stream.owed = 0
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if payload:
            stream.handler.data(payload)
        # The handler may have cancelled its own stream.
        if last and self._finish(number):
            stream.handler.ended()

    def _take_headers(self, flags: int, number: int, payload: bytes) -> None:
        if number == 0 or number >= self._next:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "headers of a stream that never began")
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.HAS_PRIORITY:
            payload = payload[5:]
        last = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._take_block(number, payload, last=last)
        else:
            self._block = (number, last, bytearray(payload))

    def _take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a continuation of no headers")
        _, last, block = self._block
        block += payload
        if len(block) > headers.MAX_BLOCK_BYTES:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "endless headers")
        if flags & frames.END_HEADERS:
            self._block = None
            self._take_block(number, bytes(block), last=last)

    def _take_block(self, number: int, block: bytes, *, last: bool) -> None:
        try:
            values = headers.decode(block)
        except headers.HeaderError as error:
            raise ConnectionFault(frames.COMPRESSION_ERROR, f"headers: {error}") from error
        stream = self._streams.get(number)
        if stream is None:
            return
        if last:
            self._finish(number)
        stream.handler.headers(values, last=last)

    def _take_reset(self, flags: int, number: int, payload: bytes) -> None:
        del flags
        if number == 0 or number >= self._next:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a reset of a stream that never began")
        _check_size(payload, 4)
        if (stream := self._streams.pop(number, None)) is not None:
            stream.handler.reset(frames.read_code(payload))

    def _take_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number != 0 or len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "settings of a wrong size")
        if flags & frames.ACK:
            return
        self._greeted = True
        for name, value in frames.read_settings(payload):
            self._set(name, value)
        self._write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._send_bodies()

    def _set(self, name: int, value: int) -> None:
        match name:
            case frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(frames.FLOW_CONTROL_ERROR, f"a window of {value}")
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            case frames.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_SIZE <= value < 2**24:
                    raise ConnectionFault(frames.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._frame_size = value
            case frames.MAX_CONCURRENT_STREAMS:
                self._most_streams = value
            case _:
                pass

    def _take_ping(self, flags: int, number: int, payload: bytes) -> None:
        _check_size(payload, 8)
        if number != 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a ping of a stream")
        if flags & frames.ACK:
            self.pinged = False
        else:
            self._write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _take_goaway(self, flags: int, number: int, payload: bytes) -> None:
        del flags, number
        if len(payload) < 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a goaway of a wrong size")
        self.closing = True
        last = frames.read_long(payload)
        for late in [one for one in self._streams if one > last]:
            # The handler of one may cancel another.
            if (stream := self._streams.pop(late, None)) is not None:
                stream.handler.reset(frames.REFUSED_STREAM)

    def _take_window_update(self, flags: int, number: int, payload: bytes) -> None:
        del flags
        _check_size(payload, 4)
        increment = frames.read_long(payload)
        if number == 0:
            self._window += increment
            if increment == 0 or self._window > frames.LARGEST_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window of a wrong size")
        elif (stream := self._streams.get(number)) is not None:
            stream.window += increment
            if increment == 0 or stream.window > frames.LARGEST_WINDOW:
                self.cancel(number)
                stream.handler.reset(frames.FLOW_CONTROL_ERROR)
        self._send_bodies()

    def _take_push(self, flags: int, number: int, payload: bytes) -> None:
        del flags, number, payload
        raise ConnectionFault(frames.PROTOCOL_ERROR, "a push, which we do not take")

    def _finish(self, number: int) -> bool:
        """Removes a stream that the peer has ended. The rest of its request body is not sent."""
        stream = self._streams.pop(number, None)
        if stream is None:
            return False
        if stream.sent < len(stream.body):
            self._write(frames.reset(number, frames.NO_ERROR))
        return True

    def _headers(self, number: int, block: bytes) -> bytes:
        if len(block) <= self._frame_size:
            return frames.frame(frames.HEADERS, frames.END_HEADERS, number, block)
        pieces = [
            block[start : start + self._frame_size]
            for start in range(0, len(block), self._frame_size)
        ]
        sent = [frames.frame(frames.HEADERS, 0, number, pieces[0])]
        sent += [frames.frame(frames.CONTINUATION, 0, number, piece) for piece in pieces[1:-1]]
        sent.append(frames.frame(frames.CONTINUATION, frames.END_HEADERS, number, pieces[-1]))
        return b"".join(sent)

    def _send_bodies(self) -> None:
        """Sends as much of the waiting bodies as the windows allow, one frame of each in turn."""
        stuck = 0
        while self._blocked and stuck < len(self._blocked):
            number = self._blocked.popleft()
            stream = self._streams.get(number)
            if stream is None:
                continue
            size = min(self._window, stream.window, self._frame_size)
            rest = len(stream.body) - stream.sent
            if size <= 0 and rest:
                self._blocked.append(number)
                stuck += 1
                continue
            stuck = 0
            piece = stream.body[stream.sent : stream.sent + size]
            stream.sent += len(piece)
            stream.window -= len(piece)
            self._window -= len(piece)
            last = 0 if stream.has_more else frames.END_STREAM
            self._write(frames.frame(frames.DATA, last, number, piece))
            if stream.has_more:
                self._blocked.append(number)


def _check_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes")


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(frames.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
