"""What the kernel allows this process: its control groups' limits of memory and of processors.

A container, a service unit and a batch system each set such limits; neither `/proc/meminfo` nor the
number of processors shows them. Source: Linux, cgroup-v2.rst, cgroup-v1/memory.rst and
sched-bwc.rst.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")
_NO_LIMIT = 1 << 60
"""Version 1 writes a number near 2**63 for "no limit"."""
_MEMORY = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""The files with the limit and the usage of a group, in version 2 and in version 1."""


def available_memory_bytes(root: Path = _ROOT) -> int:
    """Returns what is available of the machine's memory and of every limit on this process.

    `root` is the folder of `/proc` and `/sys`. Raises: OSError without `/proc/meminfo`.
    """
    left = [max(0, limit - used) for limit, used in _memory_limits(root)]
    return min([_meminfo(root)["MemAvailable"], *left])


def total_memory_bytes(root: Path = _ROOT) -> int:
    """Returns the machine's memory, or the tightest limit on this process. Raises: OSError."""
    limits = [limit for limit, _ in _memory_limits(root)]
    return min([_meminfo(root)["MemTotal"], *limits])


def usable_processors(root: Path = _ROOT) -> int:
    """Returns how many processors threads of this process can keep busy, at least 1.

    A quota of 1.5 processors counts as 2.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [math.ceil(quota) for quota in _processor_quotas(root)]
    return max(1, min([allowed, *quotas]))


def _meminfo(root: Path) -> dict[str, int]:
    """Returns the machine's memory by the kernel's names, in bytes. Raises: OSError."""
    text = (root / "proc/meminfo").read_text(encoding="ascii")
    pairs = (line.split(":", 1) for line in text.splitlines())
    return {name: int(rest.split()[0]) * 1024 for name, rest in pairs}


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yields limit and usage, in bytes, of each group that has a limit.

    What the kernel can reclaim at once does not count as used.
    """
    for folder in _folders(root, "memory"):
        for limit_name, usage_name in _MEMORY:
            with suppress(OSError, ValueError):
                limit = int((folder / limit_name).read_text(encoding="ascii"))
                used = int((folder / usage_name).read_text(encoding="ascii"))
                if limit < _NO_LIMIT:
                    yield limit, max(0, used - _reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """Returns the bytes of file pages not read lately, which the kernel drops before a limit."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, size = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(size)
    return 0


def _processor_quotas(root: Path) -> Iterator[float]:
    for folder in _folders(root, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            # `max 100000` means no limit.
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            yield int(quota) / int(period)
        with suppress(OSError, ValueError, ZeroDivisionError):
            granted = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
            span = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
            if granted > 0:
                yield granted / span


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of this process' group and of all above it, in either version."""
    mounted = root / "sys/fs/cgroup"
    groups = ""
    with suppress(OSError):
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8")
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0":
            base = mounted
        elif controller in names.split(","):
            base = mounted / controller
        else:
            continue
        group = base / path.lstrip("/")
        # Inside a container the path may be one of the host, whose folders are not visible here.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(base):
                break
            yield folder
