"""Runs tritonserver as a child: start, wait until it answers, watch, restart, stop.

    supervisor = Supervisor(settings, models, on_state)
    running = asyncio.create_task(supervisor.run(probe))     # on the main thread
    await supervisor.ready()
    ...
    supervisor.ask_to_stop()
    await running

`supervisor.endpoint` stays the same over restarts, so clients reconnect by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.settings import Settings
from orchestrator.supervisor import command, watch
from orchestrator.supervisor.diagnosis import exit_reason
from orchestrator.supervisor.installation import StartError, find_server
from orchestrator.supervisor.process import TritonProcess
from orchestrator.supervisor.run_directory import RunDirectory, assemble, remove_stale_runs
from orchestrator.supervisor.state import Endpoint, Phase, State, write_state
from orchestrator.supervisor.watch import Probe
from orchestrator.telemetry.otel_env import otlp_endpoint

__all__ = ["Endpoint", "Probe", "StartError", "State", "Supervisor"]

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STABLE_S = 120.0
"""After a Triton was ready for so long, the next restart counts as the first again."""
_SOCKET_POLL_S = 0.02
_EXIT_GRACE_S = 2.0
_PORT_TRIES = 3


class Supervisor:
    """The only supervisor of its data folder. `models` are Triton's directory names, to load."""

    def __init__(
        self,
        settings: Settings,
        models: Sequence[str],
        on_state: Callable[[State], None] | None = None,
    ) -> None:
        """Assembles the run directory. Raises: StartError."""
        self._settings = settings.triton
        self._data_dir = settings.data_dir
        self._models = tuple(models)
        self._on_state = on_state
        self._installation = find_server(settings.triton.server_root)
        remove_stale_runs(self._data_dir)
        run_id = uuid.uuid4().hex
        self._run: RunDirectory = assemble(
            self._data_dir, run_id, self._installation, self._settings.repository
        )
        self.endpoint = Endpoint(
            url=f"unix:{self._run.socket}",
            token=secrets.token_hex(16),
            server_id=f"appliance-{run_id}",
        )
        self.state = State("starting")
        self._no_answer = ""
        self._has_been_ready = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()

    async def ready(self) -> None:
        """Returns when Triton has answered for the first time."""
        await self._has_been_ready.wait()

    def ask_to_stop(self) -> None:
        """Makes `run` end: calls in flight may finish, within `triton.exit_timeout_s`."""
        self._stop_asked.set()

    def hurry(self) -> None:
        """Makes `run` end at once."""
        self._stop_asked.set()
        self._hurry.set()

    async def run(self, probe: Probe) -> None:
        """Keeps a Triton running until it is asked to stop; nothing of it remains afterwards.

        Must run on the main thread. Raises: StartError when the first start fails; later failures
        become states, and the start is tried again.
        """
        failures = tries = 0
        try:
            while not self._stop_asked.is_set():
                started_at = time.monotonic()
                reason = await self._live(probe)
                if reason is None:
                    break
                if not self._has_been_ready.is_set():
                    tries += 1
                    self._refuse_start(reason, tries)
                if time.monotonic() - started_at > _STABLE_S:
                    failures = 0
                await self._back_off(failures)
                failures += 1
                self.state = replace(self.state, restarts=self.state.restarts + 1)
        finally:
            self._run.remove()
            self._enter("stopped", reason="", pid=None)

    def _refuse_start(self, reason: str, tries: int) -> None:
        # Another process may take the free metrics port between our check and Triton's.
        is_race = "in use" in reason and self._settings.metrics_port == 0
        if not is_race or tries >= _PORT_TRIES:
            raise StartError(reason)

    async def _live(self, probe: Probe) -> str | None:
        """Runs one Triton from start to end. Returns why it went down; `None` after a stop."""
        try:
            process = await self._spawn()
        except OSError as error:
            return f"Triton cannot be started: {error.strerror or error}"
        graceful = False
        try:
            reason = await self._unless_stopped(self._reach_ready(process, probe))
            if reason is None and not self._stop_asked.is_set():
                if self._has_been_ready.is_set():
                    logger.warning("triton is ready again")
                self._has_been_ready.set()
                self._enter("ready", reason="", failed_models=dict(process.failed_models))
                reason = await self._unless_stopped(self._until_down(process, probe))
                graceful = reason is None
            if reason is not None:
                logger.error("triton is down: %s", reason)
                self._enter("down", reason=reason)
            return reason
        finally:
            await self._end(process, graceful=graceful)

    async def _spawn(self) -> TritonProcess:
        port = _port_for_metrics(self._settings.metrics_port)
        process = await TritonProcess.spawn(
            command.arguments(
                installation=self._installation,
                run=self._run,
                endpoint=self.endpoint,
                models=self._models,
                metrics_port=port,
                exit_timeout_s=self._settings.exit_timeout_s,
                traces_url=otlp_endpoint("traces"),
            ),
            command.environment(self._installation, self._run, self._settings.engine_threads),
        )
        self._enter("starting", pid=process.pid, metrics_port=port)
        return process

    async def _end(self, process: TritonProcess, *, graceful: bool) -> None:
        if graceful:
            self._enter("stopping", reason="")
            stopping = asyncio.create_task(
                process.stop(self._settings.exit_timeout_s + _EXIT_GRACE_S)
            )
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not stopping.done():
                await process.kill()
            if (code := await stopping) != 0:
                logger.warning("triton ended with code %d", code)
        else:
            await process.kill()
        self._run.remove_leavings()

    async def _reach_ready(self, process: TritonProcess, probe: Probe) -> str | None:
        """Waits until `probe` passes. Returns `None`, or why Triton did not become ready."""
        limit_s = self._settings.start_timeout_s
        ended = asyncio.create_task(process.ended())
        answering = asyncio.create_task(self._first_answer(process, probe))
        try:
            await asyncio.wait(
                [ended, answering], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            if process.exit_code is not None:
                return exit_reason(process.exit_code, process.last_lines)
            if answering.done():
                return None
            return f"Triton did not become ready within {limit_s:g} s{self._no_answer}"
        finally:
            await _cancelled(ended, answering)

    async def _first_answer(self, process: TritonProcess, probe: Probe) -> None:
        # Triton makes its socket when it has loaded the models; asking earlier would only make the
        # client wait longer before it connects again.
        while not self._run.socket.exists():  # noqa: ASYNC110  # no event reports a new file
            await asyncio.sleep(_SOCKET_POLL_S)
        timeout_s = max(self._settings.probe_timeout_s, self._settings.first_token_timeout_s)
        while (failure := await watch.ask(probe, timeout_s, process.is_busy)) is not None:
            self._no_answer = f": {watch.describe(failure, timeout_s)}"
            logger.info("triton does not answer yet%s", self._no_answer)
            await asyncio.sleep(0.1)

    async def _until_down(self, process: TritonProcess, probe: Probe) -> str:
        """Watches a ready Triton. Returns why it went down."""
        ended = asyncio.create_task(process.ended())
        trouble = asyncio.create_task(watch.process_trouble(process))
        silent = asyncio.create_task(
            watch.silence(
                probe,
                interval_s=self._settings.probe_interval_s,
                timeout_s=self._settings.probe_timeout_s,
                is_busy=process.is_busy,
            )
        )
        try:
            await asyncio.wait([ended, trouble, silent], return_when=asyncio.FIRST_COMPLETED)
            if process.exit_code is not None:
                return exit_reason(process.exit_code, process.last_lines)
            return trouble.result() if trouble.done() else silent.result()
        finally:
            await _cancelled(ended, trouble, silent)

    async def _unless_stopped(self, work: Coroutine[None, None, str | None]) -> str | None:
        """Returns the result of `work`, or `None` as soon as a stop is requested."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
            return None if self._stop_asked.is_set() else task.result()
        finally:
            await _cancelled(task, stop)

    async def _back_off(self, failures: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]):
                await self._stop_asked.wait()

    def _enter(self, phase: Phase, **changes: Any) -> None:
        """Stores and publishes the new state."""
        self.state = replace(self.state, phase=phase, changed_at=time.time(), **changes)
        try:
            write_state(self._data_dir, self.state)
        except OSError as error:
            logger.warning("the status file cannot be written: %s", error.strerror)
        if self._on_state is not None:
            self._on_state(self.state)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancels `tasks` and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _port_for_metrics(port: int) -> int:
    """Returns `port`, or any free one for 0. Raises: OSError when it is taken.

    Triton would find that out only after it has answered its first requests.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(error.errno, f"port {port} for its metrics is in use") from error
        return int(probe.getsockname()[1])
