"""Clients that leave: how soon the engine knows, and what it does until then."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.http_load import Connection, Outcome, run
from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving

CLIENTS = 100
REQUESTS = 400
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Leaver:
    """A request whose client left, by the monotonic clock that the engine's log uses."""

    request_id: str
    left_at_ns: int


async def report(folder: Path) -> dict[str, Any]:
    """Figures of one run: half of the clients leave at random, streaming or not."""
    repository = write_repository(folder / "repository")
    serving = Serving(folder / "serving", repository.settings)
    try:
        await asyncio.to_thread(serving.wait_ready)
        leavers, outcomes = await _load(serving.port, serving.key)
        # The engine's log is complete when every request of it has ended.
        await asyncio.sleep(2)
        figures = _figures(repository, leavers)
        stopped_in_order = await asyncio.to_thread(serving.stop) == 0
        return {
            "clients": CLIENTS,
            "requests": len(outcomes) + len(leavers),
            "left": len(leavers),
            "answered": sum(outcome.status == 200 for outcome in outcomes),
            **figures,
            "triton_and_server_exit_0": stopped_in_order,
            "left_behind": serving.leavings(),
        }
    finally:
        serving.kill()


async def _load(port: int, key: str) -> tuple[list[Leaver], list[Outcome]]:
    rng = random.Random(1)
    leavers: list[Leaver] = []
    prompt = script(emit="token ", repeat=8, delay_ms=50)

    async def one(connection: int, number: int) -> Outcome:
        """Odd clients leave: in the middle of a stream, or while they wait for a whole answer."""
        leaves, request_id = connection % 2 == 1, f"leave-{number}-x"
        body: dict[str, Any] = {
            "model": "scripted/scripted",
            "messages": [{"role": "user", "content": prompt}],
            "stream": rng.random() < 0.5,
        }
        client = Connection("127.0.0.1", port, key)
        asked = asyncio.create_task(client.post(CHAT, body, request_id=request_id))
        done, _ = await asyncio.wait([asked], timeout=rng.uniform(0, 2.4) if leaves else None)
        if not done:
            client.drop()
            leavers.append(Leaver(request_id, time.monotonic_ns()))
            asked.cancel()
            await asyncio.wait([asked])
            return Outcome(status=-1)
        client.drop()
        return asked.result()

    load = await run(CLIENTS, REQUESTS, one)
    return leavers, [outcome for outcome in load.outcomes if outcome.status != -1]


def _figures(repository: ScriptedRepository, leavers: list[Leaver]) -> dict[str, Any]:
    left_at = {leaver.request_id: leaver.left_at_ns for leaver in leavers}
    delays_ms: list[float] = []
    late: dict[str, int] = {}
    after_stop = started = ended = 0
    stopped: set[str] = set()
    for event in repository.events("leave-"):
        request_id = "-".join(event["id"].split("-")[:3])
        started += event["event"] == "start"
        ended += event["event"] == "final"
        if event["event"] == "stop" and request_id in left_at and request_id not in stopped:
            stopped.add(request_id)
            delays_ms.append((event["at"] - left_at[request_id]) / 1e6)
        if event["event"] == "token" and event["at"] > left_at.get(request_id, event["at"]):
            late[request_id] = late.get(request_id, 0) + event["tokens"]
            after_stop += request_id in stopped
    delays_ms.sort()
    return {
        "engine_started": started,
        "engine_ended": ended,
        "cancel_to_engine_p50_ms": round(delays_ms[len(delays_ms) // 2], 1),
        "cancel_to_engine_p99_ms": round(delays_ms[int(0.99 * len(delays_ms))], 1),
        "most_tokens_after_a_client_left": max(late.values(), default=0),
        "tokens_after_the_engine_was_told": after_stop,
    }
