"""All HTTP workers of one appliance, on one listening socket."""

from __future__ import annotations

import asyncio
import os
import socket

from orchestrator.serve.board import Board
from orchestrator.serve.worker import Worker
from orchestrator.serve.worker_processes import WorkerProcesses
from orchestrator.settings import Settings
from orchestrator.supervisor import Endpoint


class Workers:
    """Runs `server.workers` workers; each connection goes to one that has the fewest."""

    def __init__(
        self, settings: Settings, listener: socket.socket, endpoint: Endpoint | None
    ) -> None:
        count = settings.server.workers
        self._memory = Board.memory(count) if count > 1 else None
        self._board = Board(self._memory, count) if self._memory is not None else None
        self._processes = WorkerProcesses(settings, endpoint, listener.fileno(), self._memory)
        self._all = [
            Worker(settings, self._processes, number, self._board) for number in range(count)
        ]
        self._is_up = asyncio.Event()
        self._standby: asyncio.Task[None] | None = None

    def is_up(self) -> None:
        """Records that the start succeeded: from now on a worker that ends is restarted."""
        for worker in self._all:
            worker.is_up()
        self._is_up.set()

    async def run(self) -> None:
        """Returns after `stop`. Raises: WorkerError when one ends before the start succeeded."""
        running = [asyncio.create_task(worker.run()) for worker in self._all]
        self._standby = asyncio.create_task(self._keep_standby())
        await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        # If one cannot start, the others could not either, or would hide the failure.
        await self.stop()
        await asyncio.wait(running)
        if self._memory is not None:
            os.close(self._memory)
        for worker in running:
            worker.result()

    async def stop(self) -> None:
        """Lets running answers finish within `server.drain_s`, in all workers at the same time."""
        await asyncio.gather(self._end_standby(), *(worker.stop() for worker in self._all))

    def kill(self) -> None:
        """Ends all workers at once; `stop` returns soon after."""
        for worker in self._all:
            worker.kill()

    async def _keep_standby(self) -> None:
        await self._is_up.wait()
        await self._processes.keep_standby()

    async def _end_standby(self) -> None:
        """Ends the standby process: clients would wait at its open listening socket."""
        if self._standby is not None:
            self._standby.cancel()
            await asyncio.wait([self._standby])
        await self._processes.close()
