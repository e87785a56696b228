"""Threads for work that would block the event loop, shared fairly between tenants."""

from __future__ import annotations

import asyncio
import ctypes
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

LARGE_BYTES = 1024 * 1024
"""After work on this much, freed memory is returned to the system."""
TRIM_AFTER_S = 0.5


class FairThreads:
    """Runs one piece of work in each of `threads` threads; waiting tenants take turns.

    Started work cannot be stopped. A caller that is cancelled while its work runs waits until the
    work has finished, so that everything it holds (a place, a slot, bytes) stays held as long as
    the work uses resources. Work that has not started is dropped.
    """

    def __init__(self, threads: int, *, most_running_bytes: int) -> None:
        """Work waits while running work would exceed `most_running_bytes` with it.

        Work that would run alone never waits for that.
        """
        self._threads = threads
        self._most_running = most_running_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prompts")
        self._waiting: OrderedDict[str, deque[_Work]] = OrderedDict()
        self._running = 0
        self._running_bytes = 0
        self._trimming: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Number of pieces of work that have started and not finished."""
        return self._running

    @property
    def waiting(self) -> int:
        """Number of pieces of work that have not started."""
        return sum(map(len, self._waiting.values()))

    async def run(self, owner: str, size: int, work: Callable[[], T]) -> T:
        """Runs `work` on about `size` bytes in a turn of `owner`. Returns or raises as it does."""
        loop = asyncio.get_running_loop()
        one = _Work(size, work, loop.create_future())
        self._waiting.setdefault(owner, deque()).append(one)
        self._start()
        done = one.done
        assert done is not None
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if one.begun:
                await _ended(done)
            else:
                self._drop(owner, one)
            raise
        finally:
            # An error's traceback holds this frame. A reference from here back to the error would
            # be a cycle, and all that the work held would wait for the garbage collector.
            del done
            one.done = None

    async def close(self) -> None:
        """Waits for the work that has started."""
        if self._trimming is not None:
            self._trimming.cancel()
        await asyncio.to_thread(self._pool.shutdown)

    def _start(self) -> None:
        """Starts as much work as there is room for, one piece of each tenant in turn."""
        while self._waiting and self._running < self._threads:
            owner, works = next(iter(self._waiting.items()))
            if self._running and self._running_bytes + works[0].size > self._most_running:
                return
            one = works.popleft()
            # The next turn is another tenant's.
            del self._waiting[owner]
            if works:
                self._waiting[owner] = works
            self._begin(one)

    def _begin(self, one: _Work) -> None:
        loop = asyncio.get_running_loop()
        one.begun = True
        self._running += 1
        self._running_bytes += one.size

        def work() -> None:
            result, error = None, None
            try:
                result = one.work()
            except BaseException as fault:
                error = fault
            one.work = _nothing
            # The loop may be closed; then no caller waits for the result.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended, one, result, error)
            del result, error

        self._pool.submit(work)

    def _ended(self, one: _Work, result: Any, error: BaseException | None) -> None:
        self._running -= 1
        self._running_bytes -= one.size
        if one.size >= LARGE_BYTES:
            self._trim_later()
        done = one.done
        if done is not None and error is not None:
            done.set_exception(error)
            # Marks the error as retrieved: a caller that was cancelled never retrieves it.
            done.exception()
        elif done is not None:
            done.set_result(result)
        self._start()

    def _trim_later(self) -> None:
        """Schedules one trim, late enough that the caller has dropped the result of the work."""
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_AFTER_S, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        # It takes milliseconds and releases the interpreter's lock.
        with suppress(RuntimeError):
            self._pool.submit(trim_memory)

    def _drop(self, owner: str, one: _Work) -> None:
        works = self._waiting.get(owner)
        if works is not None and one in works:
            works.remove(one)
            if not works:
                del self._waiting[owner]


class _Work:
    """One piece of work."""

    __slots__ = ("begun", "done", "size", "work")

    def __init__(self, size: int, work: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        self.size = size
        self.work = work
        self.done: asyncio.Future[Any] | None = done
        self.begun = False


async def _ended(done: asyncio.Future[Any]) -> None:
    """Waits until `done` is done, however often the waiting task is cancelled."""
    while not done.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({done})


def _nothing() -> None:
    """Replaces finished work, so that nothing of the work stays in memory."""


def trim_memory() -> None:
    """Returns memory that the C library keeps to the system, if the C library supports that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
