"""Identifiers: a prefix that tells the kind, then 26 characters that sort by time."""

from __future__ import annotations

import os
import time
from functools import lru_cache

_CROCKFORD = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHARACTER_OF_BYTE = bytes(_CROCKFORD[byte & 31] for byte in range(256))
_CHANCE_CHARACTERS = 16
_AT_ONCE = 256
_chances: list[str] = []
os.register_at_fork(after_in_child=_chances.clear)


def new_id(prefix: str) -> str:
    """A new identifier `<prefix>_<ULID>`: 48 bits of milliseconds, 80 bits of chance.

    Source: the ULID specification, Crockford base32, most significant character first.
    """
    try:
        return f"{prefix}_{_moment(time.time_ns() // 1_000_000)}{_chances.pop()}"
    except IndexError:
        return f"{prefix}_{_moment(time.time_ns() // 1_000_000)}{new_chance()}"


def new_chance() -> str:
    """80 bits of the kernel's randomness in 16 characters; many are fetched at once."""
    try:
        return _chances.pop()
    except IndexError:
        size = _CHANCE_CHARACTERS * _AT_ONCE
        text = os.urandom(size).translate(_CHARACTER_OF_BYTE).decode("ascii")
        ends = range(_CHANCE_CHARACTERS, size, _CHANCE_CHARACTERS)
        _chances.extend(text[end - _CHANCE_CHARACTERS : end] for end in ends)
        return text[-_CHANCE_CHARACTERS:]


@lru_cache(maxsize=4)
def _moment(at_ms: int) -> str:
    """48 bits of milliseconds in ten characters."""
    digits = bytes(_CROCKFORD[at_ms >> shift & 31] for shift in range(45, -1, -5))
    return digits.decode("ascii")
