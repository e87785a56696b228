"""An application that says what it was asked, behind our own server on a real port."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import orjson
import uvicorn

from orchestrator.serve.http1 import BoundedHttp
from orchestrator.serve.peers import TrustedProxies
from orchestrator.serve.websockets import DrainingWebSocket

TIMEOUT_S = 60.0
PROXY = "127.0.0.2"
"""The one address of the loopback that is trusted."""
SOCKET_PATH = "/socket"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


async def told(scope: Any, receive: Any, send: Any) -> None:
    """Answers a request with what there is in its scope and body.

    So it does for a WebSocket, which is refused over HTTP, but for one that asks to be accepted.
    """
    if scope["type"] == "websocket":
        await receive()
        reply = orjson.dumps(_seen(scope))
        if scope["query_string"] == b"accept":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": reply.decode()})
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.http.response.start", "status": 200})
        await send({"type": "websocket.http.response.body", "body": reply})
        return
    body, more = b"", scope["path"] != "/unread"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/early":
            break
    reply = orjson.dumps({**_seen(scope), "body": body.decode("latin-1")})
    headers = [(b"content-length", b"%d" % len(reply))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply})


def _seen(scope: Any) -> dict[str, Any]:
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    kept = ("type", "client", "scheme", "path")
    query = scope["query_string"].decode()
    return {**{name: scope[name] for name in kept}, "query": query, "headers": headers}


@asynccontextmanager
async def raw_port(proxies: Sequence[str] = (PROXY,)) -> AsyncIterator[int]:
    """The port of a server that runs until the end of the block."""
    listener = socket.create_server(("0.0.0.0", 0))
    http = partial(BoundedHttp, proxies=TrustedProxies(proxies), socket_paths={SOCKET_PATH})
    config = uvicorn.Config(
        told,
        http=cast("type[asyncio.Protocol]", http),
        ws=DrainingWebSocket,
        lifespan="off",
        log_config=None,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    async with asyncio.timeout(TIMEOUT_S):
        await running


def request(target: str, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    """The head of a request."""
    lines = [f"{method} {target} HTTP/{version}", "Host: x", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"


LAST = request("/last", "Connection: close", method="GET")
"""After the reply to it the server closes."""


async def exchange(port: int, parts: Sequence[bytes], peer: str = "127.0.0.1") -> bytes:
    """What comes back for `parts` until the server closes; each is a write of its own."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(peer, 0))
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            return await rest(reader)
        finally:
            writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes, which it may do while there is more for it to read."""
    received = b""
    try:
        while piece := await reader.read(65_536):
            received += piece
    except ConnectionError:
        pass
    return received


def replies(received: bytes) -> list[tuple[int, Any]]:
    """Status and body of each whole reply; all that was received must be such."""
    found = []
    while received:
        if received.startswith(b"HTTP/1.1 100 "):
            received = received.partition(b"\r\n\r\n")[2]
            continue
        head, end, rest = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        assert end
        assert length is not None
        size = int(length[1])
        assert len(rest) >= size, received
        found.append((int(head[9:12]), orjson.loads(rest[:size])))
        received = rest[size:]
    return found
