"""HTTP/1.1 through a real port: heads that are too long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from orchestrator.serve.http1 import MOST_HEAD_BYTES, BoundedHttp

TIMEOUT_S = 30.0
BEGUN = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d bytes" % size})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=BoundedHttp, ws="none", lifespan="off", log_config=None)
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
