"""The HTTP worker: the process that runs the application, and its parent's hold on it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import cast

import uvicorn

from orchestrator.settings import ENV_PREFIX, Settings
from orchestrator.supervisor import Endpoint, parent_death
from orchestrator.supervisor.state import progress_file, read_state
from orchestrator.telemetry import configure_logging

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STABLE_S = 60.0
_KILL_AFTER_S = 10.0
"""Beyond the drain time, for closing what the application holds."""
_TRITON_POLL_S = 0.02
_MEMORY = {"MALLOC_ARENA_MAX": "2"}
"""Threads that mostly wait need no heap each; an operator's own value goes before it."""


class WorkerError(Exception):
    """The worker did not start; the message is one sentence for the operator."""


def run_worker(settings: Settings, fd: int, number: int = 0) -> int:
    """Serves the application on the inherited listening socket `fd` until SIGTERM.

    `number` is its own among the workers of this appliance.
    """
    # Imported here: the parent, which imports this module, has no use for the application.
    from orchestrator.app import create_app
    from orchestrator.serve.descriptors import raise_limit
    from orchestrator.serve.http1 import BoundedHttp
    from orchestrator.serve.peers import TrustedProxies
    from orchestrator.serve.server import GuardedServer
    from orchestrator.serve.websockets import DrainingWebSocket

    configure_logging(settings.logging)
    raise_limit()
    # uvicorn tells of every start and stop, which the parent does already.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    app = create_app(settings, number)
    _wait_for_first_triton(settings)
    proxies = TrustedProxies(settings.server.trusted_proxies)
    http = partial(
        BoundedHttp,
        settings=settings.server,
        proxies=proxies,
        socket_paths=app.socket_paths,
        hosts=settings.hosts,
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        # It is only called, to make one for each connection.
        http=cast("type[asyncio.Protocol]", http),
        ws=DrainingWebSocket,
        ws_max_size=settings.realtime.most_message_bytes,
        ws_ping_interval=settings.realtime.ping_s,
        ws_ping_timeout=settings.realtime.ping_s,
        # Deltas are small: it would cost memory and time for nothing.
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        # What proxies say is for `http`, which knows which of them are trusted.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.server.drain_s),
    )
    server = GuardedServer(config, settings.server, app.registry, is_proxy=proxies.trusts)
    server.run(sockets=[socket.socket(fileno=fd)])
    return 0 if server.started else 1


def _wait_for_first_triton(settings: Settings) -> None:
    """Lets callers wait in the socket's queue while the first Triton starts, instead of failing.

    The application's imports, which take most of its start, are done by then.
    """
    give_up_at = time.monotonic() + settings.triton.start_timeout_s
    while time.monotonic() < give_up_at:
        state = read_state(settings.data_dir)
        if state is None or state.phase != "starting" or state.restarts:
            return
        time.sleep(_TRITON_POLL_S)


class Worker:
    """The parent's side. `run` keeps a worker alive until `stop`."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        endpoint: Endpoint | None,
        number: int = 0,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._number = number
        self._env = _environment(settings, endpoint)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._is_up = False

    @property
    def pid(self) -> int | None:
        """Of the present process."""
        return self._process.pid if self._process is not None else None

    def is_up(self) -> None:
        """Notes that it has answered: from now on it is started again when it ends."""
        self._is_up = True

    async def run(self) -> None:
        """Returns after `stop`. Raises: WorkerError when the first worker ends before it is up."""
        failures = 0
        while not self._stopping.is_set():
            began_at = time.monotonic()
            code = await self._live()
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
        """Lets running answers end within `server.drain_s`, then ends it."""
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
        """Ends it at once; `stop` returns soon after."""
        self._stopping.set()
        if self._process is not None:
            _send(self._process, signal.SIGKILL)

    async def _live(self) -> int:
        fd = self._listener.fileno()
        self._process = await asyncio.create_subprocess_exec(
            # When the parent dies, the worker drains and ends.
            *(sys.executable, "-I", "-S", parent_death.__file__),
            *(str(os.getpid()), str(int(signal.SIGTERM))),
            *(sys.executable, "-m", "orchestrator", "worker", "--fd", str(fd)),
            *("--number", str(self._number)),
            pass_fds=(fd,),
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            # A terminal's Ctrl-C is for the parent, who then asks us.
            start_new_session=True,
        )
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


def _environment(settings: Settings, endpoint: Endpoint | None) -> Mapping[str, str]:
    """Ours, with our own Triton as a remote one. What only the first start needs is left out."""
    changes = {"BOOTSTRAP__ADMIN_KEY": "", "BOOTSTRAP__ADMIN_KEY_FILE": ""}
    if endpoint is not None:
        changes |= {
            "TRITON__MODE": "remote",
            "TRITON__URL": endpoint.url,
            "TRITON__TOKEN": endpoint.token,
            "TRITON__TLS": "false",
            "TRITON__PROGRESS_FILE": str(progress_file(settings.data_dir)),
        }
    changed = {ENV_PREFIX + name: value for name, value in changes.items()}
    # Settings ignore the case of variables, so both spellings would be there.
    kept = {name: value for name, value in os.environ.items() if name.upper() not in changed}
    return _MEMORY | kept | {name: value for name, value in changed.items() if value}
