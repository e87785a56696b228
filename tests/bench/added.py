"""What the orchestrator adds to the engine spoken to directly, in time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.triton.encoding import generate_request
from orchestrator.triton.http2 import Http2Channel
from orchestrator.triton.stream import METHOD
from orchestrator.triton.transport import OK, Status
from tests.bench import load, speed
from tests.bench.direct import DirectModel
from tests.bench.engine.work import PACED, PACES_S
from tests.bench.field import CHAT
from tests.bench.gateways import Engine, Target
from tests.bench.repository import Repository
from tests.bench.stack import running

STREAMS, TOKENS = 32, 64
APART_S = 0.02
"""Streams begin one after the other: what is looked for is what a token waits, not a crowd."""
SHORT = f"Tell me story {load.NUMBER}."
WORDS = "tell me one more story of the sea and of the ships that came home "


@dataclass(frozen=True, slots=True)
class Added:
    """Milliseconds more than directly: medians over pairs of runs."""

    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    long_first_p50_ms: float


class Pair:
    """The same paced streams through the front door and directly.

    Both sides are counted on bare protocols in this process, and neither reads what it counts.
    """

    def __init__(self, target: Target, engine: Engine, repository: Repository) -> None:
        self._target = target
        self._channel = Http2Channel(f"127.0.0.1:{engine.grpc_port}")
        self._model = DirectModel.open(repository.path, PACED)

    async def close(self) -> None:
        """Ends the connection to the engine."""
        await self._channel.close()

    async def measure(self, repetitions: int) -> Added:
        """Front door and direct in turns, after a warm-up of both."""
        long = _prompt(self._model, 500)
        rows: list[tuple[float, float, float, float]] = []
        for number in range(-1, repetitions):
            front, direct = await self._both(SHORT, STREAMS, 2 * STREAMS, TOKENS)
            front_first, direct_first = await self._both(long, 1, 50, 1)
            late, direct_late = _late_ms(front), _late_ms(direct)
            if number >= 0:
                rows.append(
                    (
                        _at(late, 0.5) - _at(direct_late, 0.5),
                        _at(late, 0.99) - _at(direct_late, 0.99),
                        _first_ms(front) - _first_ms(direct),
                        _first_ms(front_first) - _first_ms(direct_first),
                    )
                )
        return Added(*(statistics.median(column) for column in zip(*rows, strict=True)))

    async def _both(
        self, prompt: str, streams: int, requests: int, tokens: int
    ) -> tuple[load.Load, load.Load]:
        """Through the front door, then directly."""
        target = self._target
        body = {
            "model": PACED,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "stream": True,
        }
        raw = load.request("127.0.0.1", target.port, CHAT, body, target.headers)
        clients = [await load.Client.open("127.0.0.1", target.port) for _ in range(streams)]
        try:
            front = await load.run(clients, requests, raw, apart_s=APART_S)
        finally:
            for client in clients:
                client.drop()
        call = self._model.call(load.NUMBER, self._model.tokens(prompt), tokens)
        askers = [Straight(self._channel)] * streams
        direct = await load.run(askers, requests, generate_request(call), apart_s=APART_S)
        assert not front.failed + direct.failed
        return front, direct


class Straight:
    """Calls of the engine, a token for each message."""

    def __init__(self, channel: Http2Channel) -> None:
        self._channel = channel

    async def ask(self, raw: bytes) -> load.Answer:
        """See `load.Asker.ask`."""
        raw, answer = load.numbered(raw), load.Answer(status=200)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def arrived(_: bytes) -> None:
            answer.arrivals.append(time.perf_counter())

        def ended(status: Status) -> None:
            answer.ended_at = time.perf_counter()
            answer.status = 200 if status.code == OK else 0
            over.set_result(None)

        answer.asked_at = time.perf_counter()
        self._channel.start(
            *(METHOD, raw), metadata=(), timeout_s=60.0, on_message=arrived, on_end=ended
        )
        await over
        return answer


async def demo(folder: Path, repository: Path, catalogue: Path) -> dict[str, Any]:
    """The CPU engine with the demo model, 32 streams."""
    async with running(repository, catalogue, ("demo-chat",), folder) as stack:
        direct = DirectModel.open(repository, "demo-chat")
        return await speed.demo_row(stack, direct, 32, 96)


def _late_ms(run: load.Load) -> list[float]:
    """How much later than the engine's schedule each token came, after its request was sent."""
    pace = PACES_S[PACED]
    return sorted(
        1000 * (arrival - answer.asked_at - pace * (number + 1))
        for answer in run.answers
        for number, arrival in enumerate(answer.arrivals)
    )


def _first_ms(run: load.Load) -> float:
    return 1000 * statistics.median(answer.first_s for answer in run.answers)


def _at(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _prompt(model: DirectModel, tokens: int) -> str:
    """A prompt of about so many tokens."""
    words = f"{load.NUMBER} {WORDS}"
    while len(model.tokens(words)) < tokens:
        words += WORDS
    return words
