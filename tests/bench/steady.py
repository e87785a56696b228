"""Memory after many requests and with many open streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psutil

from tests.bench import load
from tests.bench.engine.work import BURST, SLOW
from tests.bench.field import CHAT
from tests.bench.gateways import Target

SETTLE_S = 2.0
OPEN_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident MB, of the worker where nothing else is said."""

    requests: int
    streams: int
    parent_mb: float
    warm_mb: float
    after_requests_mb: float
    half_open_mb: float
    """With half of the streams open."""
    all_open_mb: float
    closed_mb: float
    """When all of them have been closed again."""

    @property
    def kb_per_stream(self) -> float:
        """What a further stream takes while the first half is open.

        The first ones may live on what earlier requests have left, and tell nothing.
        """
        return 1000 * (self.all_open_mb - self.half_open_mb) / (self.streams / 2)


async def measure(target: Target, *, requests: int, streams: int) -> Memory:
    """Worker's memory: warm, after `requests` of mixed size, then with `streams` open."""
    worker = worker_of(target)
    await _ask(target, 1000)
    warm = _mb(worker)
    await _ask(target, requests)
    after = _mb(worker)
    async with _opened(target, streams // 2):
        half = _mb(worker)
        async with _opened(target, streams - streams // 2):
            whole = _mb(worker)
    await asyncio.sleep(SETTLE_S)
    parent = _mb(psutil.Process(target.pid))
    return Memory(requests, streams, parent, warm, after, half, whole, _mb(worker))


@contextlib.asynccontextmanager
async def _opened(target: Target, count: int) -> AsyncIterator[None]:
    """So many more streams, each of which has had its first token."""
    body = _body(SLOW, 600, "Tell me a story.", stream=True)
    raw = load.request("127.0.0.1", target.port, CHAT, body, target.headers)
    clients = [await load.Client.open("127.0.0.1", target.port) for _ in range(count)]
    asking = [asyncio.create_task(client.ask(raw)) for client in clients]
    try:
        give_up_at = time.monotonic() + OPEN_WITHIN_S
        while not all(client.has_token for client in clients):
            assert time.monotonic() < give_up_at, "not every stream has begun"
            await asyncio.sleep(0.1)
        yield
    finally:
        for client in clients:
            client.drop()
        await asyncio.gather(*asking)


def worker_of(target: Target) -> psutil.Process:
    """The largest process of the tree: the one that answers."""
    root = psutil.Process(target.pid)
    return max(
        (root, *root.children(recursive=True)), key=lambda process: process.memory_info().rss
    )


async def _ask(target: Target, requests: int) -> None:
    """Short and long prompts, streamed and not, in turns."""
    clients = [await load.Client.open("127.0.0.1", target.port) for _ in range(16)]
    try:
        for words, stream in ((5, False), (200, True), (50, False), (1000, True)):
            body = _body(BURST, 16, "sea " * words, stream=stream)
            raw = load.request("127.0.0.1", target.port, CHAT, body, target.headers)
            run = await load.run(clients, requests // 4, raw)
            assert not run.failed
    finally:
        for client in clients:
            client.drop()


def _body(model: str, tokens: int, text: str, *, stream: bool) -> dict[str, object]:
    messages = [{"role": "user", "content": load.NUMBER + text}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "stream": stream}


def _mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6
