"""Header blocks of HTTP/2.

Requests are sent as literals, which need no state. We advertise a table of size 0, so that
incoming blocks need none either: equal blocks mean equal headers, and Triton sends few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from hpack import Decoder, HPACKError

MAX_BLOCK_BYTES = 65_536
_LITERAL = b"\x10"
"""A literal that is never indexed, its name included. Source: RFC 7541, 6.2.3."""


class HeaderError(ValueError):
    """A header block that cannot be read."""


def encode(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encodes `headers`, names in lower case."""
    pieces: list[bytes] = []
    for name, value in headers:
        pieces += (_LITERAL, _length(len(name)), name, _length(len(value)), value)
    return b"".join(pieces)


@lru_cache(maxsize=256)
def decode(block: bytes) -> Mapping[str, str]:
    """Decodes `block`; if a name comes twice, the last counts. Raises: HeaderError."""
    decoder = Decoder(max_header_list_size=MAX_BLOCK_BYTES)
    decoder.max_allowed_table_size = 0
    # A block that was encoded for another table says so at its start.
    decoder.header_table_size = 0
    try:
        return {str(name): str(value) for name, value in decoder.decode(block)}
    except (HPACKError, UnicodeDecodeError) as error:
        raise HeaderError(type(error).__name__) from error


def _length(size: int) -> bytes:
    """Encodes a length as HPACK's integer of 7 bits, for a text that is not Huffman-coded."""
    if size < 127:
        return bytes((size,))
    rest, encoded = size - 127, bytearray(b"\x7f")
    while rest >= 128:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)
