"""Memory after many requests of mixed size, process by process."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from tests.bench.http_load import Connection, Outcome, run
from tests.integration.serving import Serving, command_line

CONNECTIONS = 16
REQUESTS = 2000
ROUNDS = 4
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


async def report(folder: Path) -> dict[str, Any]:
    """Resident MB of each process after a warm-up and after each round."""
    serving = Serving(folder / "serving")
    rng = random.Random(2)
    try:
        await asyncio.to_thread(serving.wait_ready)
        connections = [Connection("127.0.0.1", serving.port, serving.key) for _ in range(16)]

        async def one(connection: int, _: int) -> Outcome:
            path, body = _request(rng)
            return await connections[connection].post(path, body)

        failed = 0
        readings = [_resident(serving)]
        for _ in range(ROUNDS):
            load = await run(CONNECTIONS, REQUESTS // ROUNDS, one)
            failed += sum(outcome.status != 200 for outcome in load.outcomes)
            readings.append(_resident(serving))
        for connection in connections:
            connection.drop()
        exit_code = await asyncio.to_thread(serving.stop)
    finally:
        serving.kill()
    return {"requests": REQUESTS, "failed": failed, "exit_code": exit_code, "resident_mb": readings}


def _request(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """Short and long, streamed and not, chat and embeddings."""
    if rng.random() < 0.3:
        texts = ["data stays here " * rng.randint(1, 12) for _ in range(rng.randint(1, 32))]
        return EMBEDDINGS, {"model": "demo/embed", "input": texts}
    words = "tell me a story of the sea " * rng.randint(1, 60)
    return CHAT, {
        "model": "demo/chat",
        "messages": [{"role": "user", "content": words}],
        "stream": rng.random() < 0.5,
        "max_tokens": rng.randint(1, 64),
        "temperature": 1.0,
    }


def _resident(serving: Serving) -> dict[str, float]:
    """Megabytes by what a process is; several of a kind are added up."""
    found: dict[str, float] = {}
    for process in serving.processes():
        line = command_line(process)
        if process in serving.standby():
            line = "standby"
        kind = next(
            (
                name
                for mark, name in (
                    ("bin/tritonserver", "triton"),
                    ("python_backend_stub", "stubs"),
                    ("standby", "standby"),
                    (" worker ", "worker"),
                    (" serve", "parent"),
                )
                if mark in line
            ),
            "other",
        )
        found[kind] = round(found.get(kind, 0.0) + process.memory_info().rss / 1e6, 1)
    return found
