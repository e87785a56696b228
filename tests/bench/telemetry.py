"""What telemetry costs: the same load with traces off, sampled at one in ten, and all of them.

The orchestrators run beside each other, over Triton's of their own, and are measured in turns, so
that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import processes
from tests.bench.http_load import Connection, Load, Outcome, run
from tests.bench.stack import Stack, running
from tests.integration.scripted.repository import script, write_repository
from tests.otlp_receiver import receiving

ROUNDS = 7
REQUESTS = 300
CONNECTIONS = 16
SHARES = {"off": None, "sampled at 10 %": "0.1", "all": "1"}
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(slots=True)
class Failover:
    """One orchestrator, and what was measured of it."""

    stack: Stack
    connections: list[Connection]
    rates: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    failed: int = 0

    def take(self, load: Load, cpu_s: float) -> None:
        """One round."""
        self.rates.append(len(load.outcomes) / load.wall_s)
        self.cpu_s.append(cpu_s)
        self.failed += sum(outcome.status != 200 for outcome in load.outcomes)


async def report(folder: Path) -> dict[str, Any]:
    """Requests a second and CPU of each way, and as shares of those without traces."""
    repository = write_repository(folder / "repository")
    model = f"scripted/{repository.names[0]}"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": script(emit="sixteen ", repeat=15)}],
        "max_tokens": 16,
        "stream": True,
    }
    async with contextlib.AsyncExitStack() as stack:
        receiver = stack.enter_context(receiving())
        ways = {}
        for name, share in SHARES.items():
            (place := folder / name.replace(" ", "-")).mkdir()
            with _traced(receiver.url, share):
                started = running(repository.path, repository.catalogue, repository.names, place)
                ways[name] = _way(await stack.enter_async_context(started))
        for number in range(ROUNDS + 1):
            for way in ways.values():
                await _round(way, body, is_warm=number > 0)
        return {
            "spans_received": len(receiver.spans),
            **{name: _figures(way, ways["off"]) for name, way in ways.items()},
        }


@contextlib.contextmanager
def _traced(url: str, share: str | None) -> Iterator[None]:
    """Sets the variables of what is started inside."""
    changed = {}
    if share is not None:
        changed = {
            _ENDPOINT: url,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": share,
        }
    os.environ.update(changed)
    try:
        yield
    finally:
        for name in changed:
            del os.environ[name]


def _way(stack: Stack) -> Failover:
    return Failover(
        stack, [Connection("127.0.0.1", stack.port, stack.key) for _ in range(CONNECTIONS)]
    )


async def _round(way: Failover, body: dict[str, Any], *, is_warm: bool) -> None:
    async def one(connection: int, _: int) -> Outcome:
        return await way.connections[connection].post("/v1/chat/completions", body)

    before = processes.cost(way.stack.orchestrator_pid)
    load = await run(CONNECTIONS, REQUESTS, one)
    if is_warm:
        way.take(load, processes.cost(way.stack.orchestrator_pid).since(before))


def _figures(way: Failover, off: Failover) -> dict[str, Any]:
    """Ratios are medians over pairs of rounds that ran one after the other."""
    rates = [mine / theirs for mine, theirs in zip(way.rates, off.rates, strict=True)]
    costs = [mine / theirs for mine, theirs in zip(way.cpu_s, off.cpu_s, strict=True)]
    return {
        "requests_per_s": round(statistics.median(way.rates), 1),
        "throughput_ratio": round(statistics.median(rates), 3),
        "cpu_ms_per_request": round(1000 * statistics.median(way.cpu_s) / REQUESTS, 3),
        "cpu_ratio": round(statistics.median(costs), 3),
        "failed": way.failed,
    }
