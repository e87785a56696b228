"""The telemetry of one process: spans, metrics, and how they are sent."""

from __future__ import annotations

import asyncio
import time
from contextvars import Token
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.settings import Settings
from orchestrator.telemetry import calls
from orchestrator.telemetry.calls import Call
from orchestrator.telemetry.exposition import Scrape
from orchestrator.telemetry.gathering import ScrapeSocket, gather, socket_folder
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.otel_env import otlp_endpoint

if TYPE_CHECKING:
    from orchestrator.telemetry.otlp_metrics import MetricsPush
    from orchestrator.telemetry.tracing import Tracing

_LAG_EVERY_S = 0.5


class Telemetry:
    """Made before the application; `start` it in its loop, `close` it after its last request.

    Without a receiver of OTLP nothing of OpenTelemetry's SDK is loaded. `Telemetry()` reports to no
    receiver.
    """

    def __init__(self, settings: Settings | None = None, worker: int = 0) -> None:
        """Raises: SettingsError."""
        self.metrics = Metrics(most_keys=settings.metrics.keys if settings else 0)
        self.content_keys = frozenset(settings.telemetry.content_keys if settings else ())
        self.server_timing = settings is None or settings.telemetry.server_timing
        self._worker = worker
        self._folder: Path | None = socket_folder(settings.data_dir) if settings else None
        self._socket: ScrapeSocket | None = None
        self._tracing: Tracing | None = None
        self._push: MetricsPush | None = None
        self._lag: asyncio.TimerHandle | None = None
        if settings is None:
            return
        if otlp_endpoint("traces") is not None:
            from orchestrator.telemetry.tracing import Tracing

            self._tracing = Tracing(worker)
        if otlp_endpoint("metrics") is not None:
            from orchestrator.telemetry.otlp_metrics import MetricsPush

            self._push = MetricsPush(self.metrics.registry, worker)

    @property
    def traces(self) -> bool:
        """Whether requests get traces of ours."""
        return self._tracing is not None

    async def start(self) -> None:
        """Starts to answer scrapes and to send. Raises: OSError."""
        self._watch_loop(asyncio.get_running_loop())
        if self._folder is not None:
            self._socket = ScrapeSocket(self._folder, self._worker, self._scrape)
            await self._socket.start()
        if self._push is not None:
            self._push.start()

    async def close(self) -> None:
        """Sends the rest, within two seconds; a receiver that is away does not get it."""
        if self._lag is not None:
            self._lag.cancel()
        if self._socket is not None:
            await self._socket.close()
        if self._push is not None:
            await self._push.close()
        if self._tracing is not None:
            await self._tracing.close()

    async def scrapes(self) -> list[Scrape]:
        """Returns the metrics of all workers of this appliance."""
        return [self._scrape()] if self._folder is None else await gather(self._folder)

    def begin(self, call: Call, name: str, *, traced: bool = True) -> Token[Call | None]:
        """Makes `call` this task's current one and gives it a trace; `finish` it at its end."""
        if self._tracing is not None and traced:
            self._tracing.begin(call, name)
        elif call.parent is not None:
            # It has no spans of ours, but its log lines can be found by the caller's trace id.
            call.trace_id = call.parent.trace_id
        return calls.enter(call)

    def finish(
        self, call: Call, name: str, token: Token[Call | None], *, status: int = 0, error: str = ""
    ) -> None:
        """Ends what `begin` started; `status` is that of the HTTP reply, if there was one."""
        if not call.is_over:
            call.is_over = True
            if self._tracing is not None:
                self._tracing.finish(call, name, time.perf_counter_ns(), status, error)
        calls.leave(token)

    def _scrape(self) -> Scrape:
        return Scrape(self._worker, self.metrics.registry.collect())

    def _watch_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        due_at = loop.time() + _LAG_EVERY_S

        def look() -> None:
            self.metrics.loop_lag.record(max(0.0, loop.time() - due_at))
            self._watch_loop(loop)

        self._lag = loop.call_at(due_at, look)
