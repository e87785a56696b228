"""Keys made and ended by the command line, as a running process sees them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.core.errors import Unauthenticated
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.bootstrap import bootstrap
from orchestrator.settings import Settings
from orchestrator.store.migrate import migrate
from tests.small_disk import run_on_small_disk


class Cli:
    def __init__(self, data_dir: Path) -> None:
        self._environment = {**os.environ, "ORCHESTRATOR_DATA_DIR": str(data_dir)}

    def __call__(self, *line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "orchestrator", *line],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "data")


async def _use_forever(authenticator: Authenticator, secret: str) -> None:
    while True:
        await authenticator.authenticate(secret)
        await asyncio.sleep(0.02)


async def test_key_of_the_command_line_works_until_it_is_revoked(cli: Cli, tmp_path: Path) -> None:
    assert (await asyncio.to_thread(cli, "migrate")).returncode == 0
    settings = Settings(data_dir=tmp_path / "data")
    authenticator = Authenticator(settings)
    await authenticator.start()
    try:
        made = await asyncio.to_thread(cli, "keys", "create", "--label", "ci", "--json")
        key = json.loads(made.stdout)
        principal = await authenticator.authenticate(key["secret"])
        assert (principal.key_id, principal.key_label, principal.admin) == (key["id"], "ci", False)

        revoked = await asyncio.to_thread(cli, "keys", "revoke", key["id"])
        assert revoked.returncode == 0, revoked.stderr
        with pytest.raises(Unauthenticated) as caught:
            async with asyncio.timeout(60):
                await _use_forever(authenticator, key["secret"])
        assert caught.value.detail_reason == "key_revoked"
    finally:
        await authenticator.close()
    rows = json.loads((await asyncio.to_thread(cli, "keys", "list", "--json")).stdout)["data"]
    assert [row["status"] for row in rows] == ["revoked"]
    assert rows[0]["last_used_at"] is not None


async def test_first_key_opens_the_door_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    for _ in range(2):
        await migrate(settings)
        await bootstrap(settings)
        authenticator = Authenticator(settings)
        await authenticator.start()
        secret = (tmp_path / "data" / "first-key").read_text().strip()
        assert (await authenticator.authenticate(secret)).admin
        await authenticator.close()


FILL_AND_START = """
import asyncio, json, shutil, sys
from pathlib import Path
from orchestrator.settings import Settings, SettingsError
from orchestrator.keys.bootstrap import bootstrap
from orchestrator.store.database import StoreError
from orchestrator.store.migrate import migrate
from tests.small_disk import run_on_small_disk

async def sentence(folder, pages_left):
    settings = Settings(data_dir=folder / "data")
    shutil.rmtree(settings.data_dir, ignore_errors=True)
    (folder / "ballast").write_bytes(b"x" * 4096 * (15 - pages_left))
    try:
        await migrate(settings)
        await bootstrap(settings)
    except (SettingsError, StoreError) as error:
        return str(error).rpartition("`")[2].strip()

found = {asyncio.run(sentence(Path(sys.argv[1]), pages_left)) for pages_left in range(16)}
print(json.dumps(sorted(found - {None})))
"""


def test_full_disk_is_one_sentence_at_every_step(tmp_path: Path) -> None:
    """Leaves a page more each time, so that the failure wanders through every step."""
    disk = tmp_path / "disk"
    (tmp_path / "fill.py").write_text(FILL_AND_START)
    output = run_on_small_disk(disk, "64k", f'"$python" {tmp_path}/fill.py {disk}')
    sentences = set(json.loads(output))
    assert sentences
    assert sentences <= {
        "cannot be written: the disk is full",
        "cannot be written: No space left on device",
        "cannot be read or written: disk error",
        "cannot be opened",
    }
