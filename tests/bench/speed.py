"""What the orchestrator adds to Triton: the same load through the front door and without it."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.request import SamplingParams
from tests.bench import processes
from tests.bench.direct import DirectModel
from tests.bench.http_load import Connection, Load, Outcome, run
from tests.bench.stack import Stack, running
from tests.integration.scripted.repository import script, write_repository

REPETITIONS = 3
CHAT = "/v1/chat/completions"

One = Callable[[int, int], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load. Each repetition makes `requests`, `connections` at a time."""

    name: str
    connections: int
    requests: int
    front: One
    direct: One


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the repetitions of one case, on one way."""

    requests_per_s: float
    tokens_per_s: float
    first_p50_ms: float
    first_p99_ms: float
    total_p50_ms: float
    cpu_s_per_1k_tokens: float
    cpu_s_per_1k_requests: float
    failed: int


async def measure(case: Case, stack: Stack) -> tuple[Figures, Figures]:
    """Front door and direct, in turns, after a warm-up of both."""
    await run(case.connections, case.connections, case.front)
    await run(case.connections, case.connections, case.direct)
    front, direct = [], []
    for _ in range(REPETITIONS):
        before = processes.cost(stack.orchestrator_pid)
        load = await run(case.connections, case.requests, case.front)
        front.append((load, processes.cost(stack.orchestrator_pid).since(before)))
        direct.append((await run(case.connections, case.requests, case.direct), 0.0))
    return _figures(front), _figures(direct)


async def scripted_cases(folder: Path) -> list[dict[str, Any]]:
    """An engine that costs next to nothing, at a set pace: what is seen is the way to it."""
    repository = write_repository(folder / "repository")
    models = repository.names
    async with running(repository.path, repository.catalogue, models, folder) as stack:
        direct = DirectModel.open(repository.path, models[0])
        paced = script(emit="token ", repeat=11, delay_ms=20)
        short = script(emit="sixteen tokens!!", tokens_per_response=16)
        return [
            await _row(stack, _case(stack, direct, f"scripted/{models[0]}", *case))
            for case in (
                ("paced 50 tokens/s, 1 stream", 1, 12, paced, 64, True),
                ("paced 50 tokens/s, 32 streams", 32, 128, paced, 64, True),
                ("not streamed, 16 tokens, 32 connections", 32, 640, short, 16, False),
            )
        ]


async def demo_cases(folder: Path, repository: Path, catalogue: Path) -> list[dict[str, Any]]:
    """The CPU engine with the demo model, which takes what the machine has."""
    async with running(repository, catalogue, ("demo-chat",), folder) as stack:
        direct = DirectModel.open(repository, "demo-chat")
        return [await demo_row(stack, direct, *case) for case in ((1, 8), (8, 32), (32, 96))]


async def demo_row(
    stack: Stack, direct: DirectModel, streams: int, requests: int
) -> dict[str, Any]:
    """So many streams of the demo model."""
    name = f"demo model, {streams} stream{'s' if streams > 1 else ''}"
    prompt = "Tell me a long story."
    case = _case(stack, direct, "demo/chat", name, streams, requests, prompt, 128, True)
    return await _row(stack, case)


def _case(
    stack: Stack,
    direct: DirectModel,
    model: str,
    name: str,
    connections: int,
    requests: int,
    prompt: str,
    max_tokens: int,
    stream: bool,
) -> Case:
    open_connections = [Connection("127.0.0.1", stack.port, stack.key) for _ in range(connections)]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 1.0,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    token_ids = direct.tokens(prompt)

    async def front(connection: int, number: int) -> Outcome:
        return await open_connections[connection].post(CHAT, body | {"seed": number})

    async def straight(_: int, number: int) -> Outcome:
        sampling = SamplingParams(temperature=1.0, seed=number)
        return await direct.generate(stack.client, token_ids, max_tokens, sampling)

    return Case(name, connections, requests, front, straight)


async def _row(stack: Stack, case: Case) -> dict[str, Any]:
    sys.stderr.write(f"measuring: {case.name}\n")
    front, direct = await measure(case, stack)
    return {
        "case": case.name,
        "front_requests_per_s": front.requests_per_s,
        "direct_requests_per_s": direct.requests_per_s,
        "front_tokens_per_s": front.tokens_per_s,
        "direct_tokens_per_s": direct.tokens_per_s,
        "tokens_ratio": front.tokens_per_s / direct.tokens_per_s,
        "added_first_p50_ms": front.first_p50_ms - direct.first_p50_ms,
        "added_first_p99_ms": front.first_p99_ms - direct.first_p99_ms,
        "added_total_p50_ms": front.total_p50_ms - direct.total_p50_ms,
        "orchestrator_cpu_s_per_1k_tokens": front.cpu_s_per_1k_tokens,
        "orchestrator_cpu_s_per_1k_requests": front.cpu_s_per_1k_requests,
        "failed": front.failed + direct.failed,
    }


def _figures(runs: list[tuple[Load, float]]) -> Figures:
    def median(value: Callable[[Load], float]) -> float:
        return statistics.median(value(load) for load, _ in runs)

    def per_thousand(count: Callable[[Load], int]) -> float:
        return statistics.median(1000 * cpu_s / max(1, count(load)) for load, cpu_s in runs)

    return Figures(
        requests_per_s=median(lambda load: len(load.outcomes) / load.wall_s),
        tokens_per_s=median(lambda load: load.tokens / load.wall_s),
        first_p50_ms=median(lambda load: 1000 * load.percentile(0.5)),
        first_p99_ms=median(lambda load: 1000 * load.percentile(0.99)),
        total_p50_ms=median(lambda load: 1000 * load.percentile(0.5, "total_s")),
        cpu_s_per_1k_tokens=per_thousand(lambda load: load.tokens),
        cpu_s_per_1k_requests=per_thousand(lambda load: len(load.outcomes)),
        failed=sum(outcome.status != 200 for load, _ in runs for outcome in load.outcomes),
    )
