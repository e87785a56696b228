"""What of requests may be in memory at once, and the threads that large ones are worked on in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from orchestrator.cgroup import usable_processors
from orchestrator.core.errors import PayloadTooLarge
from orchestrator.core.fair_threads import FairThreads
from orchestrator.core.shares import Lease, Shares
from orchestrator.http.structure import check_structure
from orchestrator.settings import IntakeSettings, ServerSettings

T = TypeVar("T")

SMALL_BODY_BYTES = 64 * 1024
"""What a server has read of a connection before anybody asks. Source: uvicorn's high-water mark.
Up to here a body is decoded at once and counted nowhere."""
_MAX_THREADS = 4
MAX_MANAGEMENT_BYTES = 256 * 1024
"""Of the body of a call that manages keys or policies."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientLeftError(Exception):
    """The client went away while its body was read."""


class Intake:
    """One per process. `shares` are of the bytes of requests, in all and by tenant."""

    def __init__(self, shares: Shares, threads: FairThreads) -> None:
        self.shares = shares
        self._threads = threads

    async def decode(self, owner: str, body: bytes, read: Callable[[bytes], T]) -> T:
        """What `read` makes of a body that is not small. Raises: InvalidRequest."""

        def work() -> T:
            check_structure(body)
            return read(body)

        return await self._threads.run(owner, len(body), work)

    async def run(self, owner: str, size: int, work: Callable[[], T]) -> T:
        """What `work` on `size` bytes of `owner` returns or raises."""
        return await self._threads.run(owner, size, work)


class Holder(ABC):
    """A request in as far as it holds memory and has large work done.

    What is small counts in no share, so that small requests pass whatever large ones hold.
    """

    _intake: Intake
    _lease: Lease | None = None
    held_bytes = 0
    """What it holds, small or not."""

    @property
    @abstractmethod
    def owner(self) -> str:
        """Whose share of memory and threads it uses."""

    def hold(self, size: int) -> None:
        """Takes `size` more bytes, until its end. Raises: RateLimited, Overloaded."""
        self.keep(self.held_bytes + size)

    def keep(self, size: int) -> None:
        """Holds `size` bytes in all from now on. Raises: RateLimited, Overloaded, if it is more."""
        counted = size if size > SMALL_BODY_BYTES else 0
        if self._lease is not None:
            self._lease.resize(counted)
        elif counted:
            self._lease = self._intake.shares.lease(self.owner, counted)
        self.held_bytes = size

    def hand_over(self) -> Lease | None:
        """What it holds, for work that goes on after it; to be released there."""
        lease, self._lease = self._lease, None
        return lease

    def release(self) -> None:
        """Returns what it holds, at its end."""
        if self._lease is not None:
            self._lease.release()

    async def work(self, given: bytes, read: Callable[[bytes], T]) -> T:
        """What `read` makes of JSON that the caller sent. Raises: InvalidRequest; what it raises.

        In a thread where it is not small: reading it would hold up everybody else.
        """
        if len(given) <= SMALL_BODY_BYTES:
            return read(given)
        return await self._intake.decode(self.owner, given, read)

    async def work_on(self, size: int, work: Callable[[], T]) -> T:
        """What `work` on `size` bytes returns or raises, in a thread where they are many."""
        if size <= SMALL_BODY_BYTES:
            return work()
        return await self._intake.run(self.owner, size, work)


def new_intake(settings: IntakeSettings, server: ServerSettings) -> tuple[Intake, FairThreads]:
    """What the settings say, and the threads for all other work on prompts."""
    most_each = settings.tenant_bytes(server.max_body_bytes)
    count = settings.threads or min(max(1, usable_processors() // 2), _MAX_THREADS)
    threads = FairThreads(count, most_running_bytes=most_each)
    shares = Shares(settings.all_bytes(server.max_body_bytes), most_each)
    return Intake(shares, threads), threads


async def read_body(
    receive: Receive,
    there: bytes | None,
    declared: int | None,
    most: int,
    keep: Callable[[int], None],
) -> bytes:
    """The whole body; `keep` takes room for it before it is read, or for each piece as it comes.

    `there` is all of it, where it has come already.
    Raises: PayloadTooLarge, RateLimited, Overloaded, ClientLeftError.
    """
    if declared is not None and declared > most:
        raise too_large(most, f"{declared} were announced")
    if there is not None and len(there) > most:
        raise too_large(most, "more were sent")
    room = len(there) if there is not None else declared or 0
    keep(room)
    if there is not None:
        return there
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise too_large(most, "more were sent")
        if size > room:
            room = size
            keep(room)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def too_large(most: int, given: str) -> PayloadTooLarge:
    """The error of a body of more than `most` bytes."""
    return PayloadTooLarge(f"The request body may have {most} bytes at most; {given}.")
