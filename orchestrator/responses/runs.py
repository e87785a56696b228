"""Responses that run in the background of this worker, independent of client connections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.core.errors import Overloaded
from orchestrator.responses.service import Responses
from orchestrator.responses.values import StoredResponse
from orchestrator.settings import ResponsesSettings
from orchestrator.store.database import StoreError
from orchestrator.telemetry.calls import outlive

logger = logging.getLogger(__name__)

_MAX_BEAT_S = 1.0


class Work(Protocol):
    """A response that is being generated."""

    def frames(self) -> AsyncGenerator[bytes, None]:
        """Yields its events as they come. An error is reported as an event, and is the last one."""
        ...

    def interrupt(self) -> None:
        """Called before it is ended because the server stops, not at its client's request."""
        ...

    def interrupted(self) -> Sequence[bytes]:
        """Returns the events that end it at once, without its answer."""
        ...

    def kept(self) -> StoredResponse:
        """Returns the response as it is now."""
        ...

    def close(self) -> None:
        """Called once, when it is finished: releases the memory of its request."""
        ...


@dataclass(slots=True)
class _Run:
    """One running response. `waiting` are the events that are not stored yet."""

    work: Work
    waiting: list[bytes] = field(default_factory=list)
    producer: asyncio.Task[None] | None = None
    task: asyncio.Task[None] | None = None


class Runs:
    """The background responses of one worker. `close` ends those that still run."""

    def __init__(self, responses: Responses, settings: ResponsesSettings) -> None:
        self._responses = responses
        self._settings = settings
        self._beat_s = min(_MAX_BEAT_S, settings.lost_after_s / 5)
        self._runs: dict[str, _Run] = {}
        self._coming = 0
        self._closing = False

    def check(self) -> None:
        """Raises: Overloaded when no more can run."""
        running = len(self._runs) + self._coming
        if self._closing or running >= self._settings.most_running:
            raise Overloaded(
                f"{running} responses run in the background already; this is the most.",
                retry_after_s=1.0,
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Reserves room for a response while it is stored and started. Raises: Overloaded."""
        self.check()
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    def start(self, work: Work) -> None:
        """Starts `work`, whose response has been stored. Returns at once."""
        run = _Run(work)
        response_id = work.kept().id
        self._runs[response_id] = run
        run.task = asyncio.create_task(self._run(response_id, run))

    def stop(self, response_id: str) -> None:
        """Ends that response, if it runs here, and closes its generation."""
        run = self._runs.get(response_id)
        if run is not None and run.producer is not None:
            run.producer.cancel()

    async def close(self) -> None:
        """Ends all responses and stores their ends."""
        self._closing = True
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        # Let tasks that were just created start, so that they can be ended.
        await asyncio.sleep(0)
        for response_id, run in list(self._runs.items()):
            run.work.interrupt()
            self.stop(response_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, response_id: str, run: _Run) -> None:
        outlive()
        run.producer = asyncio.create_task(_produce(run))
        noted_at = time.monotonic()
        try:
            while not run.producer.done():
                await asyncio.wait({run.producer}, timeout=self._settings.poll_s)
                idle_s = time.monotonic() - noted_at
                if run.producer.done() or not (run.waiting or idle_s >= self._beat_s):
                    continue
                noted_at = time.monotonic()
                if not await self._note(run):
                    # Cancelled or deleted, by this or another worker.
                    run.producer.cancel()
            (fault,) = await asyncio.gather(run.producer, return_exceptions=True)
            if isinstance(fault, Exception):
                logger.error("the background response %s failed", response_id, exc_info=fault)
            if run.work.kept().running:
                run.waiting += run.work.interrupted()
            await self._finish(run)
        except Exception:
            logger.exception("the background response %s is not written down", response_id)
        finally:
            run.producer.cancel()
            del self._runs[response_id]
            run.work.close()

    async def _note(self, run: _Run) -> bool:
        """Writes the waiting events. Returns False when the response was cancelled or deleted."""
        frames = list(run.waiting)
        kept = run.work.kept()
        # `_finish` writes the last event together with the answer.
        if not kept.running:
            return True
        try:
            if not frames:
                return await self._responses.touch(kept.id)
            if not await self._responses.advance(kept, frames):
                return False
        except StoreError as error:
            logger.warning("events of %s are not stored yet: %s", kept.id, error)
            return True
        del run.waiting[: len(frames)]
        return True

    async def _finish(self, run: _Run) -> None:
        """Writes the end, in several attempts if needed."""
        kept = run.work.kept()
        give_up_at = time.monotonic() + self._settings.lost_after_s
        while True:
            try:
                await self._responses.advance(kept, run.waiting)
            except StoreError as error:
                logger.warning("the end of %s is not stored yet: %s", kept.id, error)
                if self._closing or time.monotonic() > give_up_at:
                    return
                await asyncio.sleep(self._settings.poll_s)
            else:
                return


async def _produce(run: _Run) -> None:
    async with aclosing(run.work.frames()) as frames:
        async for frame in frames:
            run.waiting.append(frame)
