"""Arguments that several commands share, and their parsers."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from orchestrator.core.timestamps import parse_moment

_MAX_LABEL = 200

LIMITS = {
    "rpm_limit": "requests a minute, images excepted",
    "images_rpm_limit": "requests for images a minute",
    "tpd_limit": "tokens a day (UTC)",
    "concurrency_limit": "requests at the same time",
}
PLANS = ("free", "standard", "pro", "enterprise")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds the options of limits and plans, with the names of the HTTP interface."""
    for name, meaning in LIMITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=count, metavar="N", help=meaning)
    parser.add_argument("--plan", choices=PLANS, help="a template; explicit numbers override it")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds the option that every command has."""
    parser.add_argument("--json", action="store_true", help="for scripts")


def label(text: str) -> str:
    """Parses a label that fits on one line. Raises: ArgumentTypeError."""
    stripped = text.strip()
    if not 1 <= len(stripped) <= _MAX_LABEL or not stripped.isprintable():
        raise argparse.ArgumentTypeError(f"must be 1 to {_MAX_LABEL} printable characters")
    return stripped


def comma_list(text: str) -> tuple[str, ...]:
    """Parses a list such as `a,b`. Raises: ArgumentTypeError."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(parts):
        raise argparse.ArgumentTypeError("must be names with commas between")
    return parts


def count(text: str) -> int:
    """Parses a whole number of one or more. Raises: ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of 1 or more")
    return int(text)


def seconds(text: str) -> int:
    """Parses a whole number of seconds. Raises: ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of seconds")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """Parses `name=value`. Raises: ArgumentTypeError."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"`{text}` is not name=value")
    return name.strip(), value


def moment(text: str) -> int:
    """Parses a time, past or future, to whole seconds since the epoch, rounded up.

    Raises: ArgumentTypeError.
    """
    return -(-moment_ms(text) // 1000)


def moment_ms(text: str) -> int:
    """Parses a time, past or future, to milliseconds since the epoch. Raises: ArgumentTypeError."""
    try:
        return parse_moment(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"`{text}` is neither seconds since the epoch nor a time such as 2027-01-31T12:00:00Z"
        ) from None


def rfc3339(text: str) -> int:
    """Parses a future time to seconds since the epoch. Raises: ArgumentTypeError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"`{text}` is not a time such as 2027-01-31T12:00:00Z"
        ) from None
    if when.tzinfo is None:
        raise argparse.ArgumentTypeError(f"`{text}` has no time zone; add Z for UTC")
    if when.timestamp() <= time.time():
        raise argparse.ArgumentTypeError(f"`{text}` is in the past")
    return int(when.timestamp())
