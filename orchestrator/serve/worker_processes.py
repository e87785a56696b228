"""The processes that HTTP workers run in, and one on standby for the next worker.

A start is mostly imports: the standby process has done them and waits for its worker number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import TypeAlias

from orchestrator.settings import ENV_PREFIX, Settings
from orchestrator.supervisor import Endpoint, parent_death
from orchestrator.supervisor.state import progress_file

logger = logging.getLogger(__name__)

_STANDBY_AFTER_S = 3.0
"""Seconds between a start and that of the next standby: the worker gets the CPU first."""
_MAX_PAUSE_S = 60.0
"""Max seconds between starts of standby processes that end at once."""
_MEMORY = {"MALLOC_ARENA_MAX": "2"}
"""Threads that mostly wait need no heap each; an operator's own value has priority."""

Process: TypeAlias = asyncio.subprocess.Process


class WorkerProcesses:
    """Starts them. `keep_standby` runs beside the workers; `close` ends the standby process."""

    def __init__(
        self, settings: Settings, endpoint: Endpoint | None, listener: int, board: int | None
    ) -> None:
        """`listener` and `board` are descriptors that every worker inherits."""
        self._is_kept = settings.server.standby
        self._inherited = (listener,) if board is None else (listener, board)
        self._arguments = ["--fd", str(listener)]
        if board is not None:
            self._arguments += ["--board", str(board)]
        self._env = _environment(settings, endpoint)
        self._standby: Process | None = None
        self._taken = asyncio.Event()

    async def take(self, number: int) -> Process:
        """Returns a process that starts as worker `number`. Call it on the main thread."""
        process, self._standby = self._standby, None
        self._taken.set()
        if process is None or process.returncode is not None:
            process = await self._start()
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            # If the process has ended by now, its `Worker` learns it from the exit code.
            process.stdin.write(b"%d\n" % number)
            await process.stdin.drain()
        process.stdin.close()
        return process

    async def keep_standby(self) -> None:
        """Keeps one process on standby; replaces it when it is taken. Runs until cancelled."""
        pause_s = _STANDBY_AFTER_S
        while self._is_kept:
            await asyncio.sleep(pause_s)
            process = self._standby = await self._start()
            self._taken.clear()
            ended, taken = (
                asyncio.create_task(process.wait()),
                asyncio.create_task(self._taken.wait()),
            )
            try:
                await asyncio.wait([ended, taken], return_when=asyncio.FIRST_COMPLETED)
                pause_s = _STANDBY_AFTER_S if taken.done() else min(2 * pause_s, _MAX_PAUSE_S)
                if not taken.done():
                    logger.warning("the standby worker ended with code %s", process.returncode)
            finally:
                ended.cancel()
                taken.cancel()

    async def close(self) -> None:
        """Ends the standby process."""
        process, self._standby = self._standby, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            # When the parent dies, the worker drains and ends.
            *(sys.executable, "-I", "-S", parent_death.__file__),
            *(str(os.getpid()), str(int(signal.SIGTERM))),
            *(sys.executable, "-m", "orchestrator", "worker", *self._arguments),
            pass_fds=self._inherited,
            env=self._env,
            stdin=asyncio.subprocess.PIPE,
            # A terminal's Ctrl-C is for the parent, which then stops its workers.
            start_new_session=True,
        )


def _environment(settings: Settings, endpoint: Endpoint | None) -> Mapping[str, str]:
    """Returns our environment, with our Triton as remote and without what only a start needs."""
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
    # Settings ignore the case of variables, so both spellings would be present.
    kept = {name: value for name, value in os.environ.items() if name.upper() not in changed}
    return _MEMORY | kept | {name: value for name, value in changed.items() if value}
