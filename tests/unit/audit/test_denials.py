"""Denials in the audit: each of the first ones, the rest counted, none lost in a crash."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.audit import log as audit_log
from orchestrator.audit.anchor import read_anchor
from orchestrator.audit.denials import FIRST_ONES, MAX_LINES, AuditTrail, Denial
from orchestrator.audit.log import Act, AuditLine
from orchestrator.settings import BooksSettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate


class Clock:
    """Wall time that stands still."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def denial(key: str = "key_1", reason: str = "key_rpm", status: int = 429) -> Denial:
    return Denial(
        status=status,
        reason=reason,
        key_id=key,
        tenant_id="ten_a",
        target="acme/chat",
        client_ip="192.0.2.7",
        request_id="req_1",
        facts={"limit": 60},
    )


@asynccontextmanager
async def opened(settings: Settings, clock: Clock | None = None) -> AsyncIterator[AuditTrail]:
    await migrate(settings)
    trail = AuditTrail(settings, now=clock or Clock())
    trail.start()
    try:
        yield trail
    finally:
        await trail.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", books=BooksSettings(commit_interval_s=0.02))


async def lines(settings: Settings) -> list[AuditLine]:
    database = Database(settings)
    async with database.reading() as session:
        found = [line async for line in audit_log.every_line(session)]
        fault, _ = await audit_log.first_fault(session)
    await database.close()
    assert fault is None
    return found


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await done():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.02)


async def test_a_flood_costs_a_few_lines_and_one_count_a_minute(settings: Settings) -> None:
    clock = Clock()
    async with opened(settings, clock) as trail:
        for _ in range(1000):
            trail.deny(denial())
        trail.deny(denial(reason="policy_denied", status=403))
        clock.now += 60
        for _ in range(FIRST_ONES + 5):
            trail.deny(denial())
    found = await lines(settings)
    single = [line for line in found if line.action == "request.denied"]
    counted = [line for line in found if line.action == "request.denied.more"]
    assert len(single) == 2 * FIRST_ONES + 1
    assert [json.loads(line.after or "")["count"] for line in counted] == [1000 - FIRST_ONES, 5]
    assert counted[0].tenant_id == "ten_a"
    assert counted[0].actor == "key:key_1"
    assert json.loads(single[0].after or "") == {
        "status": 429,
        "reason": "key_rpm",
        "limit": 60,
    }


async def test_a_flood_over_many_keys_is_bounded_too(settings: Settings) -> None:
    async with opened(settings) as trail:
        for number in range(3000):
            trail.deny(denial(f"key_{number}"))
    found = await lines(settings)
    told = sum(line.action == "request.denied" for line in found)
    counts = [
        json.loads(line.after or "")["count"]
        for line in found
        if line.action == "request.denied.more"
    ]
    assert told == MAX_LINES
    assert len(counts) <= 401
    assert told + sum(counts) == 3000


_FLOOD = """
import asyncio, sys
from orchestrator.audit.denials import AuditTrail, Denial
from orchestrator.settings import load_settings

async def main():
    trail = AuditTrail(load_settings(), now=lambda: 1_700_000_000.0)
    trail.start()
    for number in range(500):
        trail.deny(Denial(429, "key_rpm", "key_1", "ten_a", "acme/chat"))
    trail.tick()
    print("denied", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_crash_loses_neither_lines_nor_counts(settings: Settings) -> None:
    await migrate(settings)
    environment = {
        **os.environ,
        "ORCHESTRATOR_DATA_DIR": str(settings.data_dir),
        "ORCHESTRATOR_BOOKS__COMMIT_INTERVAL_S": "30",
    }
    child = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs meanwhile
        [sys.executable, "-c", _FLOOD], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "denied\n"
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert await lines(settings) == []
    async with opened(settings):

        async def all_there() -> bool:
            return len(await lines(settings)) == FIRST_ONES + 1

        await until(all_there)
    last = (await lines(settings))[-1]
    assert json.loads(last.after or "")["count"] == 500 - FIRST_ONES


async def test_the_end_of_the_audit_is_noted_in_the_data_folder(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings):
        database = Database(settings)
        async with database.unit_of_work() as session:
            await audit_log.note(session, Act("cli:x", "key.create", "key_1"))
        await database.close()
    noted = read_anchor(settings.data_dir)
    assert noted is not None
    assert noted.seq == 1
    database = Database(settings)
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text("DELETE FROM audit_entry"))
        await connection.execute(text("DELETE FROM audit_head"))
    await database.close()
    with caplog.at_level(logging.ERROR):
        async with opened(settings):
            pass
    assert "the audit was cut" in caplog.text
    assert read_anchor(settings.data_dir) == noted


async def _act(settings: Settings, target: str) -> None:
    database = Database(settings)
    async with database.unit_of_work() as session:
        await audit_log.note(session, Act("cli:x", "key.create", target))
    await database.close()


async def _cut(settings: Settings, last: int) -> None:
    """Takes the lines behind `last` away, as somebody would who can write to the database."""
    database = Database(settings)
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text("DELETE FROM audit_entry WHERE seq > :last"), {"last": last})
        await connection.execute(
            text(
                "UPDATE audit_head SET seq = :last,"
                " hash = (SELECT hash FROM audit_entry WHERE seq = :last)"
            ),
            {"last": last},
        )
    await database.close()


async def _cli(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "orchestrator", "audit", *arguments],
        env={**os.environ, "ORCHESTRATOR_DATA_DIR": str(settings.data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("later", [1, 2, 5])
async def test_a_cut_chain_stays_a_fault_until_an_operator_accepts_it(
    settings: Settings, later: int
) -> None:
    async with opened(settings):
        for number in range(4):
            await _act(settings, f"key_{number}")
    noted = read_anchor(settings.data_dir)
    assert noted is not None
    await _cut(settings, 2)
    async with opened(settings) as trail:
        # Fewer lines than were cut, as many, and more.
        for number in range(later):
            await _act(settings, f"later_{number}")
    assert read_anchor(settings.data_dir) == noted
    assert "the audit was cut or replaced" in trail.problems()[0]
    verdict = await _cli(settings, "verify")
    assert verdict.returncode == 1
    assert "audit accept --reason" in verdict.stderr

    accepted = await _cli(settings, "accept", "--reason", "backup of Monday")
    assert accepted.returncode == 0, accepted.stderr
    assert (await _cli(settings, "verify")).returncode == 0
    found = await lines(settings)
    assert (found[-1].action, len(found)) == ("audit.accept", 2 + later + 1)
    assert json.loads(found[-1].after or "")["reason"] == "backup of Monday"
    async with opened(settings) as trail:
        await _act(settings, "key_9")
    assert trail.problems() == []
    moved = read_anchor(settings.data_dir)
    assert moved is not None
    assert moved.seq == 2 + later + 2


async def test_what_is_wrong_inside_the_chain_cannot_be_accepted(settings: Settings) -> None:
    async with opened(settings):
        for number in range(3):
            await _act(settings, f"key_{number}")
    nothing = await _cli(settings, "accept", "--reason", "x")
    assert (nothing.returncode, nothing.stdout) == (
        0,
        "The audit reaches its noted end: there is nothing to accept.\n",
    )
    database = Database(settings)
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text("UPDATE audit_entry SET target = 'forged' WHERE seq = 2"))
    await database.close()
    refused = await _cli(settings, "accept", "--reason", "x")
    assert refused.returncode == 1
    assert "line 2 of the audit was altered" in refused.stderr
    assert (await _cli(settings, "accept", "--reason", " ")).returncode == 2


async def test_nothing_is_wrong_while_all_is_well(settings: Settings) -> None:
    async with opened(settings) as trail:
        trail.deny(denial())
        assert trail.problems() == []
