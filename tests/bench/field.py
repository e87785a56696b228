"""Ours and its peers under the same load, in turns, over an engine that costs next to nothing."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import gateways, load, processes
from tests.bench.engine.work import BURST, EMBED, PACED
from tests.bench.gateways import ENGINE, LITELLM, OURS, PORTKEY, Engine, Target
from tests.bench.repository import Repository

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
SLOW_SHARE = 8
"""LiteLLM gets so many times fewer requests, or it would run for most of the time."""

Value = Callable[[load.Load, float], float]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load, and the figure that is read off it."""

    name: str
    unit: str
    path: str
    body: Mapping[str, Any]
    connections: int
    requests: int
    value: Value
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """One repetition on one target. Shares are of one core."""

    value: float
    failed: int
    gateway_share: float
    engine_share: float
    generator_share: float


def cases(*, quick: bool) -> list[Case]:
    """What the peers can do, too."""
    scale = 1 if quick else 3
    paced, burst = _chat(PACED, 64, stream=True), _chat(BURST, 64, stream=True)
    return [
        Case("paced, 32 streams", "CPU µs/token", CHAT, paced, 32, 64 * scale, per_token),
        Case("paced, 128 streams", "CPU µs/token", CHAT, paced, 128, 128 * scale, per_token),
        Case("burst, 32 streams", "CPU µs/token", CHAT, burst, 32, 256 * scale, per_token),
        Case(
            "chat, not streamed, 32 connections",
            "requests/s",
            CHAT,
            _chat(BURST, 16, stream=False),
            32,
            800 * scale,
            per_second,
            more_is_better=True,
        ),
        *(
            Case(
                f"embeddings 32 x 1024, {encoding}",
                "requests/s",
                EMBEDDINGS,
                {"model": EMBED, "input": _texts(32), "encoding_format": encoding},
                16,
                128 * scale,
                per_second,
                more_is_better=True,
            )
            for encoding in ("base64", "float")
        ),
    ]


def per_token(run: load.Load, cpu_s: float) -> float:
    """Of the gateway's CPU, in microseconds."""
    return 1e6 * cpu_s / max(1, run.tokens)


def per_second(run: load.Load, cpu_s: float) -> float:
    """Requests that were answered."""
    del cpu_s
    return (len(run.answers) - run.failed) / run.wall_s


def _chat(model: str, tokens: int, *, stream: bool) -> dict[str, Any]:
    text = f"Tell me story {load.NUMBER} of the sea."
    question = {"role": "user", "content": text}
    body = {"model": model, "messages": [question], "max_tokens": tokens}
    return body | {"stream": True} if stream else body


def _texts(count: int) -> list[str]:
    return [f"data stays here {number} {load.NUMBER}" for number in range(count)]


def start(
    stack: contextlib.ExitStack,
    engine: Engine,
    repository: Repository,
    folder: Path,
    collector: str,
) -> tuple[list[Target], dict[str, str]]:
    """Everything that starts, and why the rest did not."""
    ways: dict[str, Callable[[], AbstractContextManager[Target]]] = {
        OURS: lambda: gateways.orchestrator(engine, repository, folder, collector=collector),
        LITELLM: lambda: gateways.litellm(engine, folder),
        PORTKEY: lambda: gateways.portkey(engine, folder),
        gateways.ROUTER_A: lambda: gateways.router(
            gateways.ROUTER_A, "vllm_router.launch_router", engine, folder
        ),
        gateways.ROUTER_B: lambda: gateways.router(
            gateways.ROUTER_B, "sglang_router.launch_router", engine, folder
        ),
    }
    targets, missing = [], {}
    for name, way in ways.items():
        try:
            targets.append(stack.enter_context(way()))
        except (gateways.GatewayMissing, OSError) as error:
            if name == OURS:
                raise
            missing[name] = str(error)
    targets.append(Target(ENGINE, engine.http_port, engine.pid))
    return targets, missing


async def measure(
    case: Case, targets: Sequence[Target], engine: Engine, repetitions: int
) -> dict[str, list[Reading]]:
    """The readings of each target, one of each in turn."""
    sys.stderr.write(f"measuring: {case.name}\n")
    readings: dict[str, list[Reading]] = {target.name: [] for target in targets}
    for number in range(-1, repetitions):
        for target in targets:
            reading = await _once(case, target, engine, warming=number < 0)
            if number >= 0:
                readings[target.name].append(reading)
    return readings


def median(readings: Sequence[Reading]) -> float | None:
    """The middle value; None where requests failed."""
    if not readings or any(reading.failed for reading in readings):
        return None
    return statistics.median(reading.value for reading in readings)


async def _once(case: Case, target: Target, engine: Engine, *, warming: bool) -> Reading:
    requests = case.requests // SLOW_SHARE if target.name == LITELLM else case.requests
    requests = case.connections if warming else max(case.connections, requests)
    raw = load.request("127.0.0.1", target.port, case.path, case.body, target.headers)
    clients = [await load.Client.open("127.0.0.1", target.port) for _ in range(case.connections)]
    try:
        before = _spent(target, engine)
        run = await load.run(clients, requests, raw)
        gateway, fake, own = (
            after - earlier for after, earlier in zip(_spent(target, engine), before, strict=True)
        )
    finally:
        for client in clients:
            client.drop()
    wall_s = run.wall_s
    return Reading(
        case.value(run, gateway), run.failed, gateway / wall_s, fake / wall_s, own / wall_s
    )


def _spent(target: Target, engine: Engine) -> tuple[float, float, float]:
    """CPU seconds of the gateway, of the engine and of this process until now."""
    own = os.times()
    return (
        processes.cost(target.pid).cpu_s,
        processes.cost(engine.pid).cpu_s,
        own.user + own.system,
    )
