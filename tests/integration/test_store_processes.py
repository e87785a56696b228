"""Several processes on one store: starting together, writing together, killed at any moment."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.bootstrap import bootstrap
from orchestrator.settings import Settings, StoreSettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.postgresql import PostgresServer

PATIENCE: dict[str, Any] = {
    "busy_timeout_s": 100.0,
    "connect_timeout_s": 100.0,
    "statement_timeout_s": 100.0,
}
"""Four processes at once are slow on a busy machine, and that is no failure."""

_RACE = """
import secrets, sys, pathlib
from orchestrator.store.private_files import read_or_create_private
sys.stdin.readline()
path = pathlib.Path(sys.argv[1])
print(read_or_create_private(path, lambda: secrets.token_hex(32), "data_dir"))
"""

_ADD_MANY = """
import asyncio, sys
from orchestrator.settings import load_settings
from orchestrator.keys import queries as keys, tenants
from orchestrator.store.database import Database
from orchestrator.keys.secret import load_pepper, new_key_secret

async def add(database, pepper, number):
    async with database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", 1)
        new = keys.NewKey(label=f"key {number}", tenant_id=tenant.id)
        await keys.create(session, new, new_key_secret(), pepper, 1)

async def main():
    settings = load_settings()
    database = Database(settings)
    pepper = load_pepper(settings)
    await asyncio.gather(*[add(database, pepper, number) for number in range(25)])
    await database.close()

asyncio.run(main())
"""

_START = """
import asyncio, sys
from orchestrator.settings import load_settings
from orchestrator.keys.bootstrap import bootstrap
from orchestrator.store.migrate import migrate

print("imported", flush=True)
sys.stdin.readline()
settings = load_settings()
asyncio.run(migrate(settings))
first = asyncio.run(bootstrap(settings))
print(first.secret if first else "-")
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path / "data", store=StoreSettings(**PATIENCE))
    server: PostgresServer = request.getfixturevalue("postgresql")
    store = StoreSettings(url=server.new_database(), **PATIENCE)
    return Settings(data_dir=tmp_path / "data", store=store)


def _environment(settings: Settings) -> dict[str, str]:
    """The variables of a process with these settings."""
    ours = {
        **{f"ORCHESTRATOR_STORE__{name.upper()}": str(value) for name, value in PATIENCE.items()},
        "ORCHESTRATOR_DATA_DIR": str(settings.data_dir),
        "ORCHESTRATOR_STORE__URL": settings.store.url,
        # A busy machine may be slow.
        "ORCHESTRATOR_STORE__BUSY_TIMEOUT_S": "60",
        "ORCHESTRATOR_STORE__CONNECT_TIMEOUT_S": "60",
        "ORCHESTRATOR_STORE__STATEMENT_TIMEOUT_S": "60",
    }
    return {**os.environ, **ours}


def test_processes_that_start_together_get_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    answers = set()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, _ = racer.communicate(timeout=250)
        answers.add(out.strip())
    assert answers == {path.read_text()}
    assert len(path.read_text()) == 64


def test_processes_that_migrate_together_all_succeed(settings: Settings) -> None:
    environment = _environment(settings)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "migrate"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outcomes = [process.communicate(timeout=250) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outcomes
    assert sorted(out for out, _ in outcomes) == [
        "Nothing to do.\n",
        "Nothing to do.\n",
        "Nothing to do.\n",
        "The store is now up to date.\n",
    ]
    assert [error for _, error in outcomes] == [""] * 4


def test_hundred_keys_from_four_processes_are_all_there(settings: Settings) -> None:
    environment = _environment(settings)
    subprocess.run(
        [sys.executable, "-m", "orchestrator", "migrate"],
        env=environment,
        check=True,
        capture_output=True,
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ADD_MANY], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=250)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors

    async def read() -> tuple[int, int, int]:
        database = Database(settings)
        async with database.reading() as session:
            rows = await key_queries.listed(session)
            names = await tenants.listed(session)
        await database.close()
        return len(rows), len({row.digest for row in rows}), len(names)

    assert asyncio.run(read()) == (100, 100, 1)


def _started(settings: Settings) -> subprocess.Popen[str]:
    """A process that has imported what it needs and begins when a line is written to it."""
    starter = subprocess.Popen(
        [sys.executable, "-c", _START],
        env=_environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "imported\n"
    return starter


async def test_processes_that_start_together_make_one_first_key(settings: Settings) -> None:
    starters = await asyncio.gather(*[asyncio.to_thread(_started, settings) for _ in range(4)])
    outputs = await asyncio.gather(
        *[asyncio.to_thread(starter.communicate, "go\n", 250) for starter in starters]
    )
    assert [starter.returncode for starter in starters] == [0] * 4
    # None of them showed it, so each has it to show.
    said = {out.strip() for out, _ in outputs}
    assert said == {(settings.data_dir / "first-key").read_text().strip()}


async def test_start_that_is_killed_at_any_moment_can_be_repeated(settings: Settings) -> None:
    data_dir = settings.data_dir
    for number in range(8):
        starter = await asyncio.to_thread(_started, settings)
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
        # What is left of a start takes some tenths of a second; the moments wander over them.
        await asyncio.sleep(number * 0.08)
        starter.kill()
        await asyncio.to_thread(starter.communicate)
    await migrate(settings)
    await bootstrap(settings)
    authenticator = Authenticator(settings)
    await authenticator.start()
    try:
        secret = (data_dir / "first-key").read_text().strip()
        assert (await authenticator.authenticate(secret)).admin
    finally:
        await authenticator.close()
