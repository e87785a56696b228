"""HTTP/1.0: no chunks, connections that go on when asked, and no word before a reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.http.connection import CONNECTION
from orchestrator.settings import ServerSettings
from tests.unit.serve.served import TIMEOUT_S, Served, request, serving
from tests.unit.serve.test_http1 import app as other

UNSET = "Connection: keep-alive"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Replies of the kinds that the other application lacks."""
    match scope["path"]:
        case "/large":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(30):
                await scope[CONNECTION].piece(b"a" * 100_000)
            await send({"type": "http.response.body", "body": b""})
        case "/by-asgi":
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"ok"})
        case "/nothing":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        case _:
            await other(scope, receive, send)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(app, ServerSettings()) as one:
        yield one


@pytest.mark.parametrize("headers", [(), (UNSET,)], ids=["once", "keep-alive"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stream_is_no_chunks_and_ends_with_the_connection(
    served: Served, method: str, headers: tuple[str, ...]
) -> None:
    reply = await served.ask(request("/pieces", *headers, method=method, version="1.0"))
    head, _, body = reply.partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head
    assert b"keep-alive" not in head


async def test_a_stream_that_its_reader_holds_up_is_whole(served: Served) -> None:
    size = 3_000_000
    head = request("/large", version="1.0")
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.write(head)
        await asyncio.sleep(0.2)
        reply = await reader.read()
        writer.close()
    assert reply.endswith(b"\r\n\r\n" + b"a" * size)


@pytest.mark.parametrize("path", ["/whole", "/by-asgi"])
async def test_a_reply_of_known_length_leaves_the_connection_open_when_asked(
    served: Served, path: str
) -> None:
    ask = request(path, UNSET, "Content-Length: 3", version="1.0") + b"abc"
    last = request(path, "Content-Length: 3", version="1.0") + b"abc"
    reply = await served.ask(ask, last)
    assert reply.count(b"HTTP/1.1 200 ") == 2
    first, second = reply.split(b"HTTP/1.1 ")[1:]
    assert b"\r\nconnection: keep-alive\r\n" in first
    assert b"\r\nconnection: close\r\n" in second


async def test_a_reply_without_a_body_leaves_the_connection_open(served: Served) -> None:
    head = request("/pieces", UNSET, method="HEAD", version="1.0")
    none = request("/nothing", UNSET, version="1.0")
    reply = await served.ask(head, none, request("/nothing", version="1.0"))
    assert reply.count(b"HTTP/1.1 200 ") == 1
    assert reply.count(b"HTTP/1.1 204 ") == 2
    assert reply.count(b"connection: keep-alive") == 2


async def test_an_expectation_is_not_answered(served: Served) -> None:
    ask = request("/", "Content-Length: 2", "Expect: 100-continue", version="1.0") + b"ab"
    reply = await served.ask(ask)
    assert b" 100 " not in reply
    assert reply.endswith(b"\r\n\r\n2 bytes")
