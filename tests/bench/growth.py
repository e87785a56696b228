"""How the cost of a request grows with its size, and whether anybody else has to wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench import load, processes
from tests.bench.engine.work import BURST
from tests.bench.field import CHAT
from tests.bench.gateways import Target

LOOK_EVERY_S = 0.002
WORDS = "the sea is wide and the ships are small "


@dataclass(frozen=True, slots=True)
class Growth:
    """CPU of one request by its size, and the longest that another had to wait."""

    name: str
    unit: str
    cpu_ms: Mapping[int, float]
    stall_ms: Mapping[int, float]

    @property
    def steepness(self) -> float:
        """What the step to the largest costs for each unit, over what the one before it cost.

        About 1 is linear, and the ratio of the two sizes is quadratic. Costs below a millisecond
        are too small to be compared.
        """
        (one, a), (two, b), (three, c) = list(self.cpu_ms.items())[-3:]
        if c < 1.0 or b <= a:
            return 1.0
        return ((c - b) / (three - two)) / ((b - a) / (two - one))


async def measure(target: Target, repetitions: int) -> list[Growth]:
    """Every kind of size."""
    return [
        await _growth(target, name, unit, bodies, repetitions)
        for name, unit, bodies in (
            ("prompt", "tokens", _prompts()),
            ("messages", "messages", _messages()),
            ("stop strings", "strings", _stops()),
            ("tools", "tools", _tools()),
            ("JSON schema", "properties", _schemas()),
        )
    ]


async def stall_ms(target: Target, raw: bytes) -> float:
    """The longest that a look at `/health/live` took while `raw` was answered.

    What the machine itself adds is in it, so callers take the least of several.
    """
    asker = await load.Client.open("127.0.0.1", target.port)
    looker = await load.Client.open("127.0.0.1", target.port)
    look = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n\r\n".encode()
    await looker.ask(look)
    longest = 0.0
    answering = asyncio.create_task(asker.ask(raw))
    try:
        while not answering.done():
            seen = await looker.ask(look)
            longest = max(longest, seen.ended_at - seen.asked_at)
            await asyncio.sleep(LOOK_EVERY_S)
        answer = await answering
        assert answer.status == 200, asker.last_body[:500]
    finally:
        asker.drop()
        looker.drop()
    return 1000 * longest


async def _growth(
    target: Target, name: str, unit: str, bodies: Iterator[tuple[int, dict[str, Any]]], times: int
) -> Growth:
    cpu_ms, stalls = {}, {}
    for size, body in bodies:
        raw = load.request("127.0.0.1", target.port, CHAT, body, target.headers)
        await stall_ms(target, raw)
        stalls[size] = min([await stall_ms(target, raw) for _ in range(times)])
        cpu_ms[size] = statistics.median([await _cpu_ms(target, raw) for _ in range(times)])
    return Growth(name, unit, cpu_ms, stalls)


async def _cpu_ms(target: Target, raw: bytes) -> float:
    """Of one request, out of as many as take at least half a second."""
    client = await load.Client.open("127.0.0.1", target.port)
    with contextlib.closing(_Dropping(client)):
        before, began_at = processes.cost(target.pid), time.perf_counter()
        requests = 0
        while time.perf_counter() - began_at < 0.5:
            await client.ask(raw)
            requests += 1
        return 1000 * processes.cost(target.pid).since(before) / requests


class _Dropping:
    """Closes a client as a block ends."""

    def __init__(self, client: load.Client) -> None:
        self._client = client

    def close(self) -> None:
        self._client.drop()


def _body(**members: Any) -> dict[str, Any]:
    question = {"role": "user", "content": "Go on."}
    return {"model": BURST, "messages": [question], "max_tokens": 16, **members}


def _prompts() -> Iterator[tuple[int, dict[str, Any]]]:
    """Of this vocabulary a word is about one token."""
    for tokens in (10, 1_000, 10_000, 100_000):
        text = load.NUMBER + WORDS * (tokens // 9 + 1)
        yield tokens, _body(messages=[{"role": "user", "content": text}])


def _messages() -> Iterator[tuple[int, dict[str, Any]]]:
    for count in (1, 50, 250, 500):
        roles = ("user", "assistant")
        yield (
            count,
            _body(
                messages=[
                    {"role": roles[number % 2], "content": f"{number} {load.NUMBER} {WORDS}"}
                    for number in range(count - 1)
                ]
                + [{"role": "user", "content": "Go on."}]
            ),
        )


def _stops() -> Iterator[tuple[int, dict[str, Any]]]:
    for count in (0, 1, 2, 4):
        stops = {"stop": [f" sentence{number} that never comes" for number in range(count)]}
        yield count, _body(max_tokens=512, stream=True, **(stops if count else {}))


def _tools() -> Iterator[tuple[int, dict[str, Any]]]:
    for count in (0, 16, 64, 128):
        tools = {"tools": [_tool(number) for number in range(count)]}
        yield count, _body(**(tools if count else {}))


def _tool(number: int) -> dict[str, Any]:
    members = {f"member_{one}": {"type": "string", "description": WORDS} for one in range(8)}
    parameters = {"type": "object", "properties": members, "required": ["member_0"]}
    function = {"name": f"tool_{number}", "description": WORDS, "parameters": parameters}
    return {"type": "function", "function": function}


def _schemas() -> Iterator[tuple[int, dict[str, Any]]]:
    for count in (1, 50, 100, 400):
        members = {f"member_{one}": {"type": "string", "maxLength": 40} for one in range(count)}
        schema = {
            "type": "object",
            "properties": members,
            "required": list(members),
            "additionalProperties": False,
        }
        wanted = {"name": "answer", "schema": json.loads(json.dumps(schema))}
        yield count, _body(response_format={"type": "json_schema", "json_schema": wanted})
