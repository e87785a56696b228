"""Keys made and ended by the command line, as a running process sees them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.auth import Authenticator
from orchestrator.core.errors import Unauthenticated
from orchestrator.settings import Settings, SettingsError
from orchestrator.store.bootstrap import bootstrap
from orchestrator.store.database import StoreError
from orchestrator.store.migrate import migrate


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
        ended = time.monotonic()
        with pytest.raises(Unauthenticated) as caught:
            await _use_forever(authenticator, key["secret"])
        assert caught.value.detail_reason == "key_revoked"
        assert time.monotonic() - ended <= settings.store.key_cache_s + 0.5
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if not made or made.returncode != 0:
        pytest.skip("a file system can only be mounted by the superuser")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_full_disk_is_one_sentence_at_every_step(small_disk: Path) -> None:
    """Leaves a page more each time, so that the failure wanders through every step."""
    sentences = set()
    for pages_left in range(16):
        settings = Settings(data_dir=small_disk / "data")
        shutil.rmtree(settings.data_dir, ignore_errors=True)
        (small_disk / "ballast").write_bytes(b"x" * 4096 * (15 - pages_left))
        try:
            await migrate(settings)
            await bootstrap(settings)
        except (SettingsError, StoreError) as error:
            sentences.add(str(error).rpartition("`")[2].strip())
    assert sentences
    assert sentences <= {
        "cannot be written: the disk is full",
        "cannot be written: No space left on device",
        "cannot be read or written: disk error",
        "cannot be opened",
    }
