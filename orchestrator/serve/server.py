"""uvicorn's server, with limits on its connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from orchestrator.serve.acceptor import Acceptor
from orchestrator.serve.board import Seat
from orchestrator.serve.connections import Connections, Guarded, Limits
from orchestrator.serve.descriptors import most_connections
from orchestrator.settings import ServerSettings
from orchestrator.telemetry.instruments import Registry


class GuardedServer(uvicorn.Server):
    """Serves listening sockets that are already open."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: ServerSettings,
        registry: Registry | None = None,
        *,
        is_proxy: Callable[[str], bool] = lambda _: False,
        seat: Seat | None = None,
    ) -> None:
        """Counts in `registry`; `is_proxy` says whether an address is a trusted proxy's.

        `seat` is this worker's, if several accept on the same sockets.
        """
        super().__init__(config)
        self._settings = settings
        self._registry = registry
        self._is_proxy = is_proxy
        self._seat = seat
        self.guard: Connections | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, and then accepts on `sockets`."""
        # The application first: its open descriptors reduce the number left for connections.
        await super().startup(sockets=[])
        most = most_connections(self._settings.max_connections)
        limits = Limits.of(self._settings, most)
        guard = self.guard = Connections(limits, self._registry, is_proxy=self._is_proxy)
        guard.start()
        acceptors: list[Any] = [
            Acceptor(one, guard, self._protocol, self._seat) for one in sockets or ()
        ]
        self.servers += acceptors

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more, and lets running requests finish."""
        await super().shutdown(sockets)
        if self.guard is not None:
            self.guard.stop()

    def _protocol(self) -> Guarded:
        make: Any = self.config.http_protocol_class
        protocol: Guarded = make(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )
        return protocol
