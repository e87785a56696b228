"""CPU seconds and memory of process trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds, user and system together, and resident memory in bytes."""

    cpu_s: float
    rss_bytes: int

    def since(self, earlier: Cost) -> float:
        """CPU seconds between `earlier` and this."""
        return self.cpu_s - earlier.cpu_s


def cost(pid: int, keep: Callable[[psutil.Process], bool] = lambda _: True) -> Cost:
    """What the tree under `pid` has used so far, of the processes that `keep` accepts."""
    root = psutil.Process(pid)
    cpu_s, rss_bytes = 0.0, 0
    for process in (root, *root.children(recursive=True)):
        try:
            if not keep(process):
                continue
            times = process.cpu_times()
            cpu_s += times.user + times.system
            rss_bytes += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return Cost(cpu_s, rss_bytes)


def is_triton(process: psutil.Process) -> bool:
    """Whether `process` is a Triton server or one of its python stubs."""
    return process.name().startswith("triton")
