"""The parent process: starts claims, store, Triton and workers, in this order, and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from orchestrator.contract.catalogue import Model, load_catalogue
from orchestrator.contract.manifest import served_version
from orchestrator.core.hosts import loopback_of
from orchestrator.keys.bootstrap import FirstKey, bootstrap
from orchestrator.keys.content_capture import note_content_keys
from orchestrator.serve.claims import listen, lock_data_folder
from orchestrator.serve.descriptors import raise_limit
from orchestrator.serve.greeting import base_url, greeting
from orchestrator.serve.metrics_port import MetricsPort
from orchestrator.serve.workers import Workers
from orchestrator.settings import Settings, TritonConnection
from orchestrator.store.migrate import migrate
from orchestrator.supervisor import Supervisor
from orchestrator.supervisor.state import forget_state, progress_file
from orchestrator.triton.client import Timeouts, TritonClient, TritonEndpoint
from orchestrator.triton.endpoint import DEFAULT, connections, servers_of
from orchestrator.triton.probe import Probe

logger = logging.getLogger(__name__)

_HEALTH_POLL_S = 0.05
_HEALTH_TIMEOUT_S = 2.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Appliance:
    """One run of `orchestrator serve`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
        self._began_at = time.monotonic()
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tritons: dict[str, TritonConnection] = {}

    async def run(self) -> int:
        """Serves until a signal. Nothing keeps running afterwards, even after an error.

        Raises: ClaimError, StartError, WorkerError, SettingsError, CatalogueError, StoreError.
        """
        self._watch_signals()
        raise_limit()
        catalogue = load_catalogue(self._settings.catalogue)
        self._tritons = connections(catalogue, self._settings)
        with contextlib.ExitStack() as claims:
            listener = claims.enter_context(listen(self._settings.server))
            claims.callback(os.close, lock_data_folder(self._settings.data_dir))
            first_key = await self._prepare_store()
            metrics = MetricsPort(self._settings.metrics, self._settings.data_dir)
            await metrics.open()
            if metrics.port is not None:
                _say(f"metrics at port {metrics.port} of {self._settings.metrics.host}")
            try:
                await self._serve(catalogue.models, listener, first_key)
            finally:
                await metrics.close()
        return 0

    async def _prepare_store(self) -> FirstKey | None:
        await migrate(self._settings)
        first_key = await bootstrap(self._settings)
        await note_content_keys(self._settings)
        return first_key

    async def _serve(
        self, models: Sequence[Model], listener: socket.socket, first_key: FirstKey | None
    ) -> None:
        built = self._built(models)
        own = [model for model in built if DEFAULT in servers_of(model)]
        supervisor = self._supervisor(own)
        workers = Workers(self._settings, listener, supervisor.endpoint if supervisor else None)
        working = asyncio.create_task(workers.run())
        triton = asyncio.create_task(self._run_triton(supervisor, own))
        greeted = asyncio.create_task(self._greet(workers, supervisor, built, listener, first_key))
        stop = asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait([triton, working, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            greeted.cancel()
            # From now on the kernel refuses new clients, which would otherwise get no answer.
            listener.close()
            await self._stop(workers, working, supervisor, triton)
            stop.cancel()
            await asyncio.wait([greeted, stop])
        for service in (triton, working):
            service.result()

    def _built(self, models: Sequence[Model]) -> list[Model]:
        """Returns the models that Triton can load; logs the others and leaves them out."""
        repository = self._settings.triton.repository
        built = [
            model
            for model in models
            if (repository / model.name / "config.pbtxt").is_file()
            and served_version(repository / model.name) is not None
        ]
        for model in models:
            if model not in built:
                _say(f"{model.id} is not built and is left out; `make engines` builds it")
        return built

    def _supervisor(self, built: Sequence[Model]) -> Supervisor | None:
        """Returns None if no Triton is ours to run."""
        child = self._settings.triton.mode == "child" and DEFAULT in self._tritons
        for name, triton in self._tritons.items():
            if not child or name != DEFAULT:
                _say(f"using the Triton at {triton.url}")
        if not child:
            forget_state(self._settings.data_dir)
            return None
        supervisor = Supervisor(self._settings, [model.name for model in built])
        _say(f"starting Triton with {', '.join(model.id for model in built) or 'no model'} …")
        return supervisor

    async def _run_triton(self, supervisor: Supervisor | None, built: Sequence[Model]) -> None:
        """Runs our Triton. A remote Triton is run by others; then this only waits for the end."""
        if supervisor is None:
            await self._stop_asked.wait()
            return
        endpoint = supervisor.endpoint
        client = TritonClient(TritonEndpoint(url=endpoint.url, token=endpoint.token), Timeouts())
        probe = Probe(
            client,
            generate=[model.name for model in built if model.task == "generate"],
            embed=[model.name for model in built if model.task == "embed"],
            server_id=endpoint.server_id,
            progress_file=progress_file(self._settings.data_dir),
        )
        try:
            await supervisor.run(probe)
        finally:
            await client.close()

    async def _greet(
        self,
        workers: Workers,
        supervisor: Supervisor | None,
        built: Sequence[Model],
        listener: socket.socket,
        first_key: FirstKey | None,
    ) -> None:
        """Prints how to use the appliance once both Triton and the workers have answered."""
        if supervisor is not None:
            await supervisor.ready()
        url = base_url(listener)
        while not await _is_healthy(listener):  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(_HEALTH_POLL_S)
        workers.is_up()
        failed = supervisor.state.failed_models if supervisor is not None else {}
        for model in built:
            if model.name in failed:
                _say(f"{model.id} did not load and is left out: {failed[model.name]}")
        served = [model for model in built if model.name not in failed]
        but = "" if served else ", but without any model"
        _say(f"ready in {time.monotonic() - self._began_at:.1f} s{but}")
        text = greeting(
            url,
            served,
            new_key=first_key.secret if first_key is not None else None,
            key_file=self._settings.data_dir / "first-key",
        )
        with contextlib.suppress(OSError):
            sys.stdout.write(text)
            sys.stdout.flush()
            if first_key is not None:
                first_key.shown()

    async def _stop(
        self,
        workers: Workers,
        working: asyncio.Task[None],
        supervisor: Supervisor | None,
        triton: asyncio.Task[None],
    ) -> None:
        """Stops workers first, then the engine that serves them; a second signal kills both."""

        async def in_order() -> None:
            await workers.stop()
            await asyncio.wait([working])
            self._stop_asked.set()
            if supervisor is not None:
                supervisor.ask_to_stop()
            await asyncio.wait([triton])

        stopping = asyncio.create_task(in_order())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            workers.kill()
            if supervisor is not None:
                supervisor.hurry()
        await stopping
        hurry.cancel()
        _say("stopped")

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            # `nohup` sets it to be ignored, and so it must stay.
            if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            self._hurry.set()
            return
        _say("stopping: running answers may end; a second signal stops at once")
        self._stop_asked.set()


async def _is_healthy(listener: socket.socket) -> bool:
    """Whether the worker answers `/health` with 200."""
    host, port = listener.getsockname()[:2]
    host = loopback_of(host)
    try:
        async with asyncio.timeout(_HEALTH_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(
                    b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except OSError:
        return False


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"orchestrator: {text}\n")
        sys.stderr.flush()
