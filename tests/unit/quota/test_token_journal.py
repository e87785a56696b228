"""What was used survives the process, is stored once, and waits for a store that is away."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.core.limits import Limits
from orchestrator.quota.counters import Change, Counter
from orchestrator.quota.limiter import Limiter
from orchestrator.quota.memory import MemoryCounters
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from tests.small_disk import run_on_small_disk
from tests.unit.quota.clock import DAY, Clock, caller

pytestmark = pytest.mark.slow

TOKENS = Counter("tpd", "key", "key_1", DAY)
TENANTS = Counter("tpd", "tenant", "ten_1", DAY)
Open = Callable[[], Awaitable[TokenJournal]]

APPEND_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from orchestrator.quota.counters import Change, Counter
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import Settings
from orchestrator.store.database import Database

async def main():
    settings = Settings(data_dir=Path(sys.argv[1]))
    journal = TokenJournal(settings.data_dir / "quota", Database(settings))
    await journal.start()
    counter = Counter("tpd", "key", "key_1", "20260525")
    for index in range(500):
        journal.append([Change(counter, used=1)])
        if index % 100 == 0:
            await asyncio.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def open_journal(settings: Settings, database: Database) -> AsyncIterator[Open]:
    opened: list[TokenJournal] = []

    async def one() -> TokenJournal:
        journal = TokenJournal(settings.data_dir / "quota", database)
        await journal.start()
        opened.append(journal)
        return journal

    yield one
    for journal in opened:
        await journal.close()


def files(settings: Settings) -> list[Path]:
    """Those with lines in them; a living journal has its file from the start."""
    found = sorted((settings.data_dir / "quota").glob("*.journal"))
    return [path for path in found if path.stat().st_size]


async def test_lines_of_a_killed_process_are_stored_once(
    settings: Settings, open_journal: Open
) -> None:
    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", APPEND_AND_DIE, str(settings.data_dir)],
        env=os.environ,
        check=False,
    )
    assert killed.returncode == -9
    left = files(settings)
    assert len(left) == 1
    copy = await asyncio.to_thread(left[0].read_bytes)
    first = await open_journal()
    assert await first.used(TOKENS) == 500
    first.forget_recovered()
    assert files(settings) == []
    await asyncio.to_thread(left[0].write_bytes, copy)  # as if it could not be removed
    assert await (await open_journal()).used(TOKENS) == 500


async def test_the_journal_of_a_living_process_is_left_alone(
    settings: Settings, open_journal: Open
) -> None:
    living = await open_journal()
    living.append([Change(TOKENS, used=5)])
    other = await open_journal()
    other.forget_recovered()
    assert len(files(settings)) == 1


async def test_half_a_line_at_the_end_is_left_out(settings: Settings, open_journal: Open) -> None:
    folder = settings.data_dir / "quota"
    folder.mkdir(parents=True)
    whole = b'{"owner":"own_x","line":1,"used":[["key","key_1","20260525",7]]}\n'
    await asyncio.to_thread((folder / "own_x.journal").write_bytes, whole + whole[:30])
    assert await (await open_journal()).used(TOKENS) == 7


async def test_a_store_that_is_away_gets_everything_when_it_is_back(
    settings: Settings, database: Database, open_journal: Open
) -> None:
    journal = await open_journal()
    blocker = sqlite3.connect(settings.data_dir / "orchestrator.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    for _ in range(10):
        journal.append([Change(TOKENS, used=3), Change(TENANTS, used=3)])
    await asyncio.sleep(0.2)
    for _ in range(10):
        journal.append([Change(TOKENS, used=3), Change(TENANTS, used=3)])
    blocker.rollback()
    blocker.close()
    await journal.store()
    assert await journal.used(TOKENS) == 60
    assert await journal.used(TENANTS) == 60


async def test_who_stores_beside_another_waits_until_all_is_stored(
    settings: Settings, open_journal: Open
) -> None:
    journal = await open_journal()
    for round_number in range(1, 11):
        blocker = sqlite3.connect(settings.data_dir / "orchestrator.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        journal.append([Change(TOKENS, used=3)])
        first = asyncio.create_task(journal.store())
        await asyncio.sleep(0.01)  # its group is on its way
        journal.append([Change(TOKENS, used=3)])
        others = [asyncio.create_task(journal.store()) for _ in range(3)]
        await asyncio.sleep(0.01)
        blocker.rollback()
        blocker.close()
        await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        assert await journal.used(TOKENS) == 6 * round_number
        await asyncio.gather(first, *others)


async def test_a_restart_forgets_nothing_of_the_day(
    settings: Settings, database: Database, clock: Clock
) -> None:
    who = caller(Limits(tpd=100))
    for expected in ("100", "60", "20"):
        counters = MemoryCounters(
            TokenJournal(settings.data_dir / "quota", database, now=clock), now=clock
        )
        await counters.start()
        admission = await Limiter(counters, now=clock).admit(who, "chat")
        assert admission.headers["x-ratelimit-remaining-tokens"] == expected
        if expected != "20":
            await admission.reserve(70 if expected == "100" else 60)
            await admission.settle(40)
        await counters.close()
    assert files(settings) == []


async def test_a_long_journal_is_cut_when_all_of_it_is_stored(
    settings: Settings, open_journal: Open
) -> None:
    journal = await open_journal()
    for _ in range(2000):
        journal.append([Change(TOKENS, used=1)])
    await journal.store()
    assert files(settings) == []
    journal.may_forget = lambda: False
    for _ in range(2000):
        journal.append([Change(TOKENS, used=1)])
    await journal.store()
    assert files(settings)[0].stat().st_size > 0
    assert await journal.used(TOKENS) == 4000


FILL_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from orchestrator.quota.counters import Change, Counter
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate

async def main(folder):
    settings = Settings(data_dir=folder / "data")
    await migrate(settings)
    journal = TokenJournal(settings.data_dir / "quota", Database(settings))
    await journal.start()
    try:
        with (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)) == 4096:
                pass
    except OSError:
        pass
    for _ in range(1000):
        journal.append([Change(Counter("tpd", "key", "key_1", "20260525"), used=1)])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(Path(sys.argv[1])))
"""

RECOVER = """
import asyncio, sys
from pathlib import Path
from orchestrator.quota.counters import Counter
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import Settings
from orchestrator.store.database import Database

async def main(folder):
    settings = Settings(data_dir=folder / "data")
    database = Database(settings)
    journal = TokenJournal(settings.data_dir / "quota", database)
    await journal.start()
    print(await journal.used(Counter("tpd", "key", "key_1", "20260525")))
    await journal.close()
    await database.close()

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_and_a_kill_lose_no_tokens(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (tmp_path / "fill.py").write_text(FILL_AND_DIE)
    (tmp_path / "recover.py").write_text(RECOVER)
    output = run_on_small_disk(
        disk,
        "8m",
        f'"$python" {tmp_path}/fill.py {disk}',
        f"rm {disk}/filler",
        f'"$python" {tmp_path}/recover.py {disk}',
    )
    assert output == "1000\n"
