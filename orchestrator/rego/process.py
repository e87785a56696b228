"""The parent's side of one process that evaluates rules."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestrator.rego import BoundExceededError, EvaluatorsError
from orchestrator.rego.frames import HEAD, MAX_REPLY_BYTES, packed

_ROOT = Path(__file__).parents[2]
_START_S = 30.0
_REAP_S = 0.005
_NICER, _NICEST = 5, 19
"""Niceness to add, and its max: of a CPU that both want, the child gets a third of our share."""


class ProcessEndedError(BoundExceededError):
    """The process ended without a reason; an earlier question may be the cause."""


class EvaluatorProcess:
    """Answers one question at a time. Belongs to the event loop that started it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._is_fresh = True
        self.is_last = False
        """Whether it must not be asked again."""

    @classmethod
    async def start(cls, gateway: str, memory_bytes: int) -> EvaluatorProcess:
        """Starts a process and waits until it has loaded everything. Raises: EvaluatorsError.

        `memory_bytes` is what one evaluation may add to its memory.
        """
        ours, theirs = socket.socketpair()
        try:
            process = _spawned(theirs)
        except OSError as error:
            ours.close()
            raise EvaluatorsError(f"no process can be started: {error.strerror}") from error
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        started = cls(process, reader, writer)
        try:
            writer.write(packed({"gateway": gateway, "memory_bytes": memory_bytes}))
            async with asyncio.timeout(_START_S):
                await started._read()
        except (TimeoutError, ValueError, OSError, EOFError) as error:
            await started.stop()
            raise EvaluatorsError("a process that was started did not get ready") from error
        except BaseException:
            await started.stop()
            raise
        return started

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked, as far as is known: its end shows at its socket."""
        return not self._reader.at_eof()

    async def ask(self, frame: bytes, wall_s: float) -> dict[str, Any]:
        """Returns the reply. Raises: BoundExceededError, and then the process has ended.

        ProcessEndedError if it had answered other questions before.
        """
        try:
            self._writer.write(frame)
            async with asyncio.timeout(wall_s):
                reply = await self._read()
        except TimeoutError:
            await self.stop()
            raise BoundExceededError(f"it gave no answer within {wall_s:g} s") from None
        except (ValueError, OSError, EOFError):
            await self.stop()
            ended = BoundExceededError if self._is_fresh else ProcessEndedError
            raise ended(self._how_it_ended()) from None
        except BaseException:
            await self.stop()
            raise
        self._is_fresh = False
        if (reason := reply.get("exceeded")) is not None:
            await self.stop()
            raise BoundExceededError(reason)
        self.is_last = reply["last"]
        return reply

    async def stop(self) -> None:
        """Ends it at once, in any state, and returns when it is gone."""
        self.is_last = True
        self._process.kill()
        self._writer.close()
        # A killed process ends within moments; a watcher of children would cost a thread.
        while self._process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(_REAP_S)

    async def _read(self) -> dict[str, Any]:
        """Raises: EOFError, OSError, and ValueError if it is not a frame."""
        (length,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        if length > MAX_REPLY_BYTES:
            raise ValueError(length)
        reply = json.loads(await self._reader.readexactly(length))
        if not isinstance(reply, dict):
            raise ValueError(reply)  # noqa: TRY004  # to be caught with what JSON raises
        return reply

    def _how_it_ended(self) -> str:
        code = self._process.poll() or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else "without an answer"
        return f"the process that evaluated it ended {how}"


def _spawned(link: socket.socket) -> subprocess.Popen[bytes]:
    """Starts the program, with only the library paths of this process's environment."""
    names = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-s", "-m", "orchestrator.rego.child", str(os.getpid())],
        stdin=link.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**environment, "PYTHONPATH": str(_ROOT)},
    )
    # A module that computes for as long as it may must not slow down other tenants' answers.
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, min(own + _NICER, _NICEST))
    return process
