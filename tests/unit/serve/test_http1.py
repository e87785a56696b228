"""HTTP/1.1 through a real port: heads that are too long, and the ways beside ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.http.connection import CONNECTION, Connection
from orchestrator.serve.http1 import MAX_PIPELINED
from orchestrator.settings import ServerSettings
from tests.unit.serve.served import TIMEOUT_S, ask, request, serving

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
    async with serving(app, ServerSettings(keep_alive_s=1)) as served:
        yield served.port


async def _answer(port: int, parts: list[bytes]) -> bytes:
    return await ask(port, *parts)


@pytest.mark.parametrize("part", [b"a" * 65_536, b"X: y\r\n" * 10_000], ids=["one", "many"])
async def test_a_head_without_end_is_given_up(port: int, part: bytes) -> None:
    begun = BEGUN if part.startswith(b"X") else BEGUN + b"X: "
    reply = await _answer(port, [begun, *[part] * 400])
    assert reply == b"" or reply.startswith(b"HTTP/1.1 431 ")


async def test_bodies_are_no_heads_whatever_their_size(port: int) -> None:
    size = 3 * 1024 * 1024
    head = b"%sContent-Length: %d\r\n" % (BEGUN, size)
    whole = [head, b"\r\n", *[b"a" * 65_536] * (size // 65_536)]
    last = [head, b"Connection: close\r\n\r\n", *[b"a" * 65_536] * (size // 65_536)]
    reply = await _answer(port, whole + last)
    assert reply.count(b"%d bytes" % size) == 2


async def test_whole_replies_follow_each_other_on_one_connection(port: int) -> None:
    first = request("/whole", "Content-Length: 3") + b"abc"
    last = request("/whole", "Content-Length: 2", "Connection: close") + b"de"
    # The second and the third are there before the first is answered.
    reply = await _answer(port, [first + first + last])
    assert reply.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert reply.count(b"\r\ncontent-length: 3\r\n\r\nabc") == 2
    assert reply.endswith(b"\r\ncontent-length: 2\r\nconnection: close\r\n\r\nde")


async def test_what_is_not_of_today_closes_after_its_reply(port: int) -> None:
    reply = await _answer(port, [request("/whole", version="1.0")])
    assert reply.endswith(b"connection: close\r\n\r\n")


async def test_a_reply_to_head_has_no_body(port: int) -> None:
    reply = await _answer(port, [request("/client", "Connection: close", method="HEAD")])
    assert b"\r\ncontent-length: 9\r\n" in reply
    assert reply.endswith(b"\r\n\r\n")


async def test_a_body_on_its_way_is_left_to_asgi(port: int) -> None:
    head = request("/whole", "Content-Length: 2", "Expect: 100-continue", "Connection: close")
    reply = await _answer(port, [head, b"ab"])
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"waited for ab")


async def test_pieces_are_chunks_and_nothing_is_no_end(port: int) -> None:
    reply = await _answer(port, [request("/pieces", "Connection: close")])
    assert reply.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")


async def test_a_header_cannot_be_forged(port: int) -> None:
    reply = await _answer(port, [request("/forged", "Connection: close")])
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert b"\r\nb: c" not in reply


async def test_an_idle_connection_is_closed_after_its_last_reply(port: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            writer.write(request("/client"))
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
        writer.write(request("/left"))
        assert await NEWS[-1].get() == "waits"
        writer.close()
        assert await NEWS[-1].get() == "left"


async def test_a_header_too_many_is_refused_in_the_first_read(port: int) -> None:
    lines = [f"X-{number}: y" for number in range(127)]
    good = request("/client", *lines, method="GET")
    reply = await _answer(port, [good, request("/client", *lines, "X: y", method="GET")])
    assert reply.count(b"HTTP/1.1 200 ") == 1
    assert reply.count(b"HTTP/1.1 431 ") == 1
    assert b"65536 bytes and 128 headers" in reply


async def test_a_head_too_large_is_refused_in_the_first_read(port: int) -> None:
    reply = await _answer(port, [request("/client", "X: " + "a" * 65_536, method="GET")])
    assert reply.startswith(b"HTTP/1.1 431 ")


async def test_a_large_body_and_the_next_head_in_one_read_are_no_large_head(port: int) -> None:
    size = 500_000
    one = request("/", f"Content-Length: {size}") + b"a" * size
    last = request("/client", "X: " + "a" * 60_000, "Connection: close")
    reply = await _answer(port, [one + one + last])
    assert reply.count(b"%d bytes" % size) == 2
    assert reply.endswith(b"127.0.0.1")


CHUNKED = request("/", "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "parts",
    [
        [b"2\r\nab\r\n0\r\n", *[b"X: y\r\n" * 1000] * 100],
        [b"2\r\nab\r\n0\r\nX: ", *[b"a" * 4096] * 200],
        [b"2;x=", *[b"a" * 4096] * 200],
    ],
    ids=["trailers", "one trailer", "a chunk's extension"],
)
async def test_nothing_around_a_body_is_without_end(port: int, parts: list[bytes]) -> None:
    reply = await _answer(port, [CHUNKED, *parts])
    assert reply.startswith(b"HTTP/1.1 431 ")
    assert reply.count(b"HTTP/1.1 ") == 1


async def test_small_chunks_and_trailers_are_read(port: int) -> None:
    body = b"1\r\na\r\n" * 50_000 + b"0\r\nX: y\r\n\r\n"
    reply = await _answer(port, [CHUNKED + body, request("/client", "Connection: close")])
    assert b"50000 bytes" in reply
    assert reply.endswith(b"127.0.0.1")


async def test_requests_that_wait_for_others_are_bounded(port: int) -> None:
    reply = await _answer(port, [request("/client", method="GET") * (MAX_PIPELINED + 200)])
    assert reply.count(b"HTTP/1.1 200 ") == MAX_PIPELINED + 1
    assert reply.count(b"HTTP/1.1 400 ") == 1
    assert b"128 requests at most" in reply


@pytest.mark.parametrize("bad", [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"G\x00"])
async def test_what_is_no_request_is_answered_after_those_before_it(port: int, bad: bytes) -> None:
    reply = await _answer(port, [request("/pieces", method="GET") + bad + request("/client")])
    first, _, second = reply.partition(b"0\r\n\r\n")
    assert first.count(b"HTTP/1.1 ") == 1
    assert second.startswith(b"HTTP/1.1 400 ")
    assert second.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in second


async def test_a_body_that_cannot_be_read_ends_its_request(port: int) -> None:
    reply = await _answer(port, [CHUNKED, b"2\r\nab\r\nnot a size\r\n"])
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1 ") == 1
