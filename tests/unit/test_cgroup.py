"""Limits of containers, in folders as the kernel lays them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import cgroup

MIB = 1 << 20
MEMINFO = f"MemTotal: {8192 * 1024} kB\nMemFree: 1 kB\nMemAvailable: {4096 * 1024} kB\n"


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root with `/proc` and `/sys/fs/cgroup` of these contents."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO, encoding="ascii")
    (root / "proc/self/cgroup").write_text(groups, encoding="ascii")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    return root


def test_without_limits_the_machine_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/\n", {"memory.max": "max", "memory.current": "5"})
    assert cgroup.available_memory_bytes(root) == 4096 * MIB
    assert cgroup.total_memory_bytes(root) == 8192 * MIB
    assert cgroup.usable_processors(root) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/\n", {"memory.max": str(512 * MIB), "memory.current": str(200 * MIB)}),
        # A limit of a group above counts as well.
        (
            "0::/box/unit\n",
            {
                "box/unit/memory.max": "max",
                "box/unit/memory.current": "7",
                "box/memory.max": str(512 * MIB),
                "box/memory.current": str(200 * MIB),
            },
        ),
        # In a container the path may be one of the host.
        (
            "0::/../../kubepods/pod1\n",
            {"memory.max": str(512 * MIB), "memory.current": str(200 * MIB)},
        ),
        # Version 1.
        (
            "4:memory:/docker/1\n3:cpuset:/\n",
            {
                "memory/docker/1/memory.limit_in_bytes": str(512 * MIB),
                "memory/docker/1/memory.usage_in_bytes": str(200 * MIB),
                "memory/memory.limit_in_bytes": str(2**63 - 4096),
                "memory/memory.usage_in_bytes": "9",
            },
        ),
        # Pages of files do not keep anybody from memory.
        (
            "0::/\n",
            {
                "memory.max": str(512 * MIB),
                "memory.current": str(400 * MIB),
                "memory.stat": f"anon 5\ninactive_file {200 * MIB}",
            },
        ),
    ],
    ids=["own", "above", "container", "version 1", "files"],
)
def test_the_tightest_limit_of_memory_counts(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    root = machine(tmp_path, groups, files)
    assert cgroup.available_memory_bytes(root) == 312 * MIB
    assert cgroup.total_memory_bytes(root) == 512 * MIB


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/a\n", {"a/cpu.max": "max 100000", "cpu.max": "100000 100000"}, 1),
        (
            "2:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 99),
    ],
)
def test_a_quota_of_processors_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    found = cgroup.usable_processors(machine(tmp_path, groups, files))
    assert found == min(expected, len(os.sched_getaffinity(0)))
