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

from tests.programs import PACKAGED_POSTGRESQL, postgresql_programs, program

_SUPERUSER = "postgres"
_START_TIMEOUT_S = 60.0


class PostgresServer:
    """One server on a free port of the loopback, its files in a folder of its own."""

    def __init__(self) -> None:
        """Skips the test where the programs are missing."""
        programs = postgresql_programs()
        user = server_user()
        self._as_user = as_user(user)
        self.folder = Path(tempfile.mkdtemp(prefix="orchestrator-pg-"))
        if user is not None:
            shutil.chown(self.folder, user)
            programs = _within_reach(programs, self._as_user, self.folder)
        self._initdb, self._postgres = str(programs / "initdb"), str(programs / "postgres")
        self._psql = str(programs / "psql")
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


def server_user() -> str | None:
    """As whom PostgreSQL runs: it refuses the superuser. `None` where this user will do."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return _SUPERUSER if _SUPERUSER in names else "nobody"


def as_user(name: str | None) -> list[str]:
    """What a command line begins with to run as the user `name`."""
    if name is None:
        return []
    group = pwd.getpwnam(name).pw_gid
    return [program("setpriv"), f"--reuid={name}", f"--regid={group}", "--clear-groups"]


def _within_reach(programs: Path, as_other: list[str], folder: Path) -> Path:
    """The folder `programs`, or a copy where that user can run them: a home may be closed to it."""
    # `setpriv` starts it with rights that are gone once it loads its library.
    line = [*as_other, str(programs / "initdb"), "--version"]
    if subprocess.run(line, check=False, capture_output=True, cwd="/").returncode == 0:
        return programs
    assert programs.is_relative_to(PACKAGED_POSTGRESQL)
    libraries = PACKAGED_POSTGRESQL.with_suffix(".libs")
    for one in (PACKAGED_POSTGRESQL, libraries):
        shutil.copytree(one, folder / one.name, ignore=shutil.ignore_patterns("include", "*.a"))
    return folder / programs.relative_to(PACKAGED_POSTGRESQL.parent)


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def free_port() -> int:
    """A port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
