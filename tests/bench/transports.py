"""What one response of Triton's costs on each transport, and what HTTP/2 libraries would take.

The client is this process, the engine another one: its own CPU is what is read.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from orchestrator.core.request import SamplingParams
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.triton.contract import GenerateCall
from orchestrator.triton.http2 import frames
from orchestrator.triton.http2.connection import Connection
from tests.bench import environment, gateways
from tests.bench.engine.work import BURST, PACED

ROUNDS = 3
STREAMS = 32
MESSAGES = 20_000
_LIBRARIES = Path(__file__).with_name("http2_libraries.py")


async def report(folder: Path) -> dict[str, Any]:
    """CPU µs: of each transport by case, and of taking one DATA frame apart by library."""
    found: dict[str, Any] = {}
    kinds: tuple[Literal["http2", "grpc"], ...] = ("http2", "grpc")
    with gateways.engine(folder) as engine:
        for transport in kinds:
            endpoint = TritonEndpoint(f"127.0.0.1:{engine.grpc_port}", transport=transport)
            client = TritonClient(endpoint)
            try:
                found[transport] = await _transport(client)
            finally:
                await client.close()
    found["one frame of data"] = {"own": _own_frames()} | _library_frames(folder)
    return found


async def _transport(client: TritonClient) -> dict[str, float]:
    async def streams(model: str, requests: int) -> int:
        numbers = iter(range(requests))

        async def worker() -> None:
            for number in numbers:
                await _generate(client, model, f"{model}-{number}-{time.time_ns()}", 64)

        async with asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(worker())
        return 64 * requests

    async def calls(requests: int) -> int:
        for number in range(requests):
            await _generate(client, BURST, f"call-{number}-{time.time_ns()}", 1)
        return requests

    return {
        "a response, paced, 32 streams": await _cost(lambda: streams(PACED, 64)),
        "a response, burst, 32 streams": await _cost(lambda: streams(BURST, 320)),
        "a request of one response, one at a time": await _cost(lambda: calls(300)),
    }


async def _generate(client: TritonClient, model: str, request_id: str, tokens: int) -> None:
    call = GenerateCall(
        model=model,
        request_id=request_id,
        token_ids=(1, 2, 3),
        max_tokens=tokens,
        end_id=-1,
        pad_id=None,
        extra_end_ids=(),
        sampling=SamplingParams(),
        vocab_size=0,
        reports_finish_reason=False,
    )
    stream = client.generate(call)
    while (chunk := await stream.next_chunk()) is not None:
        if chunk.final:
            return


async def _cost(work: Callable[[], Awaitable[int]]) -> float:
    await work()
    costs = []
    for _ in range(ROUNDS):
        before = os.times()
        units = await work()
        after = os.times()
        costs.append((after.user + after.system - before.user - before.system) / units)
    return round(1e6 * statistics.median(costs), 1)


class _Counting:
    """Takes what a stream is told, and counts bytes."""

    def __init__(self) -> None:
        self.received = 0

    def headers(self, values: Any, *, last: bool) -> None:
        """Nothing is made of them."""

    def data(self, payload: bytes) -> None:
        """More of the body."""
        self.received += len(payload)

    def ended(self) -> None:
        """The end says nothing."""

    def reset(self, code: int) -> None:
        """Neither does a reset."""


def _own_frames() -> float:
    """Of our own connection, frame by frame as they come when paced."""
    connection = Connection(lambda _: None)
    connection.receive(frames.frame(frames.SETTINGS, 0, 0))
    handler = _Counting()
    number = connection.open(b"", b"", handler)
    frame = frames.frame(frames.DATA, 0, number, bytes(120))
    before = time.process_time()
    for _ in range(MESSAGES):
        connection.receive(frame)
    assert handler.received == 120 * MESSAGES
    return round(1e6 * (time.process_time() - before) / MESSAGES, 2)


def _library_frames(folder: Path) -> dict[str, float]:
    """The same with the libraries of the benchmark's environment."""
    environment.make()
    command = [str(environment.python()), str(_LIBRARIES), str(MESSAGES)]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return {name: float(cost) for name, cost in (line.split() for line in done.stdout.splitlines())}
