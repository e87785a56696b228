"""Memory after many requests and with many open streams."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass

import psutil

from tests.bench import load
from tests.bench.engine.work import BURST, SLOW
from tests.bench.field import CHAT
from tests.bench.gateways import Target

SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident MB of the worker."""

    requests: int
    streams: int
    warm_mb: float
    after_requests_mb: float
    with_streams_mb: float

    @property
    def kb_per_stream(self) -> float:
        """What an open stream holds."""
        return 1000 * (self.with_streams_mb - self.after_requests_mb) / self.streams


async def measure(target: Target, *, requests: int, streams: int) -> Memory:
    """Worker's memory: warm, after `requests` of mixed size, then with `streams` open."""
    worker = worker_of(target)
    await _ask(target, 1000)
    warm = _mb(worker)
    await _ask(target, requests)
    after = _mb(worker)
    clients = [await load.Client.open("127.0.0.1", target.port) for _ in range(streams)]
    body = _body(SLOW, 600, "Tell me a story.", stream=True)
    raw = load.request("127.0.0.1", target.port, CHAT, body, target.headers)
    asking = [asyncio.create_task(client.ask(raw)) for client in clients]
    await asyncio.sleep(4 * SETTLE_S)
    with_streams = _mb(worker)
    for client in clients:
        client.drop()
    await asyncio.gather(*asking)
    await asyncio.sleep(SETTLE_S)
    gc.collect()
    return Memory(requests, streams, warm, after, with_streams)


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
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "stream": stream}


def _mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6
