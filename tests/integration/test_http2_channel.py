"""Our HTTP/2 against the real gRPC server library, over a unix socket and over TCP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from orchestrator.triton.grpc_aio import GrpcAioChannel
from orchestrator.triton.http2 import Http2Channel, frames
from orchestrator.triton.transport import SERVICE, RpcFailed, Status, Transport
from tests.integration.serving import free_port

TIMEOUT_S = 60.0


class Echo:
    """A service that answers as its request says, and remembers what it saw."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.metadata.append(dict(context.invocation_metadata()))
        self.called.set()
        if request.startswith(b"fail"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: é %")
        if request.startswith(b"hang"):
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled.set()
        return request

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        count, size = (int(part) for part in request.split())
        try:
            for number in range(count):
                yield b"%d:" % number + bytes(size)
        finally:
            if context.cancelled():
                self.cancelled.set()


@asynccontextmanager
async def echo(address: str) -> AsyncIterator[Echo]:
    service = Echo()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(service.unary),
        "Stream": grpc.unary_stream_rpc_method_handler(service.stream),
    }
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    name = SERVICE.strip("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    assert server.add_insecure_port(address)
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s" if request.param == "unix" else f"127.0.0.1:{free_port()}"


@pytest.fixture
async def channel(address: str) -> AsyncIterator[Http2Channel]:
    channel = Http2Channel(address)
    yield channel
    await channel.close()


class Listener:
    """The messages of one streaming call, and its end."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ended: asyncio.Future[Status] = asyncio.get_running_loop().create_future()

    def start(self, channel: Http2Channel, request: bytes, timeout_s: float = TIMEOUT_S) -> Any:
        return channel.start(
            "Stream",
            request,
            metadata=(),
            timeout_s=timeout_s,
            on_message=self.messages.append,
            on_end=self.ended.set_result,
        )


def unary(channel: Transport, request: bytes, timeout_s: float = TIMEOUT_S) -> Any:
    return channel.unary("Unary", request, metadata=[("x-trace", "abc")], timeout_s=timeout_s)


async def test_a_call_brings_its_answer_and_carries_its_metadata(
    address: str, channel: Http2Channel
) -> None:
    async with echo(address) as service:
        assert await unary(channel, b"hello") == b"hello"
        assert service.metadata[0]["x-trace"] == "abc"


async def test_the_grpc_library_asks_no_proxy_either(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    channel = GrpcAioChannel(address)
    try:
        async with echo(address):
            assert await unary(channel, b"hello") == b"hello"
    finally:
        await channel.close()


async def test_long_messages_go_through_the_windows_both_ways(
    address: str, channel: Http2Channel
) -> None:
    body = bytes(range(256)) * 40_000
    async with echo(address):
        answers = await asyncio.gather(*(unary(channel, body) for _ in range(3)))
    assert answers == [body] * 3


async def test_streams_run_side_by_side_and_end_well(address: str, channel: Http2Channel) -> None:
    async with echo(address):
        listeners = [Listener() for _ in range(150)]
        for listener in listeners:
            listener.start(channel, b"40 100")
        assert {(await one.ended).code for one in listeners} == {0}
    wanted = [b"%d:" % number + bytes(100) for number in range(40)]
    assert all(one.messages == wanted for one in listeners)


async def test_an_error_has_its_status_and_its_words(address: str, channel: Http2Channel) -> None:
    async with echo(address):
        with pytest.raises(RpcFailed) as caught:
            await unary(channel, b"fail")
    assert caught.value.status == Status(5, "no such thing: é %")


async def test_a_method_that_is_not_there_is_unimplemented(
    address: str, channel: Http2Channel
) -> None:
    async with echo(address):
        with pytest.raises(RpcFailed) as caught:
            await channel.unary("Missing", b"", metadata=(), timeout_s=TIMEOUT_S)
    assert caught.value.status.code == 12


async def test_a_cancelled_call_is_cut_on_the_servers_side(
    address: str, channel: Http2Channel
) -> None:
    async with echo(address) as service:
        call = asyncio.ensure_future(unary(channel, b"hang"))
        await service.called.wait()
        call.cancel()
        await asyncio.wait_for(service.cancelled.wait(), TIMEOUT_S)
        assert await unary(channel, b"still here") == b"still here"


async def test_a_deadline_ends_the_call(address: str, channel: Http2Channel) -> None:
    async with echo(address):
        with pytest.raises(RpcFailed) as caught:
            await unary(channel, b"hang", timeout_s=0.2)
    assert caught.value.status.code == 4


async def test_nobody_there_is_unavailable_and_a_later_call_connects(
    address: str, channel: Http2Channel
) -> None:
    with pytest.raises(RpcFailed) as caught:
        await unary(channel, b"hello")
    assert caught.value.status.code == 14
    async with echo(address):
        assert await unary(channel, b"hello") == b"hello"


async def test_a_channel_that_never_connected_closes_well(address: str) -> None:
    channel = Http2Channel(address)
    with pytest.raises(RpcFailed):
        await unary(channel, b"hello")
    await channel.close()


async def test_a_server_that_goes_away_ends_its_calls_and_its_successor_is_found(
    address: str, channel: Http2Channel
) -> None:
    async with echo(address):
        waiting = asyncio.ensure_future(unary(channel, b"hang"))
        assert await unary(channel, b"hello") == b"hello"
    with pytest.raises(RpcFailed) as caught:
        await waiting
    assert caught.value.status.code in {1, 14}
    async with echo(address):
        assert await unary(channel, b"again") == b"again"


async def test_a_closed_channel_ends_what_is_on_it_and_takes_nothing_more(address: str) -> None:
    channel = Http2Channel(address)
    async with echo(address):
        waiting = asyncio.ensure_future(unary(channel, b"hang"))
        assert await unary(channel, b"hello") == b"hello"
        await channel.close()
        for call in (waiting, unary(channel, b"late")):
            with pytest.raises(RpcFailed) as caught:
                await call
            assert caught.value.status.code == 1


async def test_a_peer_that_speaks_no_http2_fails_the_call(
    address: str, channel: Http2Channel
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        await reader.read()

    async with listening(address, speak):
        with pytest.raises(RpcFailed) as caught:
            await unary(channel, b"hello")
    assert caught.value.status.code == 14


async def test_a_peer_that_falls_silent_is_given_up(address: str) -> None:
    channel = Http2Channel(address, keepalive_s=0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.read()

    async with listening(address, silent):
        with pytest.raises(RpcFailed) as caught:
            await unary(channel, b"hello")
    assert caught.value.status.code == 14
    await channel.close()


@asynccontextmanager
async def listening(address: str, speak: Callable[..., Any]) -> AsyncIterator[None]:
    """A server of ours that speaks to each peer until that one goes."""

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await speak(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    if address.startswith("unix:"):
        server = await asyncio.start_unix_server(whole, address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        server = await asyncio.start_server(whole, host, int(port))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def test_a_peer_that_does_not_read_holds_no_close_up() -> None:
    greeting = frames.settings([(frames.INITIAL_WINDOW_SIZE, frames.LARGEST_WINDOW)])
    connected = asyncio.Event()
    over = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(greeting + frames.window_update(0, 2**30))
        connected.set()
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, asyncio.timeout(TIMEOUT_S):
        channel = Http2Channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        first = asyncio.create_task(
            channel.unary("Unary", bytes(2**26), metadata=(), timeout_s=TIMEOUT_S)
        )
        await connected.wait()
        with pytest.raises(RpcFailed):
            # Its window is known by the time that this is over.
            await channel.unary("Unary", b"", metadata=(), timeout_s=0.2)
        await channel.close()
        with pytest.raises(RpcFailed):
            await first
        over.set()


async def test_an_address_that_cannot_be_is_unavailable() -> None:
    channel = Http2Channel("127.0.0.1:99999")
    for _ in range(2):
        with pytest.raises(RpcFailed) as caught:
            await channel.unary("Unary", b"", metadata=(), timeout_s=TIMEOUT_S)
        assert caught.value.status.code == 14
    await channel.close()
