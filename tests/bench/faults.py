"""Triton killed, its stub killed, Triton stopped: what 32 streaming clients see of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.bench.http_load import Connection, Outcome
from tests.integration.scripted.repository import script, write_repository
from tests.integration.serving import Serving

STREAMS = 32
CHAT = "/v1/chat/completions"
FAULTS = {
    "server SIGKILL": (Serving.server, signal.SIGKILL),
    "stub SIGKILL": (Serving.stub, signal.SIGKILL),
    "server SIGSTOP": (Serving.server, signal.SIGSTOP),
}


async def report(folder: Path) -> dict[str, Any]:
    """For each fault: seconds until the clients know, and until the next answer."""
    repository = write_repository(folder / "repository")
    serving = Serving(folder / "serving", repository.settings)
    try:
        await asyncio.to_thread(serving.wait_ready)
        rows = {}
        for name, (victim, number) in FAULTS.items():
            rows[name] = await _one(serving, victim(serving), number)
        exit_code = await asyncio.to_thread(serving.stop)
        return {"faults": rows, "exit_code": exit_code, "left_behind": serving.leavings()}
    finally:
        serving.kill()


async def _one(serving: Serving, victim: psutil.Process, number: signal.Signals) -> dict[str, Any]:
    # About a minute of tokens: none of these streams ends by itself before the fault.
    endless = script(emit="x", repeat=3000, delay_ms=20)
    streams = [asyncio.create_task(_ask(serving, endless, stream=True)) for _ in range(STREAMS)]
    await asyncio.sleep(2)
    began_at = time.monotonic()
    victim.send_signal(number)
    done, _ = await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
    first_s = time.monotonic() - began_at
    outcomes = [task.result() for task in [*done]]
    rest = [task for task in streams if task not in done]
    outcomes += await asyncio.gather(*rest)
    all_s = time.monotonic() - began_at
    while (await _ask(serving, "hello", stream=False)).status != 200:  # noqa: ASYNC110  # it asks
        await asyncio.sleep(0.02)
    return {
        "first_client_knows_s": round(first_s, 2),
        "every_client_knows_s": round(all_s, 2),
        "answers_again_s": round(time.monotonic() - began_at, 2),
        "clients": Counter(_fate(outcome) for outcome in outcomes),
    }


async def _ask(serving: Serving, prompt: str, *, stream: bool) -> Outcome:
    connection = Connection("127.0.0.1", serving.port, serving.key)
    body = {
        "model": "scripted/scripted",
        "messages": [{"role": "user", "content": prompt}],
        "stream": stream,
    }
    try:
        return await connection.post(CHAT, body)
    finally:
        connection.drop()


def _fate(outcome: Outcome) -> str:
    """What a client was told: a status, or for a stream that had begun its last words."""
    if outcome.status != 200:
        return f"status {outcome.status}"
    told = b'"model_unavailable"' in outcome.body and b"data: [DONE]" in outcome.body
    return "stream ended with error model_unavailable and [DONE]" if told else "cut short"
