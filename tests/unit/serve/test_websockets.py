"""WebSockets through a real port, with the server's own end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from orchestrator.backends.scripted import ScriptedGeneration
from orchestrator.core.events import GenerationEvent
from orchestrator.serve.websockets import DrainingWebSocket
from tests.unit.wire.openai.realtime.client import HELLO, TIMEOUT_S
from tests.wire.harness import KEY, Bench, answer, bench

CREATE = {"type": "response.create", "response": {"input": [HELLO]}}
MAX_BYTES = 64 * 1024
EVENT_BYTES = 10_000


@dataclass(frozen=True)
class Served:
    """A bench behind a port, and how to stop it."""

    service: Bench
    server: uvicorn.Server
    url: str
    running: asyncio.Task[None]

    def connect(self, key: str = KEY, **options: Any) -> connect:
        """A client that is about to connect."""
        headers = {"authorization": f"Bearer {key}"}
        return connect(self.url, additional_headers=headers, proxy=None, **options)


@asynccontextmanager
async def serving(folder: Path, ping_s: float = 20.0) -> AsyncIterator[Served]:
    async with bench(folder) as service:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            service.app,
            ws=DrainingWebSocket,
            ws_max_size=MAX_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=ping_s,
            ws_ping_timeout=ping_s,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=10,
        )
        server = uvicorn.Server(config)
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/realtime?model=acme/chat"
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield Served(service, server, url, running)
        finally:
            server.should_exit = True
            async with asyncio.timeout(TIMEOUT_S):
                await running


async def until(client: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """The events up to the next one of that type."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(TIMEOUT_S):
        while not events or events[-1]["type"] != kind:
            events.append(json.loads(await client.recv()))
    return events


async def closed(client: ClientConnection) -> int:
    """The code that the server closes with."""
    async with asyncio.timeout(TIMEOUT_S):
        await client.wait_closed()
    assert client.close_code is not None
    return client.close_code


async def test_an_idle_session_is_told_of_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.connect() as client:
        await until(client, "session.created")
        served.server.should_exit = True
        assert await closed(client) == 1012


class GatedRun(ScriptedGeneration):
    """Gives the last of `events`, from the fourth, when `gate` is open."""

    def __init__(self, events: Sequence[GenerationEvent], gate: asyncio.Event) -> None:
        super().__init__(events)
        self._before = 3
        self._gate = gate

    def take(self) -> list[GenerationEvent]:
        if not self._before and not self._gate.is_set():
            return []
        self._before = max(0, self._before - 1)
        return super().take()

    def listen(self, on_ready: Callable[[], None]) -> None:
        super().listen(on_ready)
        self._opened = asyncio.create_task(self._gate.wait())
        self._opened.add_done_callback(lambda _: on_ready())


async def test_a_running_response_ends_before_the_server_does(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.connect() as client:
        gate = asyncio.Event()
        events = answer("Hello", " there")
        served.service.backend.generate = (  # type: ignore[method-assign]
            lambda request_id: GatedRun(events, gate)
        )
        await client.send(json.dumps(CREATE))
        await until(client, "response.output_text.delta")
        served.server.should_exit = True
        await asyncio.wait([served.running], timeout=0.3)
        assert not served.running.done()
        gate.set()
        done = (await until(client, "response.done"))[-1]["response"]
        assert done["status"] == "completed"
        assert await closed(client) == 1012


async def test_a_refused_upgrade_is_a_whole_http_reply(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(InvalidStatus) as caught:
            await served.connect(key="op_live_0000_" + "0" * 32)
        response = caught.value.response
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert json.loads(response.body or b"")["error"]["reason"] == "invalid_api_key"


async def test_an_event_that_is_too_long_ends_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.connect() as client:
        await client.send("x" * (MAX_BYTES + 1))
        assert await closed(client) == 1009


async def test_a_client_that_vanishes_stops_its_engine(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.connect() as client:
        served.service.backend.events, served.service.backend.hangs = answer("Hello")[:3], True
        await client.send(json.dumps(CREATE))
        await until(client, "response.output_text.delta")
        client.transport.abort()
        async with asyncio.timeout(TIMEOUT_S):
            await served.service.backend.closed.wait()


async def test_a_client_that_does_not_read_holds_its_engine_up(tmp_path: Path) -> None:
    made = 0

    def endless() -> Any:
        nonlocal made
        yield from answer("x")[:2]
        while True:
            made += 1
            yield answer("y" * EVENT_BYTES)[2]

    async with serving(tmp_path) as served, served.connect(max_queue=1) as client:
        served.service.backend.events = endless()
        await client.send(json.dumps(CREATE))
        before = -1
        async with asyncio.timeout(TIMEOUT_S):
            while made != before or not made:
                before = made
                await asyncio.wait([served.running], timeout=0.2)
        # What the system buffers for both sides, and no more.
        assert made * EVENT_BYTES < 64 * 1024 * 1024
        client.transport.abort()
        async with asyncio.timeout(TIMEOUT_S):
            await served.service.backend.closed.wait()


async def test_a_client_that_never_reads_again_is_given_up(tmp_path: Path) -> None:
    text = {"type": "input_text", "text": "x" * EVENT_BYTES}
    item = {"type": "message", "role": "user", "content": [text]}
    create = json.dumps({"type": "conversation.item.create", "item": item})
    async with (
        serving(tmp_path, ping_s=0.2) as served,
        served.connect(ping_interval=None, close_timeout=0) as client,
    ):
        client.transport.pause_reading()

        async def flood() -> None:
            while True:
                await client.send(create)

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(TIMEOUT_S):
            # What was sent to it is thrown away, and the place of its session is free.
            while served.server.server_state.tasks or not flooding.done():
                await asyncio.wait([served.running], timeout=0.05)
        assert isinstance(flooding.exception(), ConnectionClosed)


async def test_a_refusal_before_the_upgrade_is_no_error_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(InvalidStatus) as refused:
            await served.connect("op_live_0000_nobody")
    assert refused.value.response.status_code == 401
    assert "handshake" not in caplog.text
