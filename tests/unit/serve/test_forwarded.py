"""Whom a request comes from, as trusted proxies say it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.serve.forwarded import Origin, origin
from orchestrator.serve.peers import TrustedProxies
from tests.unit.serve.raw_port import (
    LAST,
    PROXY,
    SOCKET_PATH,
    exchange,
    raw_port,
    replies,
    request,
)

PEER = ("10.0.0.1", 4711)
PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])


def said(*lines: str) -> Origin:
    """The origin of a request of `PEER` with these lines in its head."""
    split = [line.partition(": ") for line in lines]
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, _, value in split]
    return origin(headers, PEER, PROXIES)


@pytest.mark.parametrize(
    ("given", "client"),
    [
        ("192.0.2.7", ("192.0.2.7", 0)),
        ("192.0.2.7:80", ("192.0.2.7", 80)),
        ("2001:db9::7", ("2001:db9::7", 0)),
        ("[2001:DB9::7]", ("2001:db9::7", 0)),
        ("[2001:db9::7]:80", ("2001:db9::7", 80)),
        ("::ffff:192.0.2.7", ("192.0.2.7", 0)),
        ("[::ffff:192.0.2.7]:80", ("192.0.2.7", 80)),
        # What stands to the left of the first that is not trusted is anybody's.
        ("10.9.9.9, 192.0.2.7", ("192.0.2.7", 0)),
        ("6.6.6.6,192.0.2.7,10.0.0.2, 2001:db8::2", ("192.0.2.7", 0)),
        ("nonsense, 192.0.2.7, ::ffff:10.0.0.2", ("192.0.2.7", 0)),
        # Proxies all the way.
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),
        ("192.0.2.7, nonsense", None),
        ("192.0.2.7, ", None),
        ("192.0.2.7, nonsense, 10.0.0.2", None),
        ("unknown", None),
        ("", None),
        ("192.0.2.7:", None),
        ("192.0.2.7:65536", None),
        ("192.0.2.7 ", ("192.0.2.7", 0)),
        ("192.0.2.7;x", None),
        ("192.0.2.07", None),
        ("192.0.2", None),
        ("[192.0.2.7]", None),
        ("2001:db9::7%eth0", None),
        ("2001:db9::7:80:90:a:b:c:d", None),
        ("localhost", None),
        ("1" * 10_000, None),
        ("\xa0192.0.2.7", None),
        (", ".join(["10.0.0.2"] * 63), ("10.0.0.2", 0)),
        (", ".join(["10.0.0.2"] * 65), None),
    ],
)
def test_the_rightmost_hop_that_is_not_trusted_is_the_client(
    given: str, client: tuple[str, int] | None
) -> None:
    assert said(f"X-Forwarded-For: {given}").client == client


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("for=192.0.2.7", Origin(("192.0.2.7", 0))),
        ('For="192.0.2.7:80"', Origin(("192.0.2.7", 80))),
        ('for="[2001:db9::7]:80"', Origin(("2001:db9::7", 80))),
        (
            "for=192.0.2.7;proto=https;by=10.0.0.1;host=a.example",
            Origin(("192.0.2.7", 0), "https", b"a.example"),
        ),
        (
            "for=6.6.6.6;host=evil;proto=http, for=192.0.2.7;proto=HTTPS, for=10.0.0.2;proto=http",
            Origin(("192.0.2.7", 0), "https"),
        ),
        # A quote that somebody opened does not swallow what the proxy added.
        ('for="6.6.6.6, for=192.0.2.7', Origin(("192.0.2.7", 0))),
        ('for=192.0.2.7;proto=gopher;host="a b"', Origin(("192.0.2.7", 0))),
        ("proto=https", Origin(None, "https")),
        ("for=unknown", Origin(None)),
        ("for=_hidden;proto=https", Origin(None, "https")),
        ("for=192.0.2.7;for=192.0.2.8", Origin(None)),
        ("for=192.0.2.7:80", Origin(None)),
        ("for=[2001:db9::7]", Origin(None)),
        ('for="192.0.2.7', Origin(None)),
        ('for="192\\.0.2.7"', Origin(None)),
        ("for = 192.0.2.7", Origin(None)),
        ("for=192.0.2.7;", Origin(None)),
        ("192.0.2.7", Origin(None)),
        ("", Origin(None)),
    ],
)
def test_the_standard_header_says_the_same(given: str, expected: Origin) -> None:
    assert said(f"Forwarded: {given}") == expected


def test_lines_are_one_list() -> None:
    assert said("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.7").client == (
        "192.0.2.7",
        0,
    )
    assert said('Forwarded: for="6.6.6.6', "Forwarded: for=192.0.2.7").client == ("192.0.2.7", 0)


def test_the_nearest_proxy_says_scheme_and_host() -> None:
    lines = ["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http, https"]
    assert said(*lines, "X-Forwarded-Host: evil, a.example:443") == Origin(
        ("192.0.2.7", 0), "https", b"a.example:443"
    )
    assert said("X-Forwarded-Proto: https") == Origin(PEER, "https")
    assert said("X-Forwarded-Proto: wss").scheme == "https"
    assert said("X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b") == Origin(PEER)


def test_two_kinds_of_header_must_agree() -> None:
    custom = "X-Forwarded-For: 192.0.2.7"
    assert said(custom, "Forwarded: for=192.0.2.7").client == ("192.0.2.7", 0)
    assert said(custom, "Forwarded: for=10.6.6.6").client is None
    assert said(custom, "Forwarded: for=unknown").client is None
    both = [custom, "Forwarded: for=192.0.2.7;proto=https;host=a.example"]
    assert said(*both) == Origin(("192.0.2.7", 0))
    forged = ["X-Forwarded-Proto: http", "X-Forwarded-Host: evil"]
    assert said(*both, *forged) == Origin(("192.0.2.7", 0))
    same = ["X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"]
    assert said(*both, *same) == Origin(("192.0.2.7", 0), "https", b"a.example")


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    async with raw_port() as number:
        yield number


FORGED = [
    "X-Forwarded-For: 192.0.2.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: forged.example",
]
STANDARD = ['Forwarded: for="192.0.2.7:80";proto=https;host=forged.example']


async def seen(port: int, peer: str, lines: list[str], *, over: str = "http") -> dict[str, Any]:
    """What the application is told of a request of `peer`."""
    path, more = OVER[over]
    parts = [request(path, *lines, *more, method="GET")]
    if over == "http":
        parts.append(LAST)
    told: dict[str, Any] = replies(await exchange(port, parts, peer))[0][1]
    assert told["type"] == over
    return told


HANDSHAKE = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode(),
]
OVER = {"http": ("/", []), "websocket": (SOCKET_PATH, HANDSHAKE)}


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("lines", [FORGED, STANDARD], ids=["custom", "standard"])
async def test_a_trusted_proxy_is_believed(port: int, over: str, lines: list[str]) -> None:
    told = await seen(port, PROXY, lines, over=over)
    assert told["client"][0] == "192.0.2.7"
    assert told["scheme"] == ("https" if over == "http" else "wss")
    assert told["headers"]["host"] == "forged.example"


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("lines", [FORGED, STANDARD], ids=["custom", "standard"])
async def test_anybody_else_is_not(port: int, over: str, lines: list[str]) -> None:
    told = await seen(port, "127.0.0.1", lines, over=over)
    assert told["client"][0] == "127.0.0.1"
    assert told["scheme"] == ("http" if over == "http" else "ws")
    assert told["headers"]["host"] == "x"


async def test_what_comes_after_a_body_is_no_head(port: int) -> None:
    head = request("/", "Transfer-Encoding: chunked", "X-Forwarded-For: 192.0.2.7")
    trailers = b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nAuthorization: Bearer x\r\n"
    body = b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n"
    received = await exchange(port, [head + body + LAST], PROXY)
    told = replies(received)[0][1]
    assert told["body"] == "abc"
    assert told["client"][0] == "192.0.2.7"
    assert told["headers"]["host"] == "x"
    assert "authorization" not in told["headers"]
