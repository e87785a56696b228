"""Reads compressed bodies within the limits of uncompressed ones.

The limits apply to the decompressed size and to what is sent, which may inflate to nothing. A body
is inflated in pieces, and each piece is counted before the next is made, so that a small body that
inflates to much costs no more than a large one.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Literal

from orchestrator.core.errors import InvalidRequest, UnsupportedCoding
from orchestrator.http.intake import SMALL_BODY_BYTES, ClientLeftError, Receive, too_large

Coding = Literal["gzip", "deflate"]

_ACCEPTED = "gzip, deflate"
_NAMES: dict[bytes, Coding] = {b"gzip": "gzip", b"x-gzip": "gzip", b"deflate": "deflate"}
"""Source: RFC 9110 8.4.1, and 8.4.1.3 for the older name."""
_PIECE_BYTES = 64 * 1024
"""Max bytes that are inflated at once; this takes about 0.2 ms."""
_HEADER_BYTES = 2
"""Length of the zlib header, by which a body with a zlib frame is recognised."""
_MAX_SHOWN = 60


def coding_of(headers: Iterable[tuple[bytes, bytes]]) -> Coding | None:
    """The body's content coding, if any. Raises: UnsupportedCoding, also for several codings."""
    given = b",".join([value for name, value in headers if name == b"content-encoding"])
    codings = [one.strip(b" \t").lower() for one in given.split(b",")]
    codings = [one for one in codings if one not in (b"", b"identity")]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in _NAMES:
        return _NAMES[codings[0]]
    shown = b", ".join(codings)[:_MAX_SHOWN].decode("latin-1")
    raise UnsupportedCoding(
        f"`Content-Encoding` may be gzip, deflate or identity, and one of them; `{shown}` was"
        " given.",
        accepted=_ACCEPTED,
    )


class Inflater:
    """Inflates one body. `deflate` may lack the zlib frame: some clients leave it out."""

    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._begun = b""
        self._inflating: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Inflates `data`, in pieces of 64 kB at most. Raises: InvalidRequest."""
        if self._inflating is None:
            data = self._begun = self._begun + data
            if len(data) < _HEADER_BYTES:
                return
            self._begun = data[:_HEADER_BYTES]
            self._inflating = zlib.decompressobj(self._window_bits(data))
        inflating, piece = self._inflating, b""
        # After a full piece, more output of the same input may follow.
        while data or (len(piece) == _PIECE_BYTES and not inflating.eof):
            if inflating.eof:
                # Each further member would cost a Python object, however small it is.
                raise self._fault("there is more behind its end")
            try:
                piece = inflating.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise self._fault("it cannot be decompressed") from error
            data = inflating.unconsumed_tail or inflating.unused_data
            if piece:
                yield piece

    def finish(self) -> None:
        """To be called at the end of the body. Raises: InvalidRequest if it ends too early."""
        if self._begun and (self._inflating is None or not self._inflating.eof):
            raise self._fault("it ends too early")

    def _window_bits(self, begun: bytes) -> int:
        if self._coding == "gzip":
            return zlib.MAX_WBITS | 16
        # Source: RFC 1950 2.2. Compressors never write a raw block that begins like that.
        is_zlib = begun[0] & 15 == zlib.DEFLATED and int.from_bytes(begun[:2], "big") % 31 == 0
        return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS

    def _fault(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"The request body is not valid {self._coding}: {what}.")


async def read_inflated(
    receive: Receive,
    coding: Coding,
    most: int,
    keep: Callable[[int], None],
    before_large: Callable[[], Awaitable[None]],
) -> bytes:
    """Reads and inflates the whole body. `keep` reserves memory for each piece.

    `before_large` is called when the body turns out not to be small, compressed or inflated, and
    may refuse the caller.
    Raises: PayloadTooLarge, RateLimited, Overloaded, InvalidRequest, ClientLeftError.
    """
    inflater = Inflater(coding)
    pieces: list[bytes] = []
    sent = size = 0
    is_large = False
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        chunk = message.get("body", b"")
        sent += len(chunk)
        if sent > most:
            raise too_large(most, "more were sent")
        if sent > SMALL_BODY_BYTES and not is_large:
            is_large = True
            await before_large()
        for piece in inflater.feed(chunk):
            size += len(piece)
            if size > most:
                raise too_large(most, "it holds more, decompressed")
            if size > SMALL_BODY_BYTES and not is_large:
                is_large = True
                await before_large()
            keep(size)
            pieces.append(piece)
            # Lets other tasks run: a body that has already arrived may inflate to much.
            await asyncio.sleep(0)
        if not message.get("more_body", False):
            inflater.finish()
            return b"".join(pieces)
