"""A load generator that costs little itself: HTTP/1.1 on raw sockets, bytes counted, not parsed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

READ_BYTES = 65536
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":(\d+)')


@dataclass(slots=True)
class Outcome:
    """One request as its client saw it. Times are seconds after its start."""

    status: int = 0
    first_s: float = 0.0
    total_s: float = 0.0
    chunks: int = 0
    tokens: int = 0
    """Of the answer, as its `usage` counts them; 0 where there is none."""
    body: bytes = b""
    """The end of the reply."""


@dataclass(slots=True)
class Load:
    """All outcomes of one run, and how long the run took."""

    outcomes: list[Outcome] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(outcome.tokens for outcome in self.outcomes)

    def percentile(self, share: float, attribute: str = "first_s") -> float:
        """The value of `attribute` below which `share` of the outcomes lie."""
        values = sorted(getattr(outcome, attribute) for outcome in self.outcomes)
        return float(values[min(len(values) - 1, int(share * len(values)))]) if values else 0.0


class Connection:
    """One keep-alive connection to the front door."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host, self._port, self._key = host, port, key
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: dict[str, Any], *, request_id: str = "") -> Outcome:
        """One request. With a `request_id`, the server is asked to use it."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        raw = json.dumps(body).encode()
        named = f"X-Request-Id: {request_id}\r\n" if request_id else ""
        outcome, started = Outcome(), time.perf_counter()
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n{named}\r\n".encode()
            + raw
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        outcome.status = int(head[9:12])
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            await self._read_chunked(outcome, started)
        else:
            length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
            outcome.body = await self._reader.readexactly(length)
            outcome.first_s = time.perf_counter() - started
        outcome.total_s = time.perf_counter() - started
        if counted := _COMPLETION_TOKENS.search(outcome.body):
            outcome.tokens = int(counted[1])
        if b"connection: close" in lowered:
            self.drop()
        return outcome

    async def _read_chunked(self, outcome: Outcome, started: float) -> None:
        assert self._reader is not None
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            piece = await self._reader.read(READ_BYTES)
            if not piece:
                self.drop()
                return
            if not outcome.first_s:
                outcome.first_s = time.perf_counter() - started
            outcome.chunks += piece.count(b'"content":"') - piece.count(b'"content":""')
            outcome.body = (outcome.body + piece)[-4096:]
            tail = outcome.body[-5:]

    def drop(self) -> None:
        """Closes the connection in the middle of whatever it is doing."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


async def run(
    connections: int,
    requests: int,
    one: Callable[[int, int], Awaitable[Outcome]],
    *,
    apart_s: float = 0.0,
) -> Load:
    """`requests` calls of `one(connection, number)`, by connections that begin `apart_s` apart."""
    load, numbers = Load(), iter(range(requests))

    async def worker(connection: int) -> None:
        await asyncio.sleep(connection * apart_s)
        for number in numbers:
            load.outcomes.append(await one(connection, number))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connection in range(connections):
            group.create_task(worker(connection))
    load.wall_s = time.perf_counter() - started
    return load
