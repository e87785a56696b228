"""The audit: whatever is done to its lines afterwards, the first wrong one is named."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.audit import log as audit_log
from orchestrator.audit.anchor import format_head, parse_head
from orchestrator.audit.log import Act, ChainHead, Fault
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate

pytestmark = pytest.mark.slow


def act(number: int, tenant: str | None = "ten_a") -> Act:
    return Act(
        actor="cli:somebody",
        action="key.create",
        target=f"key_{number}",
        tenant_id=tenant,
        before=None,
        after={"label": f"café {number}", "models": ["*"], "rpm_limit": 60},
        client_ip="192.0.2.7",
        request_id=f"req_{number}",
    )


async def fill(database: Database, count: int) -> None:
    for number in range(count):
        async with database.unit_of_work() as session:
            await audit_log.note(session, act(number))


async def verdict(database: Database, heads: Sequence[ChainHead] = ()) -> Fault | None:
    async with database.reading() as session:
        fault, _ = await audit_log.first_fault(session, known_heads=heads)
    return fault


async def execute(database: Database, statement: str, **values: Any) -> None:
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text(statement), values)


async def test_lines_follow_each_other_and_the_chain_is_whole(each_database: Database) -> None:
    await fill(each_database, 5)
    async with each_database.unit_of_work() as session:
        await audit_log.note_all(session, [act(5), act(6)])
    async with each_database.reading() as session:
        lines = [line async for line in audit_log.every_line(session)]
        fault, end = await audit_log.first_fault(session)
    assert fault is None
    assert [line.seq for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert lines[0].previous_hash == audit_log.NO_HASH
    assert end == ChainHead(7, lines[-1].hash)
    assert parse_head(format_head(end)) == end


async def test_an_act_that_is_rolled_back_leaves_no_line(each_database: Database) -> None:
    await fill(each_database, 2)

    async def change_ones_mind() -> None:
        async with each_database.unit_of_work() as session:
            await audit_log.note(session, act(2))
            raise RuntimeError("not after all")

    with pytest.raises(RuntimeError, match="after all"):
        await change_ones_mind()
    await fill(each_database, 1)
    async with each_database.reading() as session:
        fault, end = await audit_log.first_fault(session)
    assert (fault, end.seq) == (None, 3)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("entry_id", "aud_other"),
        ("at", 1),
        ("tenant_id", "ten_b"),
        ("actor", "cli:somebody else"),
        ("action", "key.revoke"),
        ("target", "key_9"),
        ("before", "{}"),
        ("after", None),
        ("origin", '{"client_ip":"192.0.2.8","request_id":"req_2"}'),
        ("previous_hash", bytes(32)),
        ("hash", bytes(32)),
    ],
)
async def test_an_altered_column_names_its_line(
    each_database: Database, column: str, value: object
) -> None:
    await fill(each_database, 5)
    await execute(
        each_database, f"UPDATE audit_entry SET {column} = :value WHERE seq = 3", value=value
    )
    assert await verdict(each_database) == Fault(3, "was altered")


async def test_a_removed_line_is_missing(each_database: Database) -> None:
    await fill(each_database, 5)
    await execute(each_database, "DELETE FROM audit_entry WHERE seq = 2")
    assert await verdict(each_database) == Fault(2, "is missing")


async def test_lines_that_changed_places_are_named(each_database: Database) -> None:
    await fill(each_database, 5)
    for old, new in ((2, 99), (4, 2), (99, 4)):
        await execute(
            each_database, "UPDATE audit_entry SET seq = :new WHERE seq = :old", old=old, new=new
        )
    assert await verdict(each_database) == Fault(2, "was altered")


async def test_a_cut_end_is_missing_and_stays_so(each_database: Database) -> None:
    await fill(each_database, 5)
    await execute(each_database, "DELETE FROM audit_entry WHERE seq >= 4")
    expected = Fault(4, "is missing, the audit is noted to end at 5")
    assert await verdict(each_database) == expected
    # What comes later does not hide it.
    await fill(each_database, 1)
    assert await verdict(each_database) == Fault(4, "is missing")


async def test_a_chain_that_was_made_anew_is_betrayed_by_a_noted_head(
    each_database: Database,
) -> None:
    await fill(each_database, 4)
    async with each_database.reading() as session:
        noted = await audit_log.head(session)
    assert noted is not None
    await execute(each_database, "DELETE FROM audit_entry")
    await execute(each_database, "DELETE FROM audit_head")
    missing = Fault(1, "is missing, the audit is noted to end at 4")
    assert await verdict(each_database) is None
    assert await verdict(each_database, [noted]) == missing
    await fill(each_database, 6)
    assert await verdict(each_database) is None
    assert await verdict(each_database, [noted]) == Fault(
        4, "is not the line that was noted as the end of the audit then"
    )


async def test_a_chain_made_anew_to_the_very_length_that_was_noted_is_betrayed(
    each_database: Database,
) -> None:
    await fill(each_database, 4)
    async with each_database.reading() as session:
        noted = await audit_log.head(session)
        assert noted is not None
        assert await audit_log.passes_through(session, noted)
    await execute(each_database, "DELETE FROM audit_entry")
    await execute(each_database, "DELETE FROM audit_head")
    await fill(each_database, 4)
    assert await verdict(each_database, [noted]) == Fault(
        4, "is not the line that was noted as the end of the audit then"
    )
    async with each_database.reading() as session:
        assert not await audit_log.passes_through(session, noted)


async def test_a_lost_note_of_the_end_is_told(each_database: Database) -> None:
    await fill(each_database, 2)
    await execute(each_database, "DELETE FROM audit_head")
    fault = await verdict(each_database)
    assert fault is not None
    assert fault.seq == 2


async def test_an_entry_that_comes_again_is_there_once(each_database: Database) -> None:
    again = act(1)
    for _ in range(2):
        async with each_database.unit_of_work() as session:
            await audit_log.note_all(session, [again, act(2), again])
    async with each_database.reading() as session:
        lines = [line async for line in audit_log.every_line(session)]
    assert [line.target for line in lines] == ["key_1", "key_2", "key_2"]
    assert await verdict(each_database) is None


async def test_texts_that_callers_choose_get_in_as_far_as_they_are_text(
    each_database: Database,
) -> None:
    odd = Act(actor="key:key_1", action="x", target="a\ud800b\0c", after={"path": "\ud800\0"})
    async with each_database.unit_of_work() as session:
        await audit_log.note(session, odd)
    async with each_database.reading() as session:
        (line,) = await audit_log.listed(session)
    assert line.target == "a?b?c"
    assert await verdict(each_database) is None


async def test_secrets_do_not_get_in(database: Database) -> None:
    noted = Act(
        actor="key:key_1",
        action="key.create",
        after={"label": "x", "secret": "op_live_s", "inner": [{"digest": "d", "kept": 1}]},
    )
    async with database.unit_of_work() as session:
        await audit_log.note(session, noted)
    async with database.reading() as session:
        (line,) = await audit_log.listed(session)
    assert line.after == '{"inner":[{"kept":1}],"label":"x"}'
    assert line.origin is None


async def test_a_page_is_of_one_tenant_and_from_the_newest_on(each_database: Database) -> None:
    async with each_database.unit_of_work() as session:
        await audit_log.note_all(
            session, [act(number, f"ten_{'ab'[number % 2]}") for number in range(10)]
        )
    async with each_database.reading() as session:
        first = await audit_log.listed(session, tenant_id="ten_a", limit=3)
        second = await audit_log.listed(
            session, tenant_id="ten_a", limit=3, before_seq=first[-1].seq
        )
        none = await audit_log.listed(session, tenant_id="ten_a", action="key.revoke")
    assert [line.seq for line in (*first, *second)] == [9, 7, 5, 3, 1]
    assert none == []


async def test_any_flipped_byte_of_a_line_in_the_file_is_found(settings: Settings) -> None:
    """The bytes of the third line, as SQLite has them in its file, one after the other."""
    await migrate(settings)
    database = Database(settings)
    await fill(database, 5)
    async with database.reading() as session:
        lines = [line async for line in audit_log.every_line(session)]
    await database.close()
    path = settings.data_dir / "orchestrator.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    whole = path.read_bytes()
    begin = whole.index(lines[2].entry_id.encode() + lines[2].at.to_bytes(6, "big"))
    end = whole.index(lines[2].hash, begin) + 32
    for offset in range(begin, end):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        path.write_bytes(bytes(damaged))
        database = Database(settings)
        fault = await verdict(database)
        await database.close()
        assert fault is not None, offset - begin
        assert fault.seq == 3, (offset - begin, fault)


_APPEND = """
import asyncio, sys
from orchestrator.settings import load_settings
from orchestrator.audit import log as audit_log
from orchestrator.audit.log import Act
from orchestrator.store.database import Database

async def add(database, first):
    for number in range(first, first + 10):
        async with database.unit_of_work() as session:
            await audit_log.note(session, Act(actor="cli:x", action="test", target=str(number)))

async def main():
    database = Database(load_settings())
    await asyncio.gather(*[add(database, first) for first in (0, 100)])
    await database.close()

asyncio.run(main())
"""


async def test_processes_that_append_together_make_one_chain(each_settings: Settings) -> None:
    await migrate(each_settings)
    environment = {
        **os.environ,
        "ORCHESTRATOR_DATA_DIR": str(each_settings.data_dir),
        "ORCHESTRATOR_STORE__URL": each_settings.store_url,
    }
    processes = [
        subprocess.Popen(  # noqa: ASYNC220  # nothing else runs meanwhile
            [sys.executable, "-c", _APPEND], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = await asyncio.gather(
        *[asyncio.to_thread(process.communicate, None, 100) for process in processes]
    )
    assert [process.returncode for process in processes] == [0] * 4, answers
    database = Database(each_settings)
    async with database.reading() as session:
        fault, end = await audit_log.first_fault(session)
    await database.close()
    assert (fault, end.seq) == (None, 80)


def test_a_head_that_is_none_is_refused(tmp_path: Path) -> None:
    for wrong in ("", "12", "x:" + "0" * 64, "1:" + "g" * 64, "1:00"):
        with pytest.raises(ValueError):
            parse_head(wrong)
