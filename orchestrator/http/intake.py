"""Limits the memory of all requests, and runs work on large ones in threads."""

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
"""How much a server reads of a connection before the application asks. A body up to this size is
decoded at once, and no share counts it. Source: uvicorn's high-water mark."""
_MAX_THREADS = 4
MAX_MANAGEMENT_BYTES = 256 * 1024
"""Max bytes of the body of a call that manages keys or policies."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientLeftError(Exception):
    """The client disconnected while its body was read."""


class Intake:
    """Memory and threads for requests, one per process.

    `shares` counts the bytes of requests, in total and by tenant.
    """

    def __init__(self, shares: Shares, threads: FairThreads) -> None:
        self.shares = shares
        self._threads = threads

    async def decode(self, owner: str, body: bytes, read: Callable[[bytes], T]) -> T:
        """Decodes a body that is not small with `read`, in a thread. Raises: InvalidRequest."""

        def work() -> T:
            check_structure(body)
            return read(body)

        return await self._threads.run(owner, len(body), work)

    async def run(self, owner: str, size: int, work: Callable[[], T]) -> T:
        """Runs `work` on `size` bytes of `owner` in a thread. Returns or raises as it does."""
        return await self._threads.run(owner, size, work)


class Holder(ABC):
    """The part of a request that holds memory and runs large work.

    Small bodies count in no share, so that small requests pass however much large ones hold.
    """

    _intake: Intake
    _lease: Lease | None = None
    held_bytes = 0
    """Bytes that the request holds, small or not."""

    @property
    @abstractmethod
    def owner(self) -> str:
        """The tenant whose share of memory and threads it uses."""

    def hold(self, size: int) -> None:
        """Takes `size` more bytes until the request ends. Raises: RateLimited, Overloaded."""
        self.keep(self.held_bytes + size)

    def keep(self, size: int) -> None:
        """Sets the bytes held to `size`. Raises: RateLimited, Overloaded, if that is more."""
        counted = size if size > SMALL_BODY_BYTES else 0
        if self._lease is not None:
            self._lease.resize(counted)
        elif counted:
            self._lease = self._intake.shares.lease(self.owner, counted)
        self.held_bytes = size

    def hand_over(self) -> Lease | None:
        """Transfers the lease to work that outlives the request, which must release it."""
        lease, self._lease = self._lease, None
        return lease

    def release(self) -> None:
        """Releases what the request holds, at its end."""
        if self._lease is not None:
            self._lease.release()

    async def work(self, given: bytes, read: Callable[[bytes], T]) -> T:
        """Decodes JSON of the caller with `read`. Raises: InvalidRequest; what `read` raises.

        Runs in a thread if the JSON is not small, because it would block all other requests.
        """
        if len(given) <= SMALL_BODY_BYTES:
            return read(given)
        return await self._intake.decode(self.owner, given, read)

    async def work_on(self, size: int, work: Callable[[], T]) -> T:
        """Runs `work` on `size` bytes, in a thread if large. Returns or raises as it does."""
        if size <= SMALL_BODY_BYTES:
            return work()
        return await self._intake.run(self.owner, size, work)


def new_intake(settings: IntakeSettings, server: ServerSettings) -> tuple[Intake, FairThreads]:
    """Makes the intake of the settings, and the threads, which other work on prompts shares."""
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
    """Reads the whole body. `keep` reserves memory before it is read, or for each piece.

    `there` is the whole body, if it has arrived already.
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
    """The error for a body of more than `most` bytes."""
    return PayloadTooLarge(f"The request body may have {most} bytes at most; {given}.")
