"""The HTTP worker: the process that runs the application, and the parent's control of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from pathlib import Path

from orchestrator.serve.board import Board
from orchestrator.serve.worker_processes import WorkerProcesses
from orchestrator.settings import Settings

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STABLE_S = 60.0
_KILL_AFTER_S = 10.0
"""Seconds beyond the drain time, for closing what the application holds."""
_WORKER, _STANDBY = "op-worker", "op-standby"
"""The names of the processes in the kernel's process list."""


class WorkerError(Exception):
    """The worker did not start; the message is one sentence for the operator."""


def run_worker(settings: Settings, fd: int, board_fd: int | None = None) -> int:
    """Serves the application on the inherited listening socket `fd` until SIGTERM.

    It starts when it receives its worker number on standard input. `board_fd` is the memory of
    the workers' `Board`, if there are several.
    """
    _call_it(_STANDBY)
    # Imported here: the parent imports this module too, and does not need the application.
    from orchestrator.serve.application import serve_application

    if not (number := sys.stdin.readline().strip()):
        # The appliance has stopped without needing this process.
        return 0
    _call_it(_WORKER)
    return serve_application(settings, int(number), fd, board_fd)


def _call_it(name: str) -> None:
    """Sets the name of this process in process lists."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


class Worker:
    """The parent's side. `run` keeps a worker alive until `stop`."""

    def __init__(
        self,
        settings: Settings,
        processes: WorkerProcesses,
        number: int = 0,
        board: Board | None = None,
    ) -> None:
        """A worker is not on `board` between its end and the start of its successor."""
        self._settings = settings
        self._board = board
        self._processes = processes
        self._number = number
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._is_up = False

    @property
    def pid(self) -> int | None:
        """The id of the current process."""
        return self._process.pid if self._process is not None else None

    def is_up(self) -> None:
        """Records that the worker has answered: from now on it is restarted when it ends."""
        self._is_up = True

    async def run(self) -> None:
        """Returns after `stop`. Raises: WorkerError when the first worker ends before it is up."""
        failures = 0
        while not self._stopping.is_set():
            began_at = time.monotonic()
            code = await self._live()
            if self._board is not None:
                self._board.leave(self._number)
            if self._stopping.is_set():
                return
            if not self._is_up:
                raise WorkerError(f"the HTTP worker ended with code {code} while it started")
            if time.monotonic() - began_at > _STABLE_S:
                failures = 0
            delay_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            failures += 1
            logger.error("the HTTP worker ended with code %d, next start in %g s", code, delay_s)
            await self._pause(delay_s)

    async def stop(self) -> None:
        """Lets running answers finish within `server.drain_s`, then ends the process."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        _send(process, signal.SIGTERM)
        ended = asyncio.create_task(process.wait())
        await asyncio.wait([ended], timeout=self._settings.server.drain_s + _KILL_AFTER_S)
        if not ended.done():
            logger.error("the HTTP worker did not stop in time and is killed")
            _send(process, signal.SIGKILL)
        await ended

    def kill(self) -> None:
        """Ends the process at once; `stop` returns soon after."""
        self._stopping.set()
        if self._process is not None:
            _send(self._process, signal.SIGKILL)

    async def _live(self) -> int:
        self._process = await self._processes.take(self._number)
        if self._stopping.is_set():
            _send(self._process, signal.SIGTERM)
        return await self._process.wait()

    async def _pause(self, delay_s: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        except TimeoutError:
            return


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)
