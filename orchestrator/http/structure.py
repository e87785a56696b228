"""Counts the values in a JSON body before it is decoded.

The cost of a text is its length. But each object, list, number and text also costs a Python object,
which may be fifty times as large as its JSON, and time in which no other code runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from orchestrator.core.errors import InvalidRequest

MAX_THINGS = 131_072
"""Max texts (with member names), objects and lists: about 30 ms and 30 MB to decode."""
MAX_VALUES = 524_288
"""Max members and elements of all kinds; numbers cost less than the others."""

_WINDOW_BYTES = 64 * 1024
_COUNTED_BYTES = 256 * 1024
"""Bytes that are counted at once; this takes 0.25 ms."""
_REST_S = 0.000_05


def check_structure(body: bytes) -> None:
    """Raises: InvalidRequest for more than `MAX_THINGS` or `MAX_VALUES`.

    Runs in a thread beside the event loop. Takes time proportional to the length of `body`, in
    steps of 0.25 ms, and almost no memory.
    """
    if _has_little(body):
        return
    quotes = commas = brackets = 0
    inside = False
    for window in _windows(body):
        _rest()
        parts = window.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[1 if inside else 0 :: 2])
        quotes += len(parts) - 1
        inside ^= len(parts) % 2 == 0
        commas += outside.count(b",")
        brackets += outside.count(b"{") + outside.count(b"[")
        if quotes // 2 + brackets > MAX_THINGS:
            raise InvalidRequest(
                f"The request body may hold {MAX_THINGS} texts, objects and lists at most; it"
                " holds more."
            )
        if commas > MAX_VALUES:
            raise InvalidRequest(
                f"The request body may hold {MAX_VALUES} values at most; it holds more."
            )


def _has_little(body: bytes) -> bool:
    """Whether the body is within the limits even if marks inside texts count. Most bodies are."""
    quotes = others = commas = 0
    for start in range(0, len(body), _COUNTED_BYTES):
        end = start + _COUNTED_BYTES
        quotes += body.count(b'"', start, end)
        others += body.count(b"{", start, end) + body.count(b"[", start, end)
        commas += body.count(b",", start, end)
        if quotes // 2 + others > MAX_THINGS or commas > MAX_VALUES:
            return False
        _rest()
    return True


def _rest() -> None:
    """Lets the event loop run.

    Without this pause, the event loop would have to wait 5 ms for the interpreter's lock, again
    after each wait of its own.
    """
    time.sleep(_REST_S)


def _windows(body: bytes) -> Iterator[bytes]:
    """Yields `body` in pieces; no escaped character is cut in two."""
    start = 0
    while start < len(body):
        window = body[start : start + _WINDOW_BYTES]
        if (len(window) - len(window.rstrip(b"\\"))) % 2:
            window = body[start : start + _WINDOW_BYTES + 1]
        yield window
        start += len(window)
