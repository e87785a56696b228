"""Which upgrades are accepted. Any other is ignored, and the request served as HTTP/1.1.

Source: RFC 9110 7.8, and RFC 6455 4.2.1 for WebSockets.
"""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

_VERSION = b"13"
"""The version of WebSockets. Source: RFC 6455 4.1."""


def asks_for_websocket(method: str, version: str, headers: Headers) -> bool:
    """Whether the head can start a WebSocket: a `GET` of HTTP/1.1 without a body.

    One in another version of WebSockets is left to the route, which names the version that it has.
    """
    if method != "GET" or version != "1.1":
        return False
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 \t")):
            return False
    versions = _tokens(headers, b"sec-websocket-version")
    if _VERSION not in versions and versions != [b""]:
        return False
    return b"upgrade" in _tokens(headers, b"connection") and b"websocket" in _tokens(
        headers, b"upgrade"
    )


def websocket_head(target: bytes, headers: Headers) -> bytes:
    """Returns the head as one that asks for a WebSocket and nothing else."""
    # A WebSocket's parser must not refuse the head because of `Content-Length: 0`.
    kept = [one for one in headers if one[0] not in (b"upgrade", b"connection", b"content-length")]
    asked = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    return _head(b"GET", target, "1.1", [*kept, *asked])


def plain_head(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Returns the head without its upgrade, so that the bytes after it are read as its body."""
    return _head(method, target, version, [one for one in headers if one[0] != b"upgrade"])


def with_host(headers: Headers, host: bytes) -> list[tuple[bytes, bytes]]:
    """Returns `headers` with `host` in place of their own."""
    return [(b"host", host), *(one for one in headers if one[0] != b"host")]


def _head(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    lines = [b"%b: %b\r\n" % one for one in headers]
    start = b"%b %b HTTP/%b\r\n" % (method, target, version.encode("ascii"))
    return b"".join([start, *lines, b"\r\n"])


def _tokens(headers: Headers, wanted: bytes) -> list[bytes]:
    values = b",".join([value for name, value in headers if name == wanted])
    return [one.strip(b" \t").lower() for one in values.split(b",")]
