"""Points in time, as people and programs write them."""

from __future__ import annotations

from datetime import UTC, datetime

_MAX_DIGITS = 12


def parse_moment(text: str) -> int:
    """Parses RFC 3339 with a time zone, or Unix seconds, into Unix milliseconds.

    Raises: ValueError.
    """
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text) * 1000
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"`{text}` has no time zone")
    return round(when.timestamp() * 1000)


def format_moment(at_ms: int) -> str:
    """Formats Unix milliseconds as RFC 3339 in UTC; milliseconds only if not zero."""
    when = datetime.fromtimestamp(at_ms / 1000, UTC)
    precision = "milliseconds" if at_ms % 1000 else "seconds"
    return when.isoformat(timespec=precision).replace("+00:00", "Z")
