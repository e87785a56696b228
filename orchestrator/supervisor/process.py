"""One running tritonserver with its stubs: a process group whose output goes to our log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.supervisor import parent_death
from orchestrator.supervisor.diagnosis import cause

logger = logging.getLogger("triton")

_KEPT_LINES = 100
_MAX_LINE = 4000
_EXIT_POLL_S = 0.05
_KILL_TIMEOUT_S = 30.0
_LEVELS = {
    # Triton logs two hundred lines of information at each start, useful only for debugging.
    "I": logging.DEBUG,
    "W": logging.WARNING,
    "E": logging.ERROR,
    "F": logging.CRITICAL,
}
_HEAD = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ ")
_FAILED = re.compile(
    r"(?:failed to load|failed to poll model|Poll failed for model directory)"
    r" '(?P<model>[^']+)'(?: version \d+)?: (?P<why>.*)"
)
_CHANGED = re.compile(r"(?:successfully (?:un)?loaded|loading: )")
_EXPECTED = ("CudaDriverHelper has not been initialized", "CUDA driver version is insufficient")
"""Messages that every Triton logs on a machine without a GPU."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the group, as `/proc` shows it. `state` is the kernel's letter."""

    pid: int
    parent: int
    state: str


class TritonProcess:
    """Made by `spawn`. Call `kill` or `stop`, or the group keeps running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._level = logging.INFO
        self._reader = asyncio.create_task(self._read())
        self._pids: Sequence[int] = (process.pid,)
        self.failed_models: dict[str, str] = {}
        self.model_changes = 0
        """How often Triton started to load or finished to unload a model."""

    @classmethod
    async def spawn(cls, command: Sequence[str], env: Mapping[str, str]) -> TritonProcess:
        """Starts `command` in a session of its own. Call it on the main thread. Raises: OSError.

        When this process dies, for any reason, the server gets SIGTERM.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            parent_death.__file__,
            str(os.getpid()),
            str(int(signal.SIGTERM)),
            *command,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """The id of the server, and of the process group."""
        return self._process.pid

    @property
    def last_lines(self) -> Sequence[str]:
        """The last lines that it wrote, information excepted."""
        return tuple(self._lines)

    @property
    def exit_code(self) -> int | None:
        """The exit code of the server; `None` while it runs."""
        return self._process.returncode

    async def ended(self) -> None:
        """Returns when it has ended and its output is read."""
        # `wait()` would wait for the pipe as well, which a stub may keep open for some time.
        while self._process.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(_EXIT_POLL_S)
        await asyncio.wait([self._reader], timeout=0.1)

    async def stop(self, timeout_s: float) -> int:
        """Lets calls in flight finish, then ends the whole group. Returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            # Only the server: it ends its stubs itself.
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.ended()
        return await self.kill()

    async def kill(self) -> int:
        """Ends the whole group at once and returns when all processes are gone."""
        give_up_at = time.monotonic() + _KILL_TIMEOUT_S
        while True:
            members = [member for member in self.members() if member.state != "Z"]
            code = self._process.returncode
            if not members and code is not None:
                break
            if time.monotonic() > give_up_at:
                # Such a process hangs in the kernel, on a dead disk or driver.
                logger.critical("processes %s cannot be killed", [one.pid for one in members])
                break
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        self._reader.cancel()
        await asyncio.wait([self._reader])
        return code if code is not None else -int(signal.SIGKILL)

    def members(self) -> Sequence[Member]:
        """Returns the server and its stubs; reaps orphans that became children of this process."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            member, group = _read_stat(entry)
            if member is None or group != self.pid:
                continue
            found.append(member)
            if member.state == "Z" and member.parent == os.getpid() and member.pid != self.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(member.pid, os.WNOHANG)
        self._pids = [member.pid for member in found]
        return found

    def states(self) -> Mapping[int, str]:
        """Returns the states of the processes that `members` last found and that still exist.

        Cheap, while `members` looks at every process of the machine.
        """
        states = {}
        for pid in self._pids:
            member, group = _read_stat(Path(f"/proc/{pid}"))
            if member is not None and group == self.pid:
                states[pid] = member.state
        return states

    def is_busy(self) -> bool:
        """Whether a thread of a stub is running, or waits for a CPU or a disk.

        Engines compute in stubs. The server itself spins while a stream that its client has half
        closed waits for an engine, so its own threads say nothing.
        """
        for pid in self._pids:
            if pid == self.pid:
                continue
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    state = _read_stat(thread)[0]
                    if state is not None and state.state in "RD":
                        return True
        return False

    async def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        while block := await stream.read(65536):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._take(line)
            if len(rest) > _MAX_LINE:
                self._take(rest)
                rest = b""
        if rest:
            self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = raw[:_MAX_LINE].decode("utf-8", "replace").rstrip()
        if not line:
            return
        self._level = level = self._level_of(line)
        if level != logging.DEBUG:
            self._lines.append(line)
        logger.log(level, "%s", line)
        if (failed := _FAILED.search(line)) is not None:
            # A traceback follows the cause, with its line ends escaped.
            why = failed["why"].partition("\\n")[0].rstrip('"')
            self.failed_models.setdefault(failed["model"], cause([why]) or why[:500])
        elif _CHANGED.search(line):
            self.model_changes += 1

    def _level_of(self, line: str) -> int:
        """Returns the level of `line`; without a head it continues the one before, as in tables."""
        if any(text in line for text in _EXPECTED):
            return logging.DEBUG
        if (head := _HEAD.match(line)) is not None:
            return _LEVELS[head[1]]
        is_table = line.startswith(("+-", "| "))
        return self._level if is_table else max(self._level, logging.INFO)


def _read_stat(entry: Path) -> tuple[Member | None, int]:
    """Reads the process at `entry` and its group; `None` when it has just ended."""
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, 0
    # The program's name, in parentheses, may hold any characters.
    state, parent, group, *_ = text.rpartition(")")[2].split()
    return Member(int(entry.name), int(parent), state), int(group)
