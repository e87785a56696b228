"""What the orchestrator adds to the engine spoken to directly, in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.request import SamplingParams
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.triton.contract import GenerateCall
from tests.bench import http_load, load, speed
from tests.bench.direct import DirectModel
from tests.bench.engine.work import PACED, PACES_S
from tests.bench.field import CHAT
from tests.bench.gateways import Engine, Target
from tests.bench.repository import Repository
from tests.bench.stack import running

STREAMS, TOKENS = 32, 64
APART_S = 0.02
"""Streams begin one after the other: what is looked for is what a token waits, not a crowd."""
WORDS = "tell me one more story of the sea and of the ships that came home "


@dataclass(frozen=True, slots=True)
class Added:
    """Milliseconds more than directly: medians over pairs of runs."""

    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    long_first_p50_ms: float


class Pair:
    """The same paced streams through the front door and directly."""

    def __init__(self, target: Target, engine: Engine, repository: Repository) -> None:
        self._target = target
        self._client = TritonClient(TritonEndpoint(f"127.0.0.1:{engine.grpc_port}"))
        self._model = DirectModel.open(self._client, repository.path, PACED)

    async def close(self) -> None:
        """Ends the connection to the engine."""
        await self._client.close()

    async def measure(self, repetitions: int) -> Added:
        """Front door and direct in turns, after a warm-up of both."""
        long = _prompt(self._model, 500)
        rows: list[tuple[float, float, float, float]] = []
        for number in range(-1, repetitions):
            front = await self._front("Tell me a story.", STREAMS, 2 * STREAMS, TOKENS)
            direct = await self._direct("Tell me a story.", STREAMS, 2 * STREAMS, TOKENS)
            front_first = await self._front(long, 1, 20, 1)
            direct_first = await self._direct(long, 1, 20, 1)
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

    async def _front(self, prompt: str, streams: int, requests: int, tokens: int) -> load.Load:
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
            return await load.run(clients, requests, raw, apart_s=APART_S)
        finally:
            for client in clients:
                client.drop()

    async def _direct(self, prompt: str, streams: int, requests: int, tokens: int) -> load.Load:
        ids = self._model.tokens(prompt)
        run, started = load.Load(), time.perf_counter()

        async def one(_: int, number: int) -> http_load.Outcome:
            run.answers.append(await self._one(ids, tokens, number))
            return http_load.Outcome(status=200)

        await http_load.run(streams, requests, one, apart_s=APART_S)
        run.wall_s = time.perf_counter() - started
        return run

    async def _one(self, ids: Sequence[int], tokens: int, number: int) -> load.Answer:
        answer = load.Answer(asked_at=time.perf_counter(), status=200)
        call = GenerateCall(
            model=PACED,
            request_id=f"direct-{id(self)}-{number}-{answer.asked_at}",
            token_ids=ids,
            max_tokens=tokens,
            end_id=self._model.end_id,
            pad_id=None,
            extra_end_ids=(),
            sampling=SamplingParams(),
            vocab_size=0,
            reports_finish_reason=False,
        )
        stream = self._client.generate(call)
        while (chunk := await stream.next_chunk()) is not None:
            answer.arrivals += [time.perf_counter()] * len(chunk.token_ids)
            if chunk.final:
                break
        answer.ended_at = time.perf_counter()
        return answer


async def demo(folder: Path, repository: Path, catalogue: Path) -> dict[str, Any]:
    """The CPU engine with the demo model, 32 streams."""
    async with running(repository, catalogue, ("demo-chat",), folder) as stack:
        direct = DirectModel.open(stack.client, repository, "demo-chat")
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
    words = WORDS
    while len(model.tokens(words)) < tokens:
        words += WORDS
    return words
