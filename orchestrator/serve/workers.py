"""All HTTP workers of one appliance, on one listening socket."""

from __future__ import annotations

import asyncio
import socket

from orchestrator.serve.worker import Worker
from orchestrator.settings import Settings
from orchestrator.supervisor import Endpoint


class Workers:
    """As many as `server.workers` says; the kernel gives each connection to one of them."""

    def __init__(
        self, settings: Settings, listener: socket.socket, endpoint: Endpoint | None
    ) -> None:
        self._all = [
            Worker(settings, listener, endpoint, number)
            for number in range(settings.server.workers)
        ]

    def is_up(self) -> None:
        """Notes that the start went well: from now on whoever ends is started again."""
        for worker in self._all:
            worker.is_up()

    async def run(self) -> None:
        """Returns after `stop`. Raises: WorkerError when one ends before the start went well."""
        running = [asyncio.create_task(worker.run()) for worker in self._all]
        await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        # Where one cannot start the others could not either, or would hide it.
        await self.stop()
        await asyncio.wait(running)
        for worker in running:
            worker.result()

    async def stop(self) -> None:
        """Lets running answers end within `server.drain_s`, in all of them at the same time."""
        await asyncio.gather(*(worker.stop() for worker in self._all))

    def kill(self) -> None:
        """Ends them at once; `stop` returns soon after."""
        for worker in self._all:
            worker.kill()
