"""The programs that check what is under `docker/`, where this machine has them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.settings import PROJECT_ROOT
from tests import programs

DOCKER = PROJECT_ROOT / "docker"


def checked_by(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `program` says, skips the test without it."""
    # The environment's first: it has the version that the files were written for.
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or programs.program(
        program
    )
    return subprocess.run(
        [found, *arguments], capture_output=True, text=True, check=False, cwd=PROJECT_ROOT
    )
