"""A PgBouncer in transaction mode in front of a PostgreSQL of the tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.postgresql import PostgresServer, as_user, free_port, server_user
from tests.programs import postgresql_programs, program

_START_TIMEOUT_S = 60.0


class PgBouncer:
    """Two connections to the server for however many clients there are."""

    def __init__(self, server: PostgresServer) -> None:
        """Skips the test where the program is missing."""
        binary = program("pgbouncer")
        self.port = free_port()
        self._server = server
        self._folder = Path(tempfile.mkdtemp(prefix="orchestrator-pgbouncer-"))
        (self._folder / "users").write_text('"postgres" ""\n')
        config = self._folder / "config.ini"
        config.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={server.port} user=postgres\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\nauth_file = {self._folder}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 2\n"
        )
        if (user := server_user()) is not None:
            shutil.chown(self._folder, user)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*as_user(user), binary, str(config)], stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.05)

    def url(self, url: str) -> str:
        """The store URL `url` of the server, through this."""
        return url.replace(f":{self._server.port}/", f":{self.port}/")

    def remove(self) -> None:
        """Ends the program and deletes its files."""
        self._process.terminate()
        self._process.wait(timeout=60)
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        # Not the first on the path: Debian's pgbouncer brings a wrapper of `psql` without one.
        psql = str(postgresql_programs() / "psql")
        line = [psql, "-X", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        done = subprocess.run([*line, "-c", "SELECT 1"], check=False, capture_output=True)
        return done.returncode == 0
