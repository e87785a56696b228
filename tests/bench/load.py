"""A load generator that costs little itself: HTTP/1.1 on bare protocols, bytes counted, not parsed.

Requests are written down beforehand but for a number that no other has, and every token's arrival
is noted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

_TOKEN = re.compile(rb" sentence| sea")
"""What the tokens of the engine are, behind Triton's protocol and behind HTTP."""
_CLOSED_AFTER_S = 600.0
NUMBER = "000000000000"
"""Stands in a request for a number of its own: whoever remembers whole prompts gains nothing."""
_NUMBER = NUMBER.encode()


@dataclass(slots=True)
class Answer:
    """One request as its client saw it. Times are of `time.perf_counter()`."""

    asked_at: float = 0.0
    ended_at: float = 0.0
    status: int = 0
    arrivals: list[float] = field(default_factory=list)
    """When each token came, where it is a stream."""
    body_bytes: int = 0

    @property
    def first_s(self) -> float:
        """How long the first token took, or the whole answer."""
        return (self.arrivals[0] if self.arrivals else self.ended_at) - self.asked_at


@dataclass(slots=True)
class Load:
    """All answers of one run, and how long the run took."""

    answers: list[Answer] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens that came as pieces of a stream."""
        return sum(len(answer.arrivals) for answer in self.answers)

    @property
    def failed(self) -> int:
        """Answers that were none."""
        return sum(answer.status != 200 for answer in self.answers)

    @property
    def requests_per_s(self) -> float:
        """Of all connections together."""
        return len(self.answers) / self.wall_s


def request(
    host: str, port: int, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> bytes:
    """A POST as it goes over the wire."""
    raw = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Content-Type: application/json",
        "Accept: */*",
        f"Content-Length: {len(raw)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def numbered(raw: bytes) -> bytes:
    """`raw` with a number that no other request has in place of each `NUMBER`."""
    return raw.replace(_NUMBER, b"%0*d" % (len(_NUMBER), time.perf_counter_ns() % 10**12))


class Asker(Protocol):
    """Whoever takes requests, one at a time."""

    async def ask(self, raw: bytes) -> Answer:
        """Sends a request, numbered, and returns when its answer has ended."""


class Client(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer = Answer()
        self._over: asyncio.Future[None] | None = None
        self._head = b""
        self._length = -1
        self._tail = b""
        self.last_body = b""
        """The reply to the last request, if it came whole."""

    @classmethod
    async def open(cls, host: str, port: int) -> Client:
        """A connection to that port."""
        _, client = await asyncio.get_running_loop().create_connection(cls, host, port)
        return client

    @property
    def has_token(self) -> bool:
        """Whether the first token of the present answer is there."""
        return bool(self._answer.arrivals)

    async def ask(self, raw: bytes) -> Answer:
        """See `Asker.ask`."""
        assert self._transport is not None
        raw = numbered(raw)
        self._over = asyncio.get_running_loop().create_future()
        self._answer, self._head, self._length, self._tail = Answer(), b"", -1, b""
        self.last_body = b""
        self._answer.asked_at = time.perf_counter()
        self._transport.write(raw)
        await self._over
        return self._answer

    def drop(self) -> None:
        """Closes the connection in the middle of whatever it is doing."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc
        if self._over is not None and not self._over.done():
            self._answer.status = 0
            self._end()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        answer = self._answer
        if not answer.status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[:end].lower(), self._head[end + 4 :]
            answer.status = int(head[9:12])
            if (at := head.find(b"content-length:")) >= 0:
                self._length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        answer.body_bytes += len(data)
        if self._length >= 0:
            if answer.body_bytes < 65_536:
                self.last_body += data
            if answer.body_bytes >= self._length:
                self._end()
            return
        if count := len(_TOKEN.findall(data)):
            answer.arrivals += [time.perf_counter()] * count
        self._tail = (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n":
            self._end()

    def _end(self) -> None:
        self._answer.ended_at = time.perf_counter()
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


async def run(clients: Sequence[Asker], requests: int, raw: bytes, *, apart_s: float = 0.0) -> Load:
    """`raw` so many times, as many at a time as there are clients, which begin `apart_s` apart."""
    load, numbers = Load(), iter(range(requests))

    async def worker(place: int, client: Asker, numbers: Iterator[int]) -> None:
        await asyncio.sleep(place * apart_s)
        for _ in numbers:
            load.answers.append(await client.ask(raw))
            if load.answers[-1].status == 0:
                return

    gc.collect()
    gc.disable()
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_CLOSED_AFTER_S), asyncio.TaskGroup() as group:
            for place, client in enumerate(clients):
                group.create_task(worker(place, client, numbers))
    finally:
        gc.enable()
    load.wall_s = time.perf_counter() - started
    return load
