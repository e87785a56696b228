"""`triton.sh`, with programs in the place of Triton and MPI that say how they were called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.docker.tools import DOCKER


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name in ("tritonserver", "mpirun"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "$(basename "$0") $*"\n', encoding="utf-8")
        program.chmod(0o755)
    return tmp_path


def started(programs: Path, *models: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DOCKER / "triton.sh"), *models],
        env={"PATH": f"{programs}:{os.defpath}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_gpu_is_one_server_that_loads_what_is_named(programs: Path) -> None:
    done = started(programs, "chat", "embed")
    assert done.returncode == 0
    assert done.stdout.startswith("tritonserver --model-repository=/models")
    assert "--load-model=chat --load-model=embed" in done.stdout
    assert "--model-control-mode=explicit" in done.stdout


def test_leader_mode_starts_a_process_for_each_gpu_with_memory_of_its_own(programs: Path) -> None:
    done = started(programs, "chat", WORLD_SIZE="2")
    first, second = done.stdout.split(" : ")
    assert first.startswith("mpirun -n 1 tritonserver ")
    assert second.startswith("-n 1 tritonserver ")
    assert "shm-region-prefix-name=rank0_" in first
    assert "shm-region-prefix-name=rank1_" in second
    assert "--load-model=chat" in first
    assert "--load-model=chat" in second


@pytest.mark.parametrize(
    ("models", "environment"),
    [
        ((), {}),
        (("chat; reboot",), {}),
        (("$(reboot)",), {}),
        (("chat",), {"WORLD_SIZE": "two"}),
        (("chat",), {"WORLD_SIZE": "0"}),
    ],
)
def test_what_cannot_be_meant_is_refused(
    programs: Path, models: tuple[str, ...], environment: dict[str, str]
) -> None:
    done = started(programs, *models, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("triton.sh: ")
    assert done.stdout == ""
