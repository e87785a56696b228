"""The process that compiles guides on trial: `python -I -S trial_process.py`.

Some guides cost the compiler minutes, gigabytes or its stack, whatever its own limits say; here
they end this process only. It reads and writes lines of JSON. First comes `path`, a list for
`sys.path`, answered by `ready`; then guides, each a `kind` and a `text`, answered by `problem`,
which is empty for a usable one. A guide that takes more than it may ends the process by a signal.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path

CPU_S = 1.0
"""Of the compiler for one guide."""
MEMORY = 64 << 20
"""Bytes that one guide may add."""
_STACK = 2 << 20
"""Bytes, well below what the engine's own threads have."""
_SET_PARENT_DEATH_SIGNAL = 1
_NICENESS = 10


def main() -> None:
    """Answers guides until the input ends."""
    # The answers' place is kept from whatever a library may print.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    sys.path[:] = json.loads(sys.stdin.readline())["path"]
    from build_engines.cpu import grammars  # found by the path that was sent

    def say(**words: str) -> None:
        answers.write(json.dumps(words) + "\n")
        answers.flush()

    def answer(kind: str, text: str) -> None:
        try:
            _bound(CPU_S, MEMORY)
            problem = grammars.problem(kind, text)
            _bound(0, None)
            say(problem=problem)
        except BaseException:
            # Out of memory, or a panic. The end is an answer, too.
            os._exit(1)

    threading.stack_size(_STACK)
    say(ready="")
    for line in sys.stdin:
        thread = threading.Thread(target=answer, kwargs=json.loads(line))
        thread.start()
        thread.join()


def _bound(cpu_s: float, memory: int | None) -> None:
    """Bounds what comes next; 0 and None bound nothing."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = hard
    if memory is not None:
        most = _data_bytes() + memory
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _data_bytes() -> int:
    """Of the mappings that the limit counts."""
    words = Path("/proc/self/statm").read_text("ascii").split()
    return int(words[5]) * resource.getpagesize()


if __name__ == "__main__":
    main()
