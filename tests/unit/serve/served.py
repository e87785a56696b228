"""A small application behind the real server, and raw sockets to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn

from orchestrator.serve.connections import Connections
from orchestrator.serve.http1 import BoundedHttp
from orchestrator.serve.server import GuardedServer
from orchestrator.settings import ServerSettings
from orchestrator.telemetry.instruments import Registry

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running server."""

    port: int
    guard: Connections
    registry: Registry

    def counted(self, name: str) -> dict[str, float]:
        """The series of a counter with one label."""
        families = [one for one in self.registry.collect() if one.spec.name == name]
        return {one.labels[0]: one.value for family in families for one in family.series}

    async def until(self, done: Callable[[], bool]) -> None:
        """Returns when `done`."""
        async with asyncio.timeout(TIMEOUT_S):
            while not done():  # noqa: ASYNC110  # nothing reports it
                await asyncio.sleep(0.05)

    async def ask(self, *parts: bytes, pause_s: float = 0.0, source: str = "127.0.0.1") -> bytes:
        """What comes back until the server closes."""
        return await ask(self.port, *parts, pause_s=pause_s, source=source)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """A connection from `source` that nobody reads from. To be closed."""
        return socket.create_connection(("127.0.0.1", self.port), 10, source_address=(source, 0))


async def ask(port: int, *parts: bytes, pause_s: float = 0.0, source: str = "127.0.0.1") -> bytes:
    """What comes back on a connection from `source` until the server closes."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        reading = asyncio.create_task(_read_all(reader))
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
        reply = await reading
        writer.close()
        return reply


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    """Also where it ends with a reset: it was closed while there was more to read."""
    received = b""
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            received += piece
    return received


@asynccontextmanager
async def serving(app: Any, settings: ServerSettings, **options: Any) -> AsyncIterator[Served]:
    """`app` behind the server, with `options` for it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(BoundedHttp, settings=settings)),
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    registry = Registry()
    server = GuardedServer(config, settings, registry, **options)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while server.guard is None:  # noqa: ASYNC110  # nothing reports it
                await asyncio.sleep(0.01)
        yield Served(listener.getsockname()[1], server.guard, registry)
    finally:
        server.should_exit = True
        async with asyncio.timeout(TIMEOUT_S):
            await running


def request(path: str, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
