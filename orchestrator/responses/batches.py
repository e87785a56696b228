"""Batches writes: items that arrive during one transaction share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Batches(Generic[T]):
    """Writes items, all waiting ones at once. Call `close` before the event loop ends."""

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, item: T) -> None:
        """Returns when `item` is written. Raises the error of its batch's write.

        The item is written even if the caller does not wait for it.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        await written

    async def close(self) -> None:
        """Returns when all items are written."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            fault: Exception | None = None
            try:
                await self._write([item for item, _ in batch])
            except Exception as error:  # passed to the waiting callers
                fault = error
            for _, written in batch:
                if written.done():
                    continue
                if fault is None:
                    written.set_result(None)
                else:
                    written.set_exception(fault)
