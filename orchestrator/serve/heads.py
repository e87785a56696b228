"""Checks the head of a request beyond its syntax, which llhttp has parsed.

Two parsers of one request must never differ on where it ends or which host it is for. If they
could differ, it is refused and the connection closed. Source: RFC 9112 and RFC 9110 7.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.serve.forwarded import HOST

VERSIONS = frozenset({"1.0", "1.1"})

# The path is optional, and so is everything before the query.
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@\\]+)((?:[/?].*)?)", re.DOTALL)


class Refused(Exception):
    """A request that is not served. The message is one sentence for the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_head(
    method: str, version: str, hosts: int, codings: Sequence[bytes], *, has_host: bool
) -> None:
    """Raises: Refused.

    `hosts` is the number of `Host` lines, `codings` has the values of all `Transfer-Encoding`
    lines; `has_host` says whether a `Host` line or the target names a host.
    """
    if version not in VERSIONS:
        raise Refused(505, f"HTTP/{version} is not served; HTTP/1.1 and HTTP/1.0 are.")
    if method == "CONNECT":
        raise Refused(405, "`CONNECT` is not allowed: this is no proxy.")
    if codings:
        _check_codings(version, codings)
    if hosts > 1:
        raise Refused(400, f"`Host` must be there once; it is {hosts} times.")
    if version == "1.1" and not has_host:
        raise Refused(400, "`Host` is required in HTTP/1.1.")


def _check_codings(version: str, codings: Sequence[bytes]) -> None:
    if version == "1.0":
        raise Refused(400, "`Transfer-Encoding` must not be used in HTTP/1.0.")
    given = b", ".join(codings)
    if given.strip(b" \t").lower() != b"chunked":
        shown = given[:100].decode("latin-1")
        raise Refused(501, f"`Transfer-Encoding` may be `chunked` and nothing else, not `{shown}`.")


def check_host(host: bytes) -> None:
    """Raises: Refused unless it is a name or an address, with or without a port."""
    if HOST.fullmatch(host) is None:
        raise Refused(400, "`Host` must be a name or an address, and maybe a port.")


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """Returns the host of a target in absolute form, if it is one, and the target without it.

    Raises: Refused. Source: RFC 9112 3.2.2; that host counts, whatever `Host` says.
    """
    if target.startswith(b"/") or target == b"*":
        return None, target
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Refused(400, "The target of the request must be a path, or an address of http(s).")
    host, rest = match.groups()
    check_host(host)
    return host, rest if rest.startswith(b"/") else b"/" + rest
