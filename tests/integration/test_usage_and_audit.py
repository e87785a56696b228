"""Books and audit as a tenant's admin sees them, and the operator at the command line."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.books import queries as usage_queries
from orchestrator.books.spans import DAY_MS
from orchestrator.books.usage_records import StoredBooks
from orchestrator.settings import BooksSettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.tables import UsageEntry
from tests.integration.managing import Box, Manager, box_settings, running_box
from tests.integration.serving import settings_env

T0 = 1_700_006_400_000


async def _use(settings: Settings, manager: Manager, count: int, tokens: int) -> None:
    """Puts `count` requests into the books, one for each hour."""
    database = Database(settings)
    async with database.unit_of_work() as session:
        written = (_entry(manager, number, tokens) for number in range(count))
        await usage_queries.add_all(session, [entry.model_dump() for entry in written])
    await database.close()


def _entry(manager: Manager, number: int, tokens: int) -> UsageEntry:
    return UsageEntry(
        record_id=f"use_{manager.key_id}_{number}",
        at=T0 + number * 3_600_000,
        request_id=f"req_{number}",
        tenant_id=manager.tenant_id,
        key_id=manager.key_id,
        model="acme/chat",
        route="local",
        dialect="chat",
        prompt_tokens=tokens,
        completion_tokens=1,
        cached_tokens=0,
        duration_ms=10,
        outcome="ok",
    )


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await done():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.05)


async def _audit(manager: Manager, query: str = "") -> list[dict[str, Any]]:
    reply = await manager.call("GET", f"/audit{query}")
    assert reply.status_code == 200, reply.text
    lines: list[dict[str, Any]] = reply.json()["data"]
    return lines


def _cli(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    values = {"DATA_DIR": settings.data_dir, "STORE__URL": settings.store_url}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        env=settings_env(values),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
async def test_a_tenant_sees_its_own_usage_and_nothing_of_another(box: Box, prefix: str) -> None:
    acme, other = await box.manager("acme"), await box.manager("other")
    await _use(box.settings, acme, 30, 5)
    await _use(box.settings, other, 4, 1000)
    everything = (await acme.call("GET", "/usage", prefix=prefix)).json()
    assert everything["total"]["requests"] == 30
    assert everything["total"]["total_tokens"] == 180
    foreign = await acme.call("GET", f"/usage?key_id={other.key_id}", prefix=prefix)
    assert foreign.json()["total"]["requests"] == 0
    by_day = await acme.call("GET", "/usage?group_by=day,key", prefix=prefix)
    assert [(line["day"], line["key_id"], line["requests"]) for line in by_day.json()["data"]] == [
        ("2023-11-15T00:00:00Z", acme.key_id, 24),
        ("2023-11-16T00:00:00Z", acme.key_id, 6),
    ]


async def test_usage_comes_in_pages_and_as_csv(box: Box) -> None:
    acme = await box.manager("acme")
    await _use(box.settings, acme, 10, 3)
    first = (await acme.call("GET", "/usage?group_by=hour&limit=6")).json()
    assert (len(first["data"]), first["has_more"], first["next_offset"]) == (6, True, 6)
    second = (await acme.call("GET", "/usage?group_by=hour&limit=6&offset=6")).json()
    assert (len(second["data"]), second["has_more"], second["next_offset"]) == (4, False, None)
    written = await acme.call("GET", "/usage?group_by=hour&format=csv")
    assert written.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(written.text)))
    told = [*first["data"], *second["data"]]
    assert [int(row["prompt_tokens"]) for row in rows] == [one["prompt_tokens"] for one in told]
    assert [row["hour"] for row in rows] == [one["hour"] for one in told]
    accepted = await box.client.get(
        "/v1/usage?group_by=hour&limit=6",
        headers={"authorization": f"Bearer {acme.secret}", "accept": "text/csv"},
    )
    assert accepted.headers["x-next-offset"] == "6"
    assert accepted.headers["x-next-after"] == first["next_after"]
    behind = await acme.call("GET", f"/usage?group_by=hour&after={first['next_after']}")
    assert behind.json()["data"] == second["data"]
    cut = f"?start_time={T0 // 1000 + 3600}&end_time=2023-11-15T03:00:00Z"
    assert (await acme.call("GET", f"/usage{cut}")).json()["total"]["requests"] == 2


async def test_csv_without_a_limit_is_whole(tmp_path: Path) -> None:
    """More lines than one page may have; each hour has one record."""
    async with running_box(box_settings(tmp_path)) as box:
        acme = await box.manager("acme")
        await _use(box.settings, acme, 10_050, 3)
        whole = await acme.call("GET", "/usage?group_by=hour&format=csv")
        rows = list(csv.DictReader(io.StringIO(whole.text)))
        assert len(rows) == len({row["hour"] for row in rows}) == 10_050
        assert [row["hour"] for row in rows] == sorted(row["hour"] for row in rows)
        page = await acme.call("GET", "/usage?group_by=hour&format=csv&limit=7")
        assert page.text.splitlines() == whole.text.splitlines()[:8]


async def test_a_stretch_inside_an_hour_without_its_records_is_refused(tmp_path: Path) -> None:
    keep = BooksSettings(keep_records_s=30 * 86_400.0)
    settings = box_settings(tmp_path).model_copy(update={"books": keep})
    async with running_box(settings) as box:
        acme = await box.manager("acme")
        await _use(box.settings, acme, 30, 5)
        database = Database(settings)
        books = StoredBooks(settings, database)
        await books.forget_old()
        await database.close()
        assert (await acme.call("GET", "/usage")).json()["total"]["requests"] == 30
        cut = await acme.call("GET", "/usage?start_time=2023-11-15T03:10:00Z")
    assert cut.status_code == 400
    error = cut.json()["error"]
    assert error["param"] == "start_time"
    assert "2023-11-15T03:10:00Z was given" in error["message"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("tenant_id=ten_b", "tenant_id"),
        ("group_by=day&after=x", "after"),
        ("after=WyJ4Il0", "after"),
        ("group_by=key&after=WyJ4Il0&offset=1", "offset"),
        ("group_by=week", "group_by"),
        ("limit=0", "limit"),
        ("start_time=yesterday", "start_time"),
        ("format=xml", "format"),
        ("key_id=a%00b", "key_id"),
    ],
)
async def test_a_wrong_parameter_is_named(tmp_path: Path, query: str, named: str) -> None:
    async with running_box(box_settings(tmp_path)) as box:
        acme = await box.manager("acme")
        reply = await acme.call("GET", f"/usage?{query}")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == named


async def test_a_plain_key_may_read_neither_and_its_tries_are_in_the_audit(box: Box) -> None:
    acme, plain = await box.manager("acme"), await box.manager("acme", admin=False)
    other = await box.manager("other")
    for path in ("/usage", "/audit"):
        reply = await plain.call("GET", path)
        assert reply.status_code == 403
        assert reply.json()["error"]["reason"] == "admin_key_required"

    async def told() -> bool:
        return len(await _audit(acme, "?action=request.denied")) == 2

    await _until(told)
    last, first = await _audit(acme, "?action=request.denied")
    assert first["actor"] == f"key:{plain.key_id}"
    assert first["target"] == "/v1/usage"
    assert first["after"]["status"] == 403
    assert last["origin"]["request_id"].startswith("req_")
    assert await _audit(other, "?action=request.denied") == []


async def test_acts_and_denials_of_a_key_are_told_to_its_tenant_only(box: Box) -> None:
    acme, other = await box.manager("acme"), await box.manager("other")
    key = await acme.create(label="for a while", allowed_models=["acme/chat"])
    assert (await acme.call("DELETE", f"/keys/{key['id']}")).status_code == 204
    assert (await box.status(key["secret"])) == (401, "key_revoked")

    async def told() -> bool:
        return len(await _audit(acme)) == 3

    await _until(told)
    denied, revoked, created = await _audit(acme)
    assert (created["action"], created["target"]) == ("key.create", key["id"])
    assert (revoked["action"], revoked["actor"]) == ("key.revoke", f"key:{acme.key_id}")
    assert (denied["action"], denied["actor"]) == ("request.denied", f"key:{key['id']}")
    assert denied["after"]["reason"] == "key_revoked"
    assert key["secret"] not in json.dumps(await _audit(acme))
    assert await _audit(other) == []
    (oldest,) = await _audit(acme, f"?before={revoked['seq']}")
    assert oldest["id"] == created["id"]


async def test_the_command_line_checks_and_exports_the_audit(own_box: Box) -> None:
    acme = await own_box.manager("acme")
    for number in range(5):
        await acme.create(label=f"key {number}")
    whole = await asyncio.to_thread(_cli, own_box.settings, "audit", "verify", "--json")
    assert whole.returncode == 0, whole.stderr
    verdict = json.loads(whole.stdout)
    exported = await asyncio.to_thread(_cli, own_box.settings, "audit", "export")
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, verdict["lines"] + 1))
    assert verdict["head"] == f"{lines[-1]['seq']}:{lines[-1]['hash']}"
    target = next(line["seq"] for line in lines if line["action"] == "key.create") + 2
    database = Database(own_box.settings)
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(
            text("UPDATE audit_entry SET target = 'key_forged' WHERE seq = :seq"), {"seq": target}
        )
    await database.close()
    altered = await asyncio.to_thread(_cli, own_box.settings, "audit", "verify")
    assert altered.returncode == 1
    assert altered.stderr == f"orchestrator: line {target} of the audit was altered\n"


async def test_a_head_noted_outside_the_database_betrays_a_chain_made_anew(own_box: Box) -> None:
    acme = await own_box.manager("acme")
    await acme.create(label="one")
    before = await asyncio.to_thread(_cli, own_box.settings, "audit", "verify", "--json")
    head = json.loads(before.stdout)["head"]
    database = Database(own_box.settings)
    async with database.unit_of_work() as session:
        connection = await session.connection()
        await connection.execute(text("DELETE FROM audit_entry"))
        await connection.execute(text("DELETE FROM audit_head"))
    await database.close()
    after = await asyncio.to_thread(_cli, own_box.settings, "audit", "verify", "--head", head)
    assert after.returncode == 1
    assert "line 1 of the audit is missing" in after.stderr


async def test_the_command_line_sums_every_tenant_or_one(own_box: Box) -> None:
    acme, other = await own_box.manager("acme"), await own_box.manager("other")
    await _use(own_box.settings, acme, 30, 5)
    await _use(own_box.settings, other, 4, 1000)
    told = await asyncio.to_thread(_cli, own_box.settings, "usage", "--json", "--by", "day")
    document = json.loads(told.stdout)
    assert document["total"]["prompt_tokens"] == 4150
    assert sum(line["prompt_tokens"] for line in document["data"]) == 4150
    one = await asyncio.to_thread(
        _cli, own_box.settings, "usage", "--csv", "--tenant", "other", "--by", "key"
    )
    (row,) = csv.DictReader(io.StringIO(one.stdout))
    assert (row["key_id"], row["prompt_tokens"]) == (other.key_id, "4000")
    later = str((T0 + DAY_MS) // 1000)
    table = await asyncio.to_thread(
        _cli, own_box.settings, "usage", "--by", "day", "--start", later, "--key", acme.key_id
    )
    assert "2023-11-16T00:00:00Z  6 " in table.stdout
    unknown = await asyncio.to_thread(_cli, own_box.settings, "usage", "--tenant", "nobody")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "orchestrator: there is no tenant `nobody`\n",
    )
