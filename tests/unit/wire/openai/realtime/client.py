"""A client of the application's WebSockets in this process, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from tests.wire.harness import KEY

TIMEOUT_S = 60.0
HELLO = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}


class SocketClient:
    """One upgrade, and the socket after it. `close` notes the code and reason of its end."""

    def __init__(
        self,
        app: FastAPI,
        *,
        path: str = "/v1/realtime",
        query: bytes = b"model=acme/chat",
        key: str | None = KEY,
        headers: Sequence[tuple[bytes, bytes]] = (),
        subprotocols: Sequence[str] = (),
    ) -> None:
        bearer = [(b"authorization", b"Bearer " + key.encode())] if key else []
        self._scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": [*bearer, *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "subprotocols": list(subprotocols),
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._in.put_nowait({"type": "websocket.connect"})
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = False
        self.running = asyncio.create_task(self._run(app))

    async def _run(self, app: FastAPI) -> None:
        await app(self._scope, self._in.get, self._keep)

    async def _keep(self, message: Any) -> None:
        await self.reads.wait()
        if self.gone:
            raise OSError("the client is gone")
        self._out.put_nowait(dict(message))

    @property
    def unread(self) -> int:
        """How many messages wait to be looked at."""
        return self._out.qsize()

    async def message(self) -> dict[str, Any]:
        """The next ASGI message that came."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self._out.get()

    async def event(self) -> dict[str, Any]:
        """The next event that came."""
        message = await self.message()
        assert message["type"] == "websocket.send", message
        made: dict[str, Any] = json.loads(message["text"])
        return made

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """The events up to the next one of that type."""
        events = [await self.event()]
        while events[-1]["type"] != kind:
            events.append(await self.event())
        return events

    def send(self, event: Any) -> None:
        """Sends an event, or text as it is."""
        text = event if isinstance(event, str) else json.dumps(event)
        self._in.put_nowait({"type": "websocket.receive", "text": text})

    def put(self, message: dict[str, Any]) -> None:
        """Gives the application an ASGI message."""
        self._in.put_nowait(message)

    async def ask(self, event: Any) -> dict[str, Any]:
        """Sends an event; the one that answers it."""
        self.send(event)
        return await self.event()

    async def leave(self) -> None:
        """Disconnects, and returns when the application has noticed."""
        self.gone = True
        self.reads.set()
        self.put({"type": "websocket.disconnect", "code": 1006})
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.wait([self.running])


@asynccontextmanager
async def connected(app: FastAPI, **options: Any) -> AsyncIterator[SocketClient]:
    """A client whose session is open; its first event has been read."""
    client = SocketClient(app, **options)
    try:
        accepted = await client.message()
        assert accepted["type"] == "websocket.accept", accepted
        assert (await client.event())["type"] == "session.created"
        yield client
    finally:
        await client.leave()


async def refused(app: FastAPI, **options: Any) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    """Status, headers and body of the reply to an upgrade that is refused."""
    client = SocketClient(app, **options)
    start, body = await client.message(), await client.message()
    await client.leave()
    assert start["type"] == "websocket.http.response.start"
    assert body["type"] == "websocket.http.response.body"
    return start["status"], dict(start["headers"]), json.loads(body["body"])


def types(events: Sequence[dict[str, Any]]) -> list[str]:
    """The types of events."""
    return [event["type"] for event in events]
