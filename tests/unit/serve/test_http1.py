"""HTTP/1.1 through a real port: heads that are too long, and the ways beside ASGI."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from orchestrator.serve.http1 import MOST_HEAD_BYTES, BoundedHttp
from orchestrator.wire.connection import CONNECTION, Connection

TIMEOUT_S = 30.0
BEGUN = b"POST / HTTP/1.1\r\nHost: x\r\n"
NEWS: list[asyncio.Queue[str]] = []
"""Of the request whose client leaves."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body, or by the ways beside ASGI."""
    connection: Connection = scope[CONNECTION]
    match scope["path"]:
        case "/whole":
            body = connection.whole_body()
            if body is None:
                body = b"waited for " + (await receive())["body"]
            await connection.reply(200, [(b"content-length", b"%d" % len(body))], body)
        case "/pieces":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in (b"ab", b"", b"c"):
                await connection.piece(piece)
            await send({"type": "http.response.body", "body": b""})
        case "/forged":
            await connection.reply(200, [(b"x", b"a\r\nb: c"), (b"content-length", b"0")], b"")
        case "/client":
            body = scope["client"][0].encode()
            await connection.reply(200, [(b"content-length", b"%d" % len(body))], body)
        case "/left":
            gone = asyncio.Event()
            connection.on_left(gone.set)
            NEWS[-1].put_nowait("waits")
            await gone.wait()
            NEWS[-1].put_nowait("left")
        case _:
            await _count(receive, send)


async def _count(receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d bytes" % size})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=1,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    async with asyncio.timeout(TIMEOUT_S):
        await running


async def _answer(port: int, parts: list[bytes]) -> bytes:
    """What comes back until the server closes."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
        except ConnectionError:
            # It was closed while there was more to read.
            return b""
        finally:
            writer.close()


@pytest.mark.parametrize("part", [b"a" * 65_536, b"X: y\r\n" * 10_000], ids=["one", "many"])
async def test_a_head_without_end_is_given_up(port: int, part: bytes) -> None:
    begun = BEGUN if part.startswith(b"X") else BEGUN + b"X: "
    reply = await _answer(port, [begun, *[part] * 400])
    assert reply == b"" or reply.startswith(b"HTTP/1.1 400 ")


async def test_bodies_are_no_heads_whatever_their_size(port: int) -> None:
    size = 3 * MOST_HEAD_BYTES
    head = b"%sContent-Length: %d\r\n" % (BEGUN, size)
    whole = [head, b"\r\n", *[b"a" * 65_536] * (size // 65_536)]
    last = [head, b"Connection: close\r\n\r\n", *[b"a" * 65_536] * (size // 65_536)]
    reply = await _answer(port, whole + last)
    assert reply.count(b"%d bytes" % size) == 2


def _request(path: str, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


async def test_whole_replies_follow_each_other_on_one_connection(port: int) -> None:
    first = _request("/whole", "Content-Length: 3") + b"abc"
    last = _request("/whole", "Content-Length: 2", "Connection: close") + b"de"
    # The second and the third are there before the first is answered.
    reply = await _answer(port, [first + first + last])
    assert reply.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert reply.count(b"\r\ncontent-length: 3\r\n\r\nabc") == 2
    assert reply.endswith(b"\r\ncontent-length: 2\r\nconnection: close\r\n\r\nde")


async def test_what_is_not_of_today_closes_after_its_reply(port: int) -> None:
    reply = await _answer(port, [_request("/whole", version="1.0")])
    assert reply.endswith(b"connection: close\r\n\r\n")


async def test_a_reply_to_head_has_no_body(port: int) -> None:
    reply = await _answer(port, [_request("/client", "Connection: close", method="HEAD")])
    assert b"\r\ncontent-length: 9\r\n" in reply
    assert reply.endswith(b"\r\n\r\n")


async def test_a_body_on_its_way_is_left_to_asgi(port: int) -> None:
    head = _request("/whole", "Content-Length: 2", "Expect: 100-continue", "Connection: close")
    reply = await _answer(port, [head, b"ab"])
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"waited for ab")


async def test_pieces_are_chunks_and_nothing_is_no_end(port: int) -> None:
    reply = await _answer(port, [_request("/pieces", "Connection: close")])
    assert reply.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")


async def test_a_header_cannot_be_forged(port: int) -> None:
    reply = await _answer(port, [_request("/forged", "Connection: close")])
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert b"\r\nb: c" not in reply


async def test_an_idle_connection_is_closed_after_its_last_reply(port: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            writer.write(_request("/client"))
            await reader.readuntil(b"127.0.0.1")
            last_at = loop.time()
            await asyncio.sleep(0.5)
        await reader.read()
        writer.close()
    assert loop.time() - last_at > 0.9


async def test_a_request_is_told_when_its_client_leaves(port: int) -> None:
    NEWS.append(asyncio.Queue())
    async with asyncio.timeout(TIMEOUT_S):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request("/left"))
        assert await NEWS[-1].get() == "waits"
        writer.close()
        assert await NEWS[-1].get() == "left"
