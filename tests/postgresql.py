"""A PostgreSQL of the tests' own, that can be stopped, killed, frozen and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SUPERUSER = "postgres"
_START_TIMEOUT_S = 60.0


class PostgresServer:
    """One server on a free port of the loopback, its files in a folder of its own."""

    def __init__(self) -> None:
        """Skips the test where the programs are missing."""
        self._initdb = _program("initdb")
        self._postgres = _program("postgres")
        self._psql = _program("psql")
        self._as_user = as_postgres()
        self.folder = Path(tempfile.mkdtemp(prefix="orchestrator-pg-"))
        if self._as_user:
            shutil.chown(self.folder, _SUPERUSER)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        subprocess.run(
            [
                *(*self._as_user, self._initdb, "-D", str(self.folder / "data"), "--no-sync"),
                *("-U", _SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C"),
            ],
            check=True,
            capture_output=True,
            cwd="/",
        )

    def start(self) -> None:
        """Runs the server and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*self._as_user, self._postgres, "-D", str(self.folder / "data")),
                    *("-p", str(self.port), "-k", str(self.folder)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"),
                ],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """What `pg_ctl stop -m immediate` does: every connection is cut, nothing is tidied up."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=60)
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The server is gone within the block, and answers again after it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server keeps its connections within the block, takes new ones, and says nothing."""
        assert self._process is not None
        server = self._process.pid
        os.kill(server, signal.SIGSTOP)
        processes = [server, *_children(server)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(processes):
                os.kill(process, signal.SIGCONT)

    def new_database(self) -> str:
        """The store URL of a database that is new and empty."""
        self._databases += 1
        name = f"store_{self._databases}"
        self.sql(f"CREATE DATABASE {name}", database="postgres")
        return f"postgresql+asyncpg://{_SUPERUSER}@127.0.0.1:{self.port}/{name}"

    def sql(self, statement: str, *, database: str) -> str:
        """What `psql` answers to `statement`, rows as lines with `|` between columns."""
        done = subprocess.run(
            [*self._psql_line(database), "-c", statement],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def remove(self) -> None:
        """Ends the server and deletes its files."""
        self.stop()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        done = subprocess.run(
            [*self._psql_line("postgres"), "-c", "SELECT 1"], check=False, capture_output=True
        )
        return done.returncode == 0

    def _psql_line(self, database: str) -> list[str]:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", _SUPERUSER, "-d", database]
        return [self._psql, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where]


def database_of(url: str) -> str:
    """The name of the database in a store URL."""
    return url.rpartition("/")[2]


def _program(name: str) -> str:
    """The program of PostgreSQL. Debian keeps most of them off the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"PostgreSQL's `{name}` is not on this machine")
    return found


def as_postgres() -> list[str]:
    """What a command line begins with to run as another user: PostgreSQL refuses the superuser."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam(_SUPERUSER)
    except KeyError:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user `{_SUPERUSER}`")
    return [_program("setpriv"), f"--reuid={_SUPERUSER}", f"--regid={_SUPERUSER}", "--clear-groups"]


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def free_port() -> int:
    """A port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
