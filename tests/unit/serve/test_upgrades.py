"""Upgrades that are taken, and those that are ignored: the request has its body either way."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect

from tests.unit.serve.odd_requests import OFFERS
from tests.unit.serve.raw_port import (
    LAST,
    SOCKET_PATH,
    TIMEOUT_S,
    exchange,
    raw_port,
    replies,
    request,
)

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"


KEY = "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode()
HANDSHAKE = ["Connection: Upgrade", "Sec-WebSocket-Version: 13", KEY]


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    async with raw_port() as number:
        yield number


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("cut", [None, "after the head", "bytes"])
async def test_an_upgrade_that_is_not_taken_is_ignored(
    port: int, offer: str, cut: str | None
) -> None:
    head = request("/first?a=b", *OFFERS[offer], f"Content-Length: {len(HIDDEN)}")
    parts = {
        None: [head + HIDDEN + LAST],
        "after the head": [head, HIDDEN, LAST],
        "bytes": [bytes([byte]) for byte in head + HIDDEN + LAST],
    }[cut]
    first, last = replies(await exchange(port, parts))
    assert first[1]["path"] == "/first"
    assert first[1]["query"] == "a=b"
    assert first[1]["body"].encode() == HIDDEN
    assert "upgrade" not in first[1]["headers"]
    assert last[1]["path"] == "/last"


@pytest.mark.parametrize("offer", OFFERS)
async def test_a_chunked_body_after_an_offer_is_a_body(port: int, offer: str) -> None:
    head = request("/first", *OFFERS[offer], "Transfer-Encoding: chunked")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    first, last = replies(await exchange(port, [head + body + LAST]))
    assert first[1]["body"].encode() == HIDDEN
    assert last[1]["path"] == "/last"


async def test_many_offers_in_one_write_are_answered_in_order(port: int) -> None:
    several = [
        request(f"/{i}", *OFFERS["h2c"], "Content-Length: 3") + b"%03d" % i for i in range(99)
    ]
    got = replies(await exchange(port, [b"".join(several) + LAST]))
    assert [reply["body"] for _, reply in got[:-1]] == [f"{i:03}" for i in range(99)]
    assert got[-1][1]["path"] == "/last"


async def test_an_offer_in_http_1_0_is_ignored(port: int) -> None:
    head = request("/first", *OFFERS["h2c"], "Content-Length: 3", version="1.0")
    ((status, reply),) = replies(await exchange(port, [head + b"abc" + HIDDEN]))
    assert (status, reply["body"]) == (200, "abc")


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "OPTIONS"])
async def test_only_a_get_becomes_a_websocket(port: int, method: str) -> None:
    head = request(
        SOCKET_PATH, *HANDSHAKE, "Upgrade: websocket", "Connection: close", method=method
    )
    received = await exchange(port, [head])
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("more", ["Content-Length: 3", "Transfer-Encoding: chunked"])
async def test_a_get_with_a_body_becomes_no_websocket(port: int, more: str) -> None:
    body = b"abc" if more.startswith("C") else b"3\r\nabc\r\n0\r\n\r\n"
    head = request(SOCKET_PATH, *HANDSHAKE, "Upgrade: websocket", more, method="GET")
    first, last = replies(await exchange(port, [head, body + LAST]))
    assert first[1]["body"] == "abc"
    assert last[1]["path"] == "/last"


async def test_a_path_without_a_websocket_is_served_as_ever(port: int) -> None:
    head = request("/first", *HANDSHAKE, "Upgrade: websocket", method="GET")
    first, last = replies(await exchange(port, [head + LAST]))
    assert (first[1]["type"], first[1]["path"]) == ("http", "/first")
    assert last[1]["path"] == "/last"


async def test_a_websocket_is_none_while_a_reply_is_owed(port: int) -> None:
    before = request("/first", "Content-Length: 3") + b"abc"
    head = request(SOCKET_PATH, *HANDSHAKE, "Upgrade: websocket", method="GET")
    got = replies(await exchange(port, [before + head + LAST]))
    assert [reply["path"] for _, reply in got] == ["/first", SOCKET_PATH, "/last"]


@pytest.mark.parametrize("offered", ["websocket", "WebSocket", "h2c, websocket", "websocket, h2c"])
@pytest.mark.parametrize("target", [SOCKET_PATH, f"http://y{SOCKET_PATH}"])
async def test_a_websocket_among_the_offers_is_taken(port: int, offered: str, target: str) -> None:
    head = request(target + "?a=b", *HANDSHAKE, f"Upgrade: {offered}", method="GET")
    ((_, said),) = replies(await exchange(port, [head]))
    assert (said["type"], said["query"]) == ("websocket", "a=b")
    assert said["headers"]["host"] == ("x" if target == SOCKET_PATH else "y")


@pytest.mark.parametrize(
    ("header", "status"),
    [(f"X: {'x' * 9000}", 431), ("Sec-WebSocket-Version: 12", 400), (KEY, 400)],
)
async def test_a_handshake_that_cannot_be_read_is_answered(
    port: int, header: str, status: int
) -> None:
    head = request(SOCKET_PATH, *HANDSHAKE, "Upgrade: websocket", header, method="GET")
    received = await exchange(port, [head])
    assert received.startswith(b"HTTP/1.1 %d " % status)


async def test_a_client_of_websockets_is_served(port: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        async with connect(f"ws://127.0.0.1:{port}{SOCKET_PATH}?accept", proxy=None) as client:
            assert json.loads(await client.recv())["path"] == SOCKET_PATH
