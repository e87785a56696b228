"""Requests that are rare, and requests that two servers could read in two ways."""

from __future__ import annotations

CHUNKED = b"0\r\n\r\n"
BEGUN = b"POST /first HTTP/1.1\r\nHost: x\r\n"

OFFERS = {
    "h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
    "websocket": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
    "list": ["Connection: keep-alive, Upgrade", "Upgrade: h2c, websocket"],
    "tls": ["Connection: upgrade", "Upgrade: TLS/1.0"],
    "lines": ["Connection: upgrade", "Connection: x", "Upgrade: h2c", "Upgrade: foo/2"],
    "proxy": ["Proxy-Connection: upgrade", "Upgrade: h2c"],
}
"""Offers of an upgrade, each as the lines of its head."""

REFUSED = {
    "both lengths": BEGUN + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "both, swapped": BEGUN + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKED,
    "two lengths": BEGUN + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "two other lengths": BEGUN + b"Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": BEGUN + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": BEGUN + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": BEGUN + b"Content-Length: -3\r\n\r\nabc",
    "a long length": BEGUN + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    "a length in hex": BEGUN + b"Content-Length: 0x3\r\n\r\nabc",
    "xchunked": BEGUN + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunked, identity": BEGUN + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "identity, chunked": BEGUN + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "gzip, chunked": BEGUN + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked twice": BEGUN + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "chunked with more": BEGUN + b"Transfer-Encoding: chunked;x=y\r\n\r\n" + CHUNKED,
    "chunked in two lines": BEGUN + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + CHUNKED,
    "identity first": BEGUN
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKED,
    "an empty element": BEGUN + b"Transfer-Encoding: ,chunked\r\n\r\n" + CHUNKED,
    "no coding": BEGUN + b"Transfer-Encoding: \r\nContent-Length: 3\r\n\r\nabc",
    "identity": BEGUN + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
    "chunked in 1.0": b"POST /first HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "a folded line": BEGUN + b"X: a\r\n b\r\n\r\n",
    "a folded coding": BEGUN + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "bare line feeds": b"GET /first HTTP/1.1\nHost: x\n\n",
    "a bare line feed": b"GET /first HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "a bare return": b"GET /first HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "a space before the colon": BEGUN + b"Content-Length : 3\r\n\r\nabc",
    "a tab before the colon": BEGUN + b"Content-Length\t: 3\r\n\r\nabc",
    "NUL in a value": BEGUN + b"X: a\0b\r\n\r\n",
    "NUL in a name": BEGUN + b"X\0: ab\r\n\r\n",
    "a control in a value": BEGUN + b"X: \x01\r\n\r\n",
    "no name": BEGUN + b": x\r\n\r\n",
    "a space first": b"GET /first HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n",
    "no colon": BEGUN + b"Content-Length\r\n\r\n",
    "no host": b"GET /first HTTP/1.1\r\n\r\n",
    "two hosts": BEGUN + b"Host: x\r\n\r\n",
    "a host with a path": b"GET /first HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a host with a user": b"GET /first HTTP/1.1\r\nHost: x@y\r\n\r\n",
    "a list of hosts": b"GET /first HTTP/1.1\r\nHost: x, y\r\n\r\n",
    "another scheme": b"GET ftp://x/first HTTP/1.1\r\nHost: x\r\n\r\n",
    "a user in the target": b"GET http://u@x/first HTTP/1.1\r\nHost: x\r\n\r\n",
    "a relative target": b"GET first HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET http:///first HTTP/1.1\r\nHost: x\r\n\r\n",
    "latin in the target": b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET /first HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET /first HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /first\r\n\r\n",
    "an unknown method": b"FOO /first HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}

BROKEN_CHUNKS = {
    "a bare line feed": b"3\nabc\n0\n\n",
    "a line feed in an extension": b"3;a=\nb\r\nabc\r\n0\r\n\r\n",
    "a space": b"3 \r\nabc\r\n0\r\n\r\n",
    "hex with a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a sign": b"-3\r\nabc\r\n0\r\n\r\n",
    "too large a number": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "more than announced": b"3\r\nabcd\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a bad trailer": b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
}
