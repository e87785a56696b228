"""A few processes that evaluate rules, shared by all tenants of one worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.core.turns import NoTurnError, Turns
from orchestrator.rego import Bounds, EvaluatorsError, NoAnswerError
from orchestrator.rego.frames import packed
from orchestrator.rego.process import EvaluatorProcess, ProcessEndedError

logger = logging.getLogger(__name__)

_MAX_WAITING = 1024
"""Max questions of one tenant that wait; each takes some kilobytes of memory."""
_PROBLEM_S = 60.0
"""Seconds for which a failed start of a process is reported as a problem."""


class Evaluators:
    """Starts processes when there is work, and ends those that had none for `idle_s`.

    One tenant never has all of them, so there is always one for another.
    """

    def __init__(
        self, gateway: str, *, places: int, memory_bytes: int, idle_s: float = 600.0
    ) -> None:
        """`gateway` is the source of the product's rules; `places` the max processes, 2 or more.

        `memory_bytes` is what one evaluation may add to the memory of its process.
        """
        self._gateway = gateway
        self._memory_bytes = memory_bytes
        self._idle_s = idle_s
        self._turns = Turns(places, per_owner=max(1, places - 1), most_waiting=_MAX_WAITING)
        self._idle: list[tuple[EvaluatorProcess, float]] = []
        self._busy: set[EvaluatorProcess] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._problem = ""
        self._problem_at = 0.0

    @asynccontextmanager
    async def place(self, tenant_id: str, patience_s: float) -> AsyncIterator[Place]:
        """Enters a place in which to evaluate for that tenant. Raises: EvaluatorsError."""
        try:
            async with self._turns.turn(tenant_id, patience_s):
                yield Place(self)
        except NoTurnError as error:
            raise EvaluatorsError(str(error)) from error

    def problem(self) -> str:
        """Returns why processes cannot be started, as of the last minute; usually empty."""
        recent = self._problem and time.monotonic() - self._problem_at < _PROBLEM_S
        return self._problem if recent else ""

    @property
    def running(self) -> int:
        """Number of processes."""
        return len(self._idle) + len(self._busy)

    async def close(self) -> None:
        """Ends all processes, idle or not."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        ending = [*self._busy, *(one for one, _ in self._idle)]
        self._idle.clear()
        await asyncio.gather(*(one.stop() for one in ending), *self._ending)

    async def taken(self, *, fresh: bool) -> EvaluatorProcess:
        """Returns a process for one use, a new one if `fresh`. Raises: EvaluatorsError."""
        while self._idle:
            process, _ = self._idle.pop()
            if process.is_alive and not fresh:
                self._busy.add(process)
                return process
            self._end(process)
        try:
            process = await EvaluatorProcess.start(self._gateway, self._memory_bytes)
        except EvaluatorsError as error:
            if not self.problem():
                logger.error("modules of policies cannot be evaluated: %s", error)
            self._problem, self._problem_at = str(error), time.monotonic()
            raise
        self._problem = ""
        self._busy.add(process)
        return process

    def put_back(self, process: EvaluatorProcess) -> None:
        """Ends the use that `taken` started."""
        self._busy.discard(process)
        if process.is_last or not process.is_alive:
            self._end(process)
            return
        self._idle.append((process, time.monotonic()))
        if self._sweeping is None:
            self._sweep()

    def _end(self, process: EvaluatorProcess) -> None:
        ending = asyncio.create_task(process.stop())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _sweep(self) -> None:
        """Ends processes that were idle for too long, and looks again while any are idle."""
        oldest = time.monotonic() - self._idle_s
        for process, since in self._idle:
            if since <= oldest:
                self._end(process)
        self._idle = [one for one in self._idle if one[1] > oldest]
        self._sweeping = None
        if self._idle:
            loop = asyncio.get_running_loop()
            self._sweeping = loop.call_later(self._idle_s / 2, self._sweep)


class Place:
    """The right to evaluate, one question after the other."""

    def __init__(self, evaluators: Evaluators) -> None:
        self._evaluators = evaluators

    async def answer(self, module: str | None, document: Mapping[str, Any], bounds: Bounds) -> Any:
        """Evaluates Rego's `decision` about `document`. Raises: NoAnswerError."""
        return (await self.reply(module, document, bounds))["answer"]

    async def reply(
        self,
        module: str | None,
        document: Mapping[str, Any],
        bounds: Bounds,
        param: str | None = None,
    ) -> dict[str, Any]:
        """Returns `answer`, or `invalid` if it checks a module as `param`, and `cpu_s`.

        Raises: NoAnswerError.
        """
        asked = {
            "module": module,
            "input": document,
            "compile_s": bounds.compile_s,
            "ask_s": bounds.ask_s,
        }
        frame = packed(asked if param is None else {**asked, "param": param})
        try:
            reply = await self._asked(frame, bounds.wall_s, fresh=False)
        except ProcessEndedError:
            # An earlier question may have been the cause: a new process has to fail as well.
            reply = await self._asked(frame, bounds.wall_s, fresh=True)
        if "none" in reply:
            raise NoAnswerError(reply["none"])
        return reply

    async def _asked(self, frame: bytes, wall_s: float, *, fresh: bool) -> dict[str, Any]:
        process = await self._evaluators.taken(fresh=fresh)
        try:
            return await process.ask(frame, wall_s)
        finally:
            self._evaluators.put_back(process)
