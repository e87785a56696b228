"""How much there is in a body of JSON beside text, found out before anything is made of it.

A text costs what it is long. Each object, list, number and further text costs an object of Python,
which may be fifty times as long as its JSON, and time in which nothing else runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.errors import InvalidRequest

MOST_THINGS = 131_072
"""Texts, the names of members among them, objects and lists: about 30 ms and 30 MB to decode."""
MOST_VALUES = 524_288
"""Members and elements of all kinds; numbers cost less than the others."""

_WINDOW_BYTES = 64 * 1024


def check_structure(body: bytes) -> None:
    """Raises: InvalidRequest for more than `MOST_THINGS` or `MOST_VALUES`.

    Takes time with the length of `body`, a few milliseconds at once at most, and next to no memory.
    """
    # What stands in texts is counted too at first: most bodies have less even so.
    things = body.count(b'"') // 2 + body.count(b"{") + body.count(b"[")
    if things <= MOST_THINGS and body.count(b",") <= MOST_VALUES:
        return
    quotes = commas = brackets = 0
    inside = False
    for window in _windows(body):
        parts = window.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[1 if inside else 0 :: 2])
        quotes += len(parts) - 1
        inside ^= len(parts) % 2 == 0
        commas += outside.count(b",")
        brackets += outside.count(b"{") + outside.count(b"[")
        if quotes // 2 + brackets > MOST_THINGS:
            raise InvalidRequest(
                f"The request body may hold {MOST_THINGS} texts, objects and lists at most; it"
                " holds more."
            )
        if commas > MOST_VALUES:
            raise InvalidRequest(
                f"The request body may hold {MOST_VALUES} values at most; it holds more."
            )


def _windows(body: bytes) -> Iterator[bytes]:
    """`body` in pieces; no escaped character is cut in two."""
    start = 0
    while start < len(body):
        window = body[start : start + _WINDOW_BYTES]
        if (len(window) - len(window.rstrip(b"\\"))) % 2:
            window = body[start : start + _WINDOW_BYTES + 1]
        yield window
        start += len(window)
