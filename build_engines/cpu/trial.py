"""Tries guides in a separate process, before the engine compiles them."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import signal
import subprocess
import sys
from typing import IO

from build_engines.cpu import trial_process
from build_engines.serving.request import Guide, RequestError

logger = logging.getLogger(__name__)

TOO_LONG = "it takes too long to compile"
TOO_COMPLEX = "it is too complex to compile"

#: The process limits its own CPU time; on a busy machine that may take much longer.
_MAX_WAIT_S = 30.0


class Trial:
    """A process that compiles guides, started for the first guide and again after each crash.

    Only one thread at a time may call it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def problem(self, guide: Guide) -> str:
        """Returns why `guide` cannot be used, empty if it can; the text may quote the guide.

        Raises: RequestError when the process cannot be started, or gets no processor.
        """
        process = self._running()
        answer = ""
        try:
            _send(process, json.dumps({"kind": guide.type, "text": guide.text}))
            answer = _answer(process)
        except OSError as error:
            logger.debug("a trial ended early: %s", type(error).__name__)
        if answer:
            return str(json.loads(answer)["problem"])
        self.close()
        logger.info("a guide ended its trial, with %s", process.returncode)
        if process.returncode == -signal.SIGKILL:
            raise RequestError("the engine found no time to compile what was asked for")
        return TOO_LONG if process.returncode == -signal.SIGPROF else TOO_COMPLEX

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is None:
            return
        # No effect on a process that has ended: its own exit status stays.
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]  # both are pipes

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", trial_process.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A panic message quotes the guide.
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                # Outside the server's process group, where the end of a process counts as a fault.
                start_new_session=True,
            )
            self._process = process
            _send(process, json.dumps({"path": sys.path}))
            if not _answer(process):
                raise OSError("no answer")
        except OSError as error:
            logger.error("guides cannot be tried: %s", type(error).__name__)
            self.close()
            raise RequestError("the engine could not start what compiles guides on trial") from None
        return process


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> str:
    """Returns the next line of `process`, empty when it ended or took too long."""
    stream: IO[str] | None = process.stdout
    assert stream is not None
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return stream.readline() if poll.poll(_MAX_WAIT_S * 1000) else ""
