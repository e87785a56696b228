"""Runs a program of a build: its output goes to the journal, and it ends when the builder ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engines.journal import Journal

_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT_S = 10.0
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Command:
    """One program of a build: the text shown while it runs, and its argument list."""

    stage: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.arguments)


class ProgramError(ValueError):
    """A program of the build failed; the text has its name and the last line of its output."""


def run(command: Command, journal: Journal, environment: Mapping[str, str] | None = None) -> None:
    """Runs `command` to its end. Raises: ProgramError."""
    journal.stage(command.stage)
    journal.write(f"runs: {command}")
    with journal.path.open("ab") as log, started(command.arguments, log.fileno(), environment) as p:
        code = p.wait()
    if code != 0:
        name = Path(command.arguments[0]).name
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise ProgramError(f"`{name}` {how} while {command.stage}{_last_words(journal.path)}")


@contextlib.contextmanager
def started(
    arguments: tuple[str, ...], output: int, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a program; ends it and all of its children at the end of the block.

    Raises: ProgramError when there is no such program.
    """
    prctl = ctypes.CDLL(None).prctl

    def die_with_us() -> None:
        # A builder that is killed cannot end its child processes.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=die_with_us,  # noqa: PLW1509  # calls only the kernel
        )
    except OSError as error:
        raise ProgramError(
            f"program `{arguments[0]}` cannot be started ({error.strerror}): TensorRT engines are "
            "built inside the GPU image"
        ) from error
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)


def _last_words(log: Path) -> str:
    """Returns the last line that the program printed."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[:300]}" if lines else ""
