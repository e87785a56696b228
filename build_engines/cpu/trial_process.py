"""The process that compiles guides as a trial: `python -I -S trial_process.py`.

Some guides cost the compiler minutes, gigabytes or its stack, despite its own limits; here they
end only this process. It reads and writes lines of JSON. First comes `path`, a list for
`sys.path`, answered by `ready`; then guides, each a `kind` and a `text`, answered by `problem`,
which is empty for a usable guide. A guide that exceeds the limits ends the process by a signal.
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
"""Processor seconds of the compiler for one guide."""
MEMORY = 64 << 20
"""Bytes that one guide may add."""
_STACK = 2 << 20
"""Bytes, well below the stack of the engine's threads."""
_SET_PARENT_DEATH_SIGNAL = 1
_NICENESS = 10


def main() -> None:
    """Answers guides until the input ends."""
    # Standard output is only for answers: what a library prints goes to standard error.
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
            # Out of memory, or a panic. The end of the process is the answer.
            os._exit(1)

    threading.stack_size(_STACK)
    say(ready="")
    for line in sys.stdin:
        thread = threading.Thread(target=answer, kwargs=json.loads(line))
        thread.start()
        thread.join()


def _bound(cpu_s: float, memory: int | None) -> None:
    """Limits the following work; 0 and None mean no limit."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = hard
    if memory is not None:
        most = _data_bytes() + memory
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _data_bytes() -> int:
    """Returns the bytes of the mappings that the limit counts."""
    words = Path("/proc/self/statm").read_text("ascii").split()
    return int(words[5]) * resource.getpagesize()


if __name__ == "__main__":
    main()
