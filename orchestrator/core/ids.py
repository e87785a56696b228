"""Identifiers: a prefix that names the kind, then 26 characters that sort by time."""

from __future__ import annotations

import os
import time
from functools import lru_cache

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_CHARACTER_OF_BYTE = bytes(ord(_CROCKFORD[byte & 31]) for byte in range(256))
_CHANCE_CHARACTERS = 16
_AT_ONCE = 256
_chances: list[str] = []
os.register_at_fork(after_in_child=_chances.clear)


def new_id(prefix: str) -> str:
    """A new identifier `<prefix>_<ULID>`: 48 bits of milliseconds, 80 random bits.

    Source: the ULID specification, Crockford base32, most significant character first.
    """
    at_ms = time.time_ns() // 1_000_000
    return f"{prefix}_{_slow_part(at_ms >> 10)}{_PAIRS[at_ms & 0x3FF]}{new_chance()}"


def new_chance() -> str:
    """80 random bits of the kernel in 16 characters; one read of the kernel serves many calls."""
    try:
        return _chances.pop()
    except IndexError:
        size = _CHANCE_CHARACTERS * _AT_ONCE
        text = os.urandom(size).translate(_CHARACTER_OF_BYTE).decode("ascii")
        ends = range(_CHANCE_CHARACTERS, size, _CHANCE_CHARACTERS)
        _chances.extend([text[end - _CHANCE_CHARACTERS : end] for end in ends])
        return text[-_CHANCE_CHARACTERS:]


@lru_cache(maxsize=8)
def _slow_part(at: int) -> str:
    """The first eight characters: the time in units of 1.024 s."""
    two = _PAIRS
    return two[at >> 30 & 0x3FF] + two[at >> 20 & 0x3FF] + two[at >> 10 & 0x3FF] + two[at & 0x3FF]
