"""The programs that check what is under `docker/`, where this machine has them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.settings import PROJECT_ROOT

DOCKER = PROJECT_ROOT / "docker"


def checked_by(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `program` says, from the environment or from the machine; skips without it."""
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        pytest.skip(f"there is no {program} on this machine")
    return subprocess.run(
        [found, *arguments], capture_output=True, text=True, check=False, cwd=PROJECT_ROOT
    )
