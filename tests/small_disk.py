"""Programs on a disk that is small enough to fill: a tmpfs in a mount namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orchestrator.settings import PROJECT_ROOT
from tests.programs import lacking, program

_MOUNT = (
    'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && for one in "$@"; do eval "$one"; done'
)


def run_on_small_disk(folder: Path, size: str, *commands: str) -> str:
    """Standard output of shell `commands`, run one after the other with `folder` as that disk.

    `$python` in them is this interpreter. A command may fail: what it must print is the caller's
    to check. Skips the test where this user may mount nothing.
    """
    unshare = _unshare()
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*unshare, "sh", "-c", _MOUNT, "sh", size, str(folder), *commands],
        check=False,
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
        env={**os.environ, "python": sys.executable, "PYTHONPATH": str(PROJECT_ROOT)},
        timeout=280,
    )
    sys.stderr.write(done.stderr)
    return done.stdout


def _unshare() -> list[str]:
    program("unshare")
    for rights in ([], ["--user", "--map-root-user"]):
        line = ["unshare", *rights, "--mount"]
        probe = [*line, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
            return line
    return lacking("this user may mount nothing, not in a namespace of its own either")
