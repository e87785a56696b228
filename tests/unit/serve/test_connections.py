"""How long a connection may wait for its client, and how many there may be."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from orchestrator.http.connection import CONNECTION, Connection
from orchestrator.serve.connections import Limits, _peer
from orchestrator.settings import ServerSettings
from tests.unit.serve.served import Served, request, serving

CLOSED = "orchestrator.connections.closed"
REFUSED = "orchestrator.connections.refused"
QUICK = ServerSettings(
    first_byte_timeout_s=1,
    head_timeout_s=1,
    keep_alive_s=1,
    linger_s=1,
    send_timeout_s=1,
    send_rate_bytes=1000,
    body_timeout_s=30,
)
PATIENT = ServerSettings(max_connections=32, max_connections_per_peer=40)
BIG = b"x" * 262_144


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers by its path."""
    connection: Connection = scope[CONNECTION]
    match scope["path"]:
        case "/early":
            # As where a key is refused: the body is not read.
            await connection.reply(401, [(b"content-length", b"2")], b"no")
        case "/early-asgi":
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"no"})
        case "/large":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100):
                await connection.piece(BIG)
            await send({"type": "http.response.body", "body": b""})
        case "/hangs":
            gone = asyncio.Event()
            connection.on_left(gone.set)
            await gone.wait()
        case _:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            await connection.reply(200, [(b"content-length", b"%d" % len(body))], body)


async def test_a_silent_connection_is_closed() -> None:
    async with serving(app, QUICK) as served:
        assert await served.ask() == b""
        assert served.counted(CLOSED) == {"first_byte": 1.0}
        assert len(served.guard) == 0


@pytest.mark.parametrize("before", [b"", request("/", "Content-Length: 0")])
async def test_a_head_that_drips_is_answered_and_closed(before: bytes) -> None:
    drops = [bytes([byte]) for byte in b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 500]
    async with serving(app, QUICK) as served:
        reply = await served.ask(before, *drops, pause_s=0.05)
        assert reply.count(b"HTTP/1.1 408 ") == 1
        assert b"within 1 s" in reply
        assert served.counted(CLOSED)["head"] == 1.0
        await served.until(lambda: len(served.guard) == 0)


async def test_an_idle_connection_is_closed() -> None:
    async with serving(app, QUICK) as served:
        assert (await served.ask(request("/", "Content-Length: 0"))).startswith(b"HTTP/1.1 200 ")
        assert served.counted(CLOSED) == {"next_request": 1.0}


@pytest.mark.parametrize("pipelined", [1, 20])
async def test_a_client_that_reads_nothing_is_closed(pipelined: int) -> None:
    async with serving(app, QUICK) as served:
        with served.connect() as connection:
            connection.sendall(request("/large", method="GET") * pipelined)
            await served.until(lambda: served.counted(CLOSED) == {"reader": 1.0})
            await served.until(lambda: len(served.guard) == 0)


async def test_a_slow_reader_has_its_whole_reply() -> None:
    async with serving(app, QUICK) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=65_536)
        writer.write(request("/large", "Connection: close", method="GET"))
        size = 0
        while piece := await reader.read(262_144):
            size += len(piece)
            await asyncio.sleep(0.02)
        writer.close()
        assert size > 100 * len(BIG)
        assert served.counted(CLOSED) == {}


@pytest.mark.parametrize("path", ["/early", "/early-asgi"])
async def test_after_a_reply_before_the_body_nothing_is_read_as_a_request(path: str) -> None:
    head = request(path, "Content-Length: 1000")
    async with serving(app, QUICK) as served:
        reply = await served.ask(head, request("/", "Content-Length: 0"), b"x", pause_s=0.3)
        assert reply.count(b"HTTP/1.1 ") == 1
        assert b"connection: close\r\n" in reply
        with served.connect() as connection:
            connection.sendall(head)
            # Our side is closed with the reply; the other one is not waited for without end.
            await served.until(lambda: served.counted(CLOSED).get("linger") == 1.0)
            await served.until(lambda: len(served.guard) == 0)


async def test_a_reply_before_a_large_body_reaches_its_client() -> None:
    patient = ServerSettings()
    async with serving(app, patient) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request("/early", f"Content-Length: {60 * len(BIG)}"))
        for _ in range(60):
            writer.write(BIG)
            await writer.drain()
        assert (await reader.read()).endswith(b"no")
        writer.close()


async def test_a_body_that_never_ends_is_not_dropped_without_end() -> None:
    async with serving(app, ServerSettings(linger_s=3600)) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request("/early", "Transfer-Encoding: chunked"))
        with suppress(ConnectionError):
            while True:
                writer.write(b"40000\r\n" + BIG + b"\r\n")
                await writer.drain()
        await served.until(lambda: len(served.guard) == 0)
        writer.close()


async def test_silent_connections_make_way(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(app, PATIENT) as served:
        with ExitStack() as bad:
            for _ in range(10):
                for _ in range(10):
                    bad.enter_context(served.connect())
                await asyncio.sleep(0.05)
            await served.until(lambda: served.counted(CLOSED).get("place", 0) >= 60)
            for _ in range(20):
                head = request("/", "Content-Length: 2", "Connection: close")
                assert (await served.ask(head + b"ab")).endswith(b"ab")
            assert len(served.guard) <= 32
    assert served.counted(REFUSED) == {}
    assert caplog.messages == []


async def fill(served: Served, stack: ExitStack, source: str, count: int) -> None:
    """Takes `count` places with requests at work."""
    before = len(served.guard)
    for _ in range(count):
        stack.enter_context(served.connect(source)).sendall(request("/hangs", method="GET"))
    await served.until(lambda: len(served.guard) == before + count)
    await asyncio.sleep(0.2)


async def test_where_all_places_are_at_work_the_next_is_refused_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(app, PATIENT) as served:
        with ExitStack() as busy:
            await fill(served, busy, "127.0.0.1", 32)
            for _ in range(5):
                reply = await served.ask(request("/", "Content-Length: 0"))
                assert reply == b"" or reply.startswith(b"HTTP/1.1 503 ")
            assert served.counted(REFUSED) == {"all": 5.0}
            assert len([line for line in caplog.messages if "no place" in line]) == 1
        await served.until(lambda: len(served.guard) == 0)
        head = request("/", "Content-Length: 0", "Connection: close")
        assert (await served.ask(head)).startswith(b"HTTP/1.1 200 ")


async def test_one_peer_cannot_take_all_places() -> None:
    settings = ServerSettings(max_connections=30)
    async with serving(app, settings) as served:
        with ExitStack() as busy:
            await fill(served, busy, "127.0.0.2", 15)
            head = request("/", "Content-Length: 0", "Connection: close")
            assert not (await served.ask(head, source="127.0.0.2")).startswith(b"HTTP/1.1 200 ")
            assert (await served.ask(head)).startswith(b"HTTP/1.1 200 ")
            assert served.counted(REFUSED) == {"peer": 1.0}


async def test_a_trusted_proxy_is_bound_by_no_share() -> None:
    settings = ServerSettings(max_connections=30)
    async with serving(app, settings, is_proxy=lambda address: address == "127.0.0.2") as served:
        with ExitStack() as busy:
            await fill(served, busy, "127.0.0.2", 20)
            assert served.counted(REFUSED) == {}


async def test_a_body_that_stands_still_gives_its_place_up() -> None:
    async with serving(app, PATIENT) as served:
        with ExitStack() as bad:
            for _ in range(32):
                bad.enter_context(served.connect()).sendall(
                    request("/", "Content-Length: 100") + b"x"
                )
            await served.until(lambda: len(served.guard) == 32)
            head = request("/", "Content-Length: 0", "Connection: close")

            async def is_answered() -> bool:
                return (await served.ask(head)).startswith(b"HTTP/1.1 200 ")

            while not await is_answered():  # noqa: ASYNC110  # as a client would
                await asyncio.sleep(0.3)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
    ],
)
def test_whose_share_an_address_counts_for(address: str, peer: str) -> None:
    assert _peer(address) == peer


def test_half_of_all_places_are_one_peers_by_default() -> None:
    assert Limits.of(ServerSettings(), 100).most_per_peer == 50
    assert Limits.of(ServerSettings(max_connections_per_peer=7), 100).most_per_peer == 7


@pytest.mark.parametrize(
    ("limit", "wanted", "least", "most"),
    [(256, 0, 100, 200), (64, 0, 16, 16), (256, 1000, 100, 200), (256, 40, 40, 40)],
)
def test_descriptors_are_kept_for_more_than_connections(
    limit: int, wanted: int, least: int, most: int
) -> None:
    code = (
        "import resource; from orchestrator.serve.descriptors import *;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit // 2}, {limit})); raise_limit();"
        f"print(most_connections({wanted}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert least <= int(ran.stdout) <= most
    assert ("RLIMIT_NOFILE" in ran.stderr) == (wanted == 1000)
