"""Run as a program: evaluates rules for its parent, one question at a time.

`python -m orchestrator.rego.child <pid of the parent>`, with a socket as standard input. It imports
little, holds no secret and opens nothing. Rules that exceed their limits are stopped from inside,
by a thread that watches (the library releases the interpreter's lock while it evaluates), and, as a
fallback, by limits of the kernel; then the process ends, and its parent starts another one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.core.errors import InvalidRequest
from orchestrator.rego import NoAnswerError
from orchestrator.rego.frames import HEAD, MAX_REPLY_BYTES, packed
from orchestrator.rego.modules import check_module
from orchestrator.rego.rules import Rules, compile_rules, place

_MAX_COMPILED = 32
"""Max modules that are kept compiled, about 2 MB each."""
_LOOK_S = 0.005
_QUIET_S = 1.0
_MAX_GROWTH_BYTES = 128 * 1024 * 1024
"""A process that has grown by so much asks to be replaced."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1


class _Watch:
    """Ends this process when an evaluation exceeds its limits.

    It looks every 5 ms while there is work and for a second after it, so that a short evaluation
    wakes no thread.
    """

    def __init__(self, link: socket.socket, memory_bytes: int) -> None:
        self._link = link
        self._memory_bytes = memory_bytes
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._asleep = False
        self._work: tuple[str, float] | None = None
        self._most_cpu_s = 0.0
        self._most_bytes = 0
        self._quiet_since = 0.0
        self.began_with_bytes = self.held_bytes()
        threading.Thread(target=self._look, daemon=True).start()

    def held_bytes(self) -> int:
        """Returns the memory that this process holds, in bytes."""
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE

    def begin(self, what: str, most_s: float) -> None:
        """Starts to limit processor time, to `most_s`, and memory. `what` is for the reason."""
        with self._lock:
            self._work = (what, most_s)
            self._most_cpu_s = time.process_time() + most_s
            self._most_bytes = self.held_bytes() + self._memory_bytes
            # The kernel ends the process if the thread does not get to look.
            signal.setitimer(signal.ITIMER_PROF, 2 * most_s + 0.5)
            if self._asleep:
                self._wake.set()

    def end(self) -> None:
        """Ends what `begin` started."""
        with self._lock:
            self._work = None
            self._quiet_since = time.monotonic()
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self) -> None:
        while True:
            with self._lock:
                if self._work is not None:
                    self._judge(*self._work)
                self._asleep = (
                    self._work is None and time.monotonic() - self._quiet_since > _QUIET_S
                )
                if self._asleep:
                    self._wake.clear()
            if self._asleep:
                self._wake.wait()
            time.sleep(_LOOK_S)

    def _judge(self, what: str, most_s: float) -> None:
        if time.process_time() > self._most_cpu_s:
            self._stop(f"it takes longer than {most_s:g} s to {what}")
        if self.held_bytes() > self._most_bytes:
            self._stop(f"it needs more than {self._memory_bytes / 2**20:g} MiB of memory")

    def _stop(self, reason: str) -> NoReturn:
        self._link.sendall(packed({"exceeded": reason}))
        os._exit(1)


class _Evaluator:
    """Answers questions in frames."""

    def __init__(self, gateway: str, watch: _Watch) -> None:
        self._gateway = gateway
        self._watch = watch
        self._kept: OrderedDict[str | None, Rules] = OrderedDict()

    def answer(self, asked: Any) -> dict[str, Any]:
        """Returns the reply to one question."""
        cpu_s = time.process_time()
        try:
            reply = self._checked(asked) if "param" in asked else self._asked(asked)
        finally:
            self._watch.end()
        grown = self._watch.held_bytes() - self._watch.began_with_bytes
        return {
            **reply,
            "cpu_s": time.process_time() - cpu_s,
            "last": grown > _MAX_GROWTH_BYTES,
        }

    def _asked(self, asked: Any) -> dict[str, Any]:
        try:
            rules = self._rules(asked["module"], asked["compile_s"])
            self._watch.begin("evaluate", asked["ask_s"])
            answer = rules.ask(asked["input"])
        except NoAnswerError as error:
            return {"none": str(error)}
        if len(json.dumps(answer)) > MAX_REPLY_BYTES // 2:
            return {"none": "the answer is too long"}
        return {"answer": answer}

    def _checked(self, asked: Any) -> dict[str, Any]:
        """Checks that an operator's module can run."""
        module, param = asked["module"], asked["param"]
        self._watch.begin("compile", asked["compile_s"])
        try:
            check_module(module, param)
            rules = compile_rules(self._gateway, module)
            self._watch.begin("evaluate", asked["ask_s"])
            rules.asked(asked["input"])
        except InvalidRequest as error:
            return {"invalid": error.message}
        except Exception as error:  # the library raises exceptions of any type
            line, column, fault = place(str(error), module)
            return {"invalid": f"`{param}`, line {line}, column {column}: {fault}"}
        return {"answer": True}

    def _rules(self, module: str | None, compile_s: float) -> Rules:
        """Returns the rules with `module`, compiled once. Raises: NoAnswerError."""
        rules = self._kept.get(module)
        if rules is not None:
            self._kept.move_to_end(module)
            return rules
        self._watch.begin("compile", compile_s)
        try:
            rules = self._kept[module] = compile_rules(self._gateway, module)
        except NoAnswerError:
            raise
        except Exception as error:
            raise NoAnswerError(f"{type(error).__name__} in the engine") from error
        if len(self._kept) > _MAX_COMPILED:
            self._kept.popitem(last=False)
        return rules


def main() -> None:
    """Serves until the parent closes the socket or dies."""
    _leave_with(int(sys.argv[1]))
    link = socket.socket(fileno=0)
    begin = _read(link)
    memory_bytes: int = begin["memory_bytes"]
    _limit(memory_bytes)
    watch = _Watch(link, memory_bytes)
    evaluator = _Evaluator(begin["gateway"], watch)
    link.sendall(packed({"ready": True}))
    while True:
        link.sendall(packed(evaluator.answer(_read(link))))


def _leave_with(parent: int) -> None:
    """Dies when the parent does; ignores signals to the group, which the parent handles."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _limit(memory_bytes: int) -> None:
    """Sets the kernel's limits, a fallback to `_Watch`; allows no files and no core dumps."""
    # The library reserves hundreds of gigabytes of addresses when it is loaded; only what is
    # added to them matters.
    reserved = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    most = reserved + 2 * memory_bytes + _MAX_GROWTH_BYTES
    for what, limit in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(what, (limit, limit))
    # If memory runs out on this machine, the kernel should end this process first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _read(link: socket.socket) -> Any:
    """Reads the next question; ends the process when there is none."""
    (length,) = HEAD.unpack(_exactly(link, HEAD.size))
    return json.loads(_exactly(link, length))


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


if __name__ == "__main__":
    main()
