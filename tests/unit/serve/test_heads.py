"""Heads and bodies that two readers could read in two ways: one reading, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.serve.odd_requests import BROKEN_CHUNKS, REFUSED
from tests.unit.serve.raw_port import LAST, TIMEOUT_S, exchange, raw_port, replies, request, rest

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    async with raw_port() as number:
        yield number


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
async def test_what_can_be_read_in_two_ways_is_refused(port: int, name: str, offer: bytes) -> None:
    head, end, body = REFUSED[name].partition(b"\r\n\r\n")
    bad = head + (b"\r\n" + offer.removesuffix(b"\r\n") if offer and end else b"") + end + body
    before = request("/before", "Content-Length: 3") + b"abc"
    got = replies(await exchange(port, [before + bad + HIDDEN + LAST]))
    assert [reply.get("path") for _, reply in got] == ["/before", None]
    assert got[1][0] in (400, 405, 501, 505)
    assert got[1][1]["error"]["message"]


@pytest.mark.parametrize(
    ("path", "member", "value"),
    [
        ("/v1beta/models", "code", 501),
        ("/v1/messages", "type", "invalid_request_error"),
        ("/v1/chat/completions", "code", "invalid_request"),
    ],
)
async def test_a_refusal_is_in_the_words_of_the_dialect(
    port: int, path: str, member: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    received = await exchange(port, [request(path, "Transfer-Encoding: gzip, chunked")])
    ((status, reply),) = replies(received)
    assert status == 501
    assert reply["error"][member] == value
    request_id = received.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    assert f"request {request_id} was refused" in caplog.text


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
@pytest.mark.parametrize("path", ["/first", "/early"])
async def test_after_a_broken_chunk_nothing_is_read(port: int, name: str, path: str) -> None:
    bad = request(path, "Transfer-Encoding: chunked") + BROKEN_CHUNKS[name]
    got = replies(await exchange(port, [LAST.replace(b"close", b"x"), bad + HIDDEN + LAST]))
    assert got[0][1]["path"] == "/last"
    # It may have been answered before the rest of its body came, and has no second reply then.
    assert len(got) == 2
    assert got[1][0] == 400


async def test_a_chunk_that_breaks_after_the_reply_closes(port: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/early", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        received = await reader.readuntil(b'"body":"abc"}')
        writer.write(b"x\r\n" + HIDDEN)
        received += await rest(reader)
        writer.close()
    ((status, reply),) = replies(received)
    assert (status, reply["path"]) == (200, "/early")


VALID = {
    "extensions": b"3;a=b;c\r\nabc\r\n0;d\r\n\r\n",
    "a trailer": b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    "an offer in a trailer": b"3\r\nabc\r\n0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "capitals and zeros": b"00A\r\n0123456789\r\n000\r\n\r\n",
}


@pytest.mark.parametrize("name", VALID)
async def test_what_is_rare_and_valid_is_read(port: int, name: str) -> None:
    first = request("/first", "Transfer-Encoding: Chunked") + VALID[name]
    got = replies(await exchange(port, [b"\r\n\r\n" + first + b"\r\n" + LAST]))
    assert [reply["path"] for _, reply in got] == ["/first", "/last"]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://y:81/first?a", "/first", "a"),
        ("HTTPS://y:81?a", "/", "a"),
        ("http://y:81", "/", ""),
    ],
)
async def test_the_host_of_the_target_counts(port: int, target: str, path: str, query: str) -> None:
    reply = replies(await exchange(port, [request(target, method="GET") + LAST]))[0][1]
    assert (reply["path"], reply["query"]) == (path, query)
    assert reply["headers"]["host"] == "y:81"
    without = request(target, method="GET").replace(b"Host: x\r\n", b"")
    assert replies(await exchange(port, [without + LAST]))[0][0] == 200


@pytest.mark.parametrize("path", ["/first", "/early"])
async def test_an_end_that_a_trailer_asks_for_is_one(port: int, path: str) -> None:
    head = request(path, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n"
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        if path == "/early":
            await reader.readuntil(b'"body":"abc"}')
        writer.write(b"0\r\nConnection: close\r\n\r\n" + HIDDEN)
        received = await rest(reader)
        writer.close()
    assert b"hidden" not in received


async def test_a_body_that_may_or_may_not_come_is_not_waited_for(port: int) -> None:
    head = request("/unread", "Content-Length: 33", "Expect: 100-continue")
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        received = await reader.readuntil(b'"body":""}')
        writer.write(HIDDEN)
        received += await rest(reader)
        writer.close()
    assert b"\r\nconnection: close\r\n" in received
    assert len(replies(received)) == 1
