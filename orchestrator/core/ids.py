"""Identifiers: a prefix that tells the kind, then 26 characters that sort by time."""

from __future__ import annotations

import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)


def new_id(prefix: str) -> str:
    """A new identifier `<prefix>_<ULID>`: 48 bits of milliseconds, 80 bits of chance.

    Source: the ULID specification, Crockford base32, most significant character first.
    """
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join([_PAIRS[value >> shift & 0x3FF] for shift in range(120, -1, -10)])
