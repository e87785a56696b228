"""Several workers over one Redis: how the load divides, and whether a limit is ever overshot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import gateways, load, processes
from tests.bench.engine.work import BURST
from tests.bench.field import CHAT
from tests.bench.gateways import Engine, Target
from tests.bench.repository import Repository
from tests.redis_server import RedisServer

WORKERS = (1, 2, 4)
LIMIT = 300
CONNECTIONS = 32
_ROOM_S = 25


@dataclass(frozen=True, slots=True)
class Scaling:
    """What so many workers did."""

    workers: int
    requests_per_s: float
    cpu_us_per_request: float
    limit: int
    let_through: int


async def measure(
    engine: Engine, repository: Repository, folder: Path, *, requests: int
) -> Sequence[Scaling]:
    """One after the other, each over a Redis that is empty."""
    found = []
    for workers in WORKERS:
        place = folder / f"workers-{workers}"
        place.mkdir(parents=True)
        redis = RedisServer(place)
        redis.start()
        settings = {
            "ORCHESTRATOR_SERVER__WORKERS": str(workers),
            "ORCHESTRATOR_REDIS__URL": redis.url,
        }
        try:
            with gateways.orchestrator(engine, repository, place, settings=settings) as target:
                found.append(await _measured(target, workers, requests))
        finally:
            redis.kill()
    return found


async def _measured(target: Target, workers: int, requests: int) -> Scaling:
    raw = _raw(target)
    await _run(target, raw, 4 * CONNECTIONS)
    before = processes.cost(target.pid)
    run = await _run(target, raw, requests)
    cpu_s = processes.cost(target.pid).since(before)
    assert not run.failed
    url = f"http://127.0.0.1:{target.port}"
    key = gateways.key_with_limits(url, rpm_limit=LIMIT)
    limited = Target(target.name, target.port, target.pid, {"Authorization": f"Bearer {key}"})
    # Minutes are those of the clock, and all of it is to fall into one.
    if time.time() % 60 > 60 - _ROOM_S:
        await asyncio.sleep(60 - time.time() % 60)
    over = await _run(limited, _raw(limited), 2 * LIMIT)
    let_through = sum(answer.status == 200 for answer in over.answers)
    return Scaling(workers, run.requests_per_s, 1e6 * cpu_s / requests, LIMIT, let_through)


async def _run(target: Target, raw: bytes, requests: int) -> load.Load:
    clients = [await load.Client.open("127.0.0.1", target.port) for _ in range(CONNECTIONS)]
    try:
        return await load.run(clients, requests, raw)
    finally:
        for client in clients:
            client.drop()


def _raw(target: Target) -> bytes:
    messages = [{"role": "user", "content": f"Tell me story {load.NUMBER} of the sea."}]
    body = {"model": BURST, "messages": messages, "max_tokens": 16}
    return load.request("127.0.0.1", target.port, CHAT, body, target.headers)
